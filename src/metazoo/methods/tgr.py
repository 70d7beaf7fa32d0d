"""Task Groupings Regularization: data-free meta-learning with heterogeneous pre-trained models.

Wei, Hu, Shen, Wang, Li, Yuan and Tao, ICML 2024 (arXiv:2405.16560). Recover images from every model by inversion, embed
the models in a task space by Fisher information, group *dissimilar* models, and inside each group regularise the
meta-gradient so that conflicting tasks agree.

The preset `default` differs from the published procedure where that is wasteful or transfers little:

- the joint features of the whole zoo are distilled from images that are recovered once; see
  `metazoo.pipeline.distillation` (published: a member's own class probabilities on images that a generator recovers
  anew for every step, then MAML on recovered episodes, which transfers little at budgets of minutes);
- the probe is trained on the bank (published: an ImageNet network), and groups are `dispersed` (published: spectral);
- the meta-model is twice as wide as published, with 64 channels;
- the displacement of implicit gradient regularisation is detached, so the published 1e-3 corresponds to 2e-3 here, and
  one step in five is regularised, five times as strongly.

The method `zoo-distillation` is the same without groups and regularisation, so a comparison shows what these add.

The preset `thorough` is `default` with twice the recovered images and twice the steps, in about twice the time; `quick`
gives a first look at a small zoo in about a minute.

The preset `published` is the published procedure with its quirks; see `tgr_published`.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, final

from pydantic import BaseModel, model_validator

from metazoo.bank import ResidentBanks
from metazoo.data import UnlabelledImages
from metazoo.features.embedders import MetaModelModule
from metazoo.learn.learning_config import LearningConfig, RegularisationConfig
from metazoo.methods.base import Method
from metazoo.methods.tgr_published import PublishedTgrConfig, check_config, plan_as_published, train_as_published
from metazoo.models import network_without_weights
from metazoo.pipeline.distillation import ZooDistillationConfig, distil, distillation_plans, distillation_presets
from metazoo.pipeline.embedding_stage import GroupingOf, check_probe, group_teachers
from metazoo.pipeline.shared_config import GroupingConfig
from metazoo.pipeline.stage_plan import StagePlan, embedding_plans
from metazoo.pipeline.workspace import Workspace
from metazoo.taskspace import ImageNetProbe, ProbeConfig, try_strategy
from metazoo.taskspace.probe import probe_spec
from metazoo.zoo import Zoo


class TgrConfig(ZooDistillationConfig):
    """Options of TGR."""

    learning: LearningConfig = LearningConfig()  # pyright: ignore[reportIncompatibleVariableOverride] - it is frozen
    probe: ProbeConfig = ProbeConfig()
    grouping: GroupingConfig = GroupingConfig()

    @model_validator(mode="after")
    def _check(self) -> "TgrConfig":
        self.grouping.check_update(self.learning.update)
        return self

    @property
    def grouping_side(self) -> int | None:
        """Side of the images by which teachers are grouped; None if the groups need none."""
        return self.probe.input_size if self.grouping.by_distances else None


_PRESETS = distillation_presets(TgrConfig(learning=LearningConfig(regularisation=RegularisationConfig(every=5))))


@final
class TaskGroupingsRegularization(Method):
    """Task Groupings Regularization, the method `tgr`."""

    name = "tgr"
    title = "Task Groupings Regularization"
    reference = "Wei et al., Task Groupings Regularization, ICML 2024"
    presets: ClassVar[Mapping[str, BaseModel]] = {
        **_PRESETS,
        "quick": _PRESETS["quick"].model_copy(update={"probe": ProbeConfig(steps=60)}),
        "published": PublishedTgrConfig(),
    }

    def check(self, zoo: Zoo, config: TgrConfig | PublishedTgrConfig, seed: int) -> None:  # noqa: D102
        network_without_weights(config.meta_model.spec(zoo))
        try_strategy(config.grouping.strategy, len(zoo), config.grouping.affinity)
        if config.grouping.by_distances and config.probe.trained:
            network_without_weights(probe_spec(config.probe, sum(contract.spec.classes for contract in zoo)))
        elif config.grouping.by_distances:
            ImageNetProbe.load(config.probe.weights)
        if isinstance(config, PublishedTgrConfig):
            check_config(zoo, config)

    def plan(  # noqa: D102
        self, zoo: Zoo, config: TgrConfig | PublishedTgrConfig, unlabelled: UnlabelledImages | None = None
    ) -> Sequence[StagePlan]:
        if isinstance(config, PublishedTgrConfig):
            return plan_as_published(zoo, config)
        embedding = embedding_plans(zoo, config.probe, config.budget) if config.grouping.by_distances else []
        return distillation_plans(
            zoo, config, config.learning, unlabelled, embedding, config.grouping_side, config.grouping
        )

    def train(  # noqa: D102
        self, workspace: Workspace, config: TgrConfig | PublishedTgrConfig
    ) -> MetaModelModule:
        if isinstance(config, PublishedTgrConfig):
            return train_as_published(workspace, config)
        if config.grouping.by_distances:
            check_probe(workspace, config.probe)

        def group(kept: Workspace, banks: ResidentBanks) -> GroupingOf:
            return group_teachers(kept, banks, config.probe, config.grouping)

        return distil(workspace, config, config.learning, group, config.grouping_side)
