"""Task Groupings Regularization: data-free meta-learning with heterogeneous pre-trained models.

Wei, Hu, Shen, Wang, Li, Yuan and Tao, ICML 2024 (arXiv:2405.16560). Recover images from every model by inversion, embed
the models in a task space by Fisher information, group *dissimilar* models, and inside each group regularise the
meta-gradient so that conflicting tasks agree.

The preset `default` departs from the published procedure where that is wasteful or does not carry (the mathematics of
the steps is in the rooms that do them):

- every model is recovered once, in pixels, into a bank (published: again and again, through a generator), with another
  model of its domain as a guide where there is one (published: alone); see `metazoo.recover.guides`;
- the probe is trained on the bank (published: an ImageNet network), and groups are `dispersed` (published: spectral);
- a member's loss asks for what the whole zoo says of the member's images: all teachers' features (the *joint
  features*), their cosines between images, and their class probabilities. That carries over to unseen classes
  (published: the member's own class probabilities, then MAML on recovered episodes, which carries little over at
  budgets of minutes);
- of a zoo of several kinds of images the meta-model goes on to learn from each alone, and a new task takes the features
  of the specialists whose kind it looks like (published: one network for all); see `metazoo.features.domain_router`;
- the meta-model is twice as wide as published, with 64 channels;
- the displacement of implicit gradient regularisation is detached, so the published 1e-3 corresponds to 2e-3 here, and
  one step in five is regularised, five times as strongly.

Which teachers a step learns from can be learned too, on a small labelled validation set; see `selection`.

The preset `thorough` is `default` with twice the recovered images and twice the steps, in about twice the time.

The preset `reference` is the published procedure, quirks included; see `tgr_reference`.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from metazoo.bank import ResidentBanks
from metazoo.execution.progress import message
from metazoo.features.embedders import MultiDomainClassifier
from metazoo.learn.learning_config import LearningConfig, RegularisationConfig
from metazoo.methods.base import Method
from metazoo.methods.tgr_reference import PublishedTgrConfig, check_config, plan_as_published, train_as_published
from metazoo.models import ImageClassifier, network_without_weights
from metazoo.pipeline.audit_stage import DomainConfig, TrustConfig, apply_trust, find_kinds, specialised
from metazoo.pipeline.domain_models import with_domain_models
from metazoo.pipeline.embedding_stage import check_probe, embed_and_group
from metazoo.pipeline.learning_stage import learn_from_groups
from metazoo.pipeline.recovery_stage import images_from
from metazoo.pipeline.selection_stage import SelectionConfig, Validation, load_validation
from metazoo.pipeline.shared_config import GroupingConfig, ImageSourceConfig, MetaModelConfig
from metazoo.pipeline.stage_plan import (
    StagePlan,
    embedding_plans,
    group_learning_plans,
    per_domain_plans,
    recovery_plans,
    selection_plans,
    trust_plans,
)
from metazoo.pipeline.workspace import Workspace
from metazoo.recover import RecoveryBudget, RecoveryConfig
from metazoo.taskspace import FixedGrouping, ImageNetProbe, ProbeConfig
from metazoo.zoo import Zoo


class TgrConfig(BaseModel):
    """All options of a run by TGR."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: ImageSourceConfig = ImageSourceConfig()
    recovery: RecoveryConfig = Field(default=RecoveryConfig(), description="not used with another source")
    budget: RecoveryBudget = RecoveryBudget()
    trust: TrustConfig = Field(default=TrustConfig(), description="of images without classes nothing is judged")
    domains: DomainConfig = Field(default=DomainConfig(), description="of images without classes all are one kind")
    selection: SelectionConfig = Field(default=SelectionConfig(), description="off as long as it has no validation set")
    probe: ProbeConfig = ProbeConfig()
    grouping: GroupingConfig = GroupingConfig()
    learning: LearningConfig = LearningConfig()
    meta_model: MetaModelConfig = MetaModelConfig()

    @model_validator(mode="after")
    def _check(self) -> "TgrConfig":
        if self.trust.mode != "keep" and not self.source.shows_classes:
            raise ValueError(f"trust.mode {self.trust.mode} needs recovered images, not source.kind {self.source.kind}")
        return self


_DEFAULT = TgrConfig(
    recovery=RecoveryConfig(guide_all=True),
    domains=DomainConfig(specialise=0.7, learning_rate=1.0),
    learning=LearningConfig(regularisation=RegularisationConfig(every=5)),
    meta_model=MetaModelConfig(width="default"),
)


@final
class TaskGroupingsRegularization(Method):
    """The method as users name it."""

    name = "tgr"
    title = "Task Groupings Regularization"
    reference = "Wei et al., Task Groupings Regularization, ICML 2024"
    presets: ClassVar[Mapping[str, BaseModel]] = {
        "default": _DEFAULT,
        "thorough": _DEFAULT.model_copy(
            update={
                "budget": RecoveryBudget(images_per_class=120),
                "learning": _DEFAULT.learning.model_copy(update={"steps": 6000}),
            }
        ),
        "reference": PublishedTgrConfig(),
    }

    def check(self, zoo: Zoo, config: TgrConfig | PublishedTgrConfig, seed: int) -> None:  # noqa: D102
        spec = config.meta_model.spec(zoo)
        network_without_weights(spec)
        if not config.probe.trained:
            ImageNetProbe.load(config.probe.weights)
        if isinstance(config, PublishedTgrConfig):
            check_config(zoo, config)
        else:
            Validation.load(config.selection, spec.input_size, seed)

    def plan(self, zoo: Zoo, config: TgrConfig | PublishedTgrConfig) -> Sequence[StagePlan]:  # noqa: D102
        if isinstance(config, PublishedTgrConfig):
            return plan_as_published(zoo, config)
        spec, shows_classes = config.meta_model.spec(zoo), config.source.shows_classes
        return [
            *recovery_plans(zoo, config.recovery, config.budget, config.source),
            *(trust_plans(zoo, config.trust, config.budget, spec.input_size) if shows_classes else []),
            *embedding_plans(zoo, config.probe, config.budget),
            *group_learning_plans(zoo, config.learning, config.meta_model),
            *selection_plans(config.selection, config.learning.steps, spec),
            *(per_domain_plans(zoo, config.learning, config.meta_model, config.domains) if shows_classes else []),
        ]

    def train(  # noqa: D102
        self, workspace: Workspace, config: TgrConfig | PublishedTgrConfig
    ) -> ImageClassifier | MultiDomainClassifier:
        if isinstance(config, PublishedTgrConfig):
            return train_as_published(workspace, config)
        check_probe(workspace, config.probe)
        side = config.meta_model.spec(workspace.zoo).input_size
        validation = load_validation(workspace, config.selection, side)
        bank = images_from(config.source, workspace, config.recovery, config.budget)
        banks = ResidentBanks(bank, workspace.compute.device)
        weights, kinds = None, {}
        if config.source.shows_classes:
            workspace, weights = apply_trust(workspace, banks, config.trust, side)
            kinds = find_kinds(workspace, config.domains)
        more = specialised(config.learning, config.domains)
        if kinds:
            message(
                f"note: {len(kinds)} kinds of images, so {more.steps} steps of learning more for each: "
                f"{', '.join(kinds)}"
            )
        partition = embed_and_group(workspace, banks, config.probe, config.grouping)
        classifier = learn_from_groups(
            workspace, banks, FixedGrouping(partition), config.learning, config.meta_model, weights, validation
        )
        if not kinds:
            return classifier

        def learn_domain(part: Workspace, own: Sequence[int], start: ImageClassifier, stage: str) -> ImageClassifier:
            own_weights = None if weights is None else weights[list(own)]
            grouping = FixedGrouping(partition.within(own))
            return learn_from_groups(part, banks, grouping, more, start, own_weights, stage=stage)

        return with_domain_models(workspace, banks, classifier, kinds, learn_domain, config.domains.images, weights)
