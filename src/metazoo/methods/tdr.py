"""Task-distributionally robust data-free meta-learning: a memory of interpolated tasks and a choice of models.

Hu, Wei, Shen, Wang, Wu, Yuan and Tao, "Task-Distributionally Robust Data-Free Meta-Learning", TPAMI 2025
(arXiv:2311.14756; code `Egg-Hu/Trustworthy-DFML`). The tasks of a meta-model drift while it learns, so that it forgets;
and some models of a zoo may be bad: trained on other data than their class names suggest, or not at all. Against the
first, tasks of earlier models are kept and interpolated; against the second, a policy learns which models bring reward.
This description of the published method follows the authors' code and the abstract.

Images of a few chosen models fill the memory again whenever the reward stops rising. On such a step the prototype
logits of the meta-model are distilled from these models; on all others the loss is that of four tasks of the memory,
episodes of classes of any models or mixtures of the features of two episodes.

Options: `choice.strategy` (`policy`, `uniform`); `reward`, see below; `refill.reinversion` (recovered anew at every
refill, or drawn from images that were recovered once); `learning.slots` (insertions that the memory keeps of a class; 1
in the published runs with bad models, 20 in the others); `class_map`.

Preset `published` has the published length, generator and hyper-parameters. Preset `default` has the budget of `tgr`:
images are recovered once, in pixels, with the images of every class in one insertion; fewer steps, a higher
learning rate and a wider meta-model.

Reward `validation`, as published, is the accuracy on labelled images of other classes (option `validation`), at every
step. Such a run is not data-free, and says so in its records, its card and every table. Reward `recovered` is ours and
data-free. Some recovered images of every model are kept from learning. Episodes of the classes of one model, for models
that were not chosen at the last refill, measure whether what was learned from the chosen ones helps with the others: a
single bad model cannot pay for itself. Each accuracy counts relative to the model's own moving average, since leaving a
hard model out would otherwise look like progress. Models count alike, whether trusted or not; a group of copies of
one model counts by its size.

Faults of the published code that are corrected:

- a refill distils all four tasks from the last model (here: each from its own);
- support and query are inverted apart, so that for one shot the batch-norm statistics are those of five images;
- the log-probability of a draw without replacement is that of independent draws (here: exact; see
  `learn.model_choice`);
- the best of many test accuracies is reported (here: the last model; nothing sees test images).

Other differences:

- two episodes are interpolated only if their classes are known to differ; the code mixes any two;
- in the memory, support and query images share one ring per class (published: two, with one slot counter);
- steps without a new best are counted since the last refill;
- a refill comes early if the memory does not hold an episode;
- classes of equal name are one class of the memory, as published; `class_map` takes others;
- the meta-model gets stored batch-norm statistics, so that every protocol is possible (published: of the query batch);
- a meta-model is for prototypes (heads `nearest-mean` and alike): its own head is not trained. The MAML and ANIL
  variants, and the scheduler with a recurrent network, of which no published run makes use, are left out.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, final

from pydantic import BaseModel, ConfigDict, Field

from metazoo.bank import ResidentBanks
from metazoo.data import ImageSet, UnlabelledImages, absolute_image_source, load_images_at
from metazoo.errors import UsageError
from metazoo.learn.interpolated_learning import InterpolationConfig
from metazoo.learn.model_choice import ChoiceConfig
from metazoo.methods.base import Method, Requirements
from metazoo.models import ImageClassifier, network_without_weights
from metazoo.pipeline.class_stage import keep_classes, mark_conflicts
from metazoo.pipeline.interpolation_stage import (
    RefillConfig,
    check_interpolation,
    interpolation_plans,
    learn_by_interpolation,
)
from metazoo.pipeline.recovery_stage import recover_images
from metazoo.pipeline.reward_episodes import keep_hashes, validation_episodes
from metazoo.pipeline.shared_config import DEFAULT_BUDGET, DEFAULT_RECOVERY, ClassMap, MetaModelConfig
from metazoo.pipeline.stage_plan import StagePlan, recovery_plans
from metazoo.pipeline.workspace import Workspace
from metazoo.recover import GeneratorConfig, RecoveryBudget, RecoveryConfig
from metazoo.zoo import ClassIdentity, Zoo, identify_classes


class TdrConfig(BaseModel):
    """Options of the method with images that are recovered once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recovery: RecoveryConfig = RecoveryConfig()
    budget: RecoveryBudget = RecoveryBudget()
    refill: RefillConfig = RefillConfig(reinversion=False, images_per_class=40)
    choice: ChoiceConfig = ChoiceConfig()
    reward: Literal["recovered", "validation"] = Field(
        default="recovered",
        description="recovered: accuracy on recovered images of models that were not chosen last; validation: accuracy "
        "on labelled images, as published, so that the run is not data-free",
    )
    validation: str | None = Field(
        default=None, description="labelled images of the reward validation: a folder, a pack, or a published data set"
    )
    learning: InterpolationConfig = InterpolationConfig()
    meta_model: MetaModelConfig = MetaModelConfig()
    class_map: ClassMap = "names"

    @property
    def has_bank(self) -> bool:
        """Whether images of every model are recovered once."""
        return True

    @property
    def used_recovery(self) -> RecoveryConfig | GeneratorConfig | None:
        """Options of the recovery into the bank; None if there is none."""
        return self.recovery if self.has_bank else None


class PublishedTdrConfig(TdrConfig):
    """Options of the method with inversions at every refill."""

    recovery: GeneratorConfig = GeneratorConfig(conditional=True, fixed_latents=True)  # pyright: ignore[reportIncompatibleVariableOverride] - it is frozen
    budget: RecoveryBudget = RecoveryBudget(images_per_class=16)
    refill: RefillConfig = RefillConfig()
    reward: Literal["recovered", "validation"] = "validation"

    @property
    def has_bank(self) -> bool:
        """Whether images of every model are recovered once: for the reward, the refills or the class map."""
        return self.reward == "recovered" or not self.refill.reinversion or self.class_map is None


@final
class TaskDistributionallyRobust(Method):
    """Task-distributionally robust data-free meta-learning, the method `tdr`."""

    name = "tdr"
    title = "Task-distributionally robust data-free meta-learning"
    reference = "Hu et al., Task-Distributionally Robust Data-Free Meta-Learning, TPAMI 2025"
    presets: ClassVar[Mapping[str, BaseModel]] = {
        "default": TdrConfig(
            recovery=DEFAULT_RECOVERY,
            budget=DEFAULT_BUDGET,
            # The best of four configurations on validation classes; see benchmarks/studies/tuning.yaml.
            learning=InterpolationConfig(steps=800, learning_rate=3e-3, shots=5, slots=1),
            meta_model=MetaModelConfig(width="default"),
        ),
        "published": PublishedTdrConfig(),
    }
    paths: ClassVar[Mapping[str, Callable[[str, Path], str]]] = {"validation": absolute_image_source}

    def requires_in(self, config: TdrConfig) -> Requirements:
        """Labelled validation images for the published reward."""
        return Requirements(labelled_validation=config.reward == "validation")

    def inputs(self, zoo: Zoo, config: TdrConfig) -> Mapping[str, str]:  # noqa: D102
        images = _validation(zoo, config)
        return {} if images is None else {"validation images": images.sha256}

    def check(self, zoo: Zoo, config: TdrConfig, seed: int) -> None:  # noqa: D102
        network_without_weights(config.meta_model.spec(zoo))
        if config.validation is not None and config.reward != "validation":
            problem = f"is not used with reward {config.reward}"
            raise UsageError("validation", problem, "set reward to validation, or omit it")
        _classes(zoo, config, seed)
        images = _validation(zoo, config)
        if images is not None:
            validation_episodes(images, config.meta_model.ways, config.learning, seed, images.side, "cpu")

    def plan(  # noqa: D102
        self, zoo: Zoo, config: TdrConfig, unlabelled: UnlabelledImages | None = None
    ) -> Sequence[StagePlan]:
        recovery = recovery_plans(zoo, config.recovery, config.budget) if config.has_bank else []
        options = config.refill, config.recovery, config.choice, config.learning, config.meta_model
        return [*recovery, *interpolation_plans(zoo, *options)]

    def train(self, workspace: Workspace, config: TdrConfig) -> ImageClassifier:  # noqa: D102
        zoo = workspace.zoo
        if config.reward == "validation" and config.validation is not None:
            keep_hashes(workspace, UnlabelledImages(config.validation))
        identity = keep_classes(workspace, lambda: _classes(zoo, config, workspace.seed))
        bank = recover_images(workspace, config.recovery, config.budget) if config.has_bank else None
        if config.class_map is None and bank is not None:
            banks = ResidentBanks(bank, workspace.compute.device)
            identity = mark_conflicts(workspace, banks, identity, config.meta_model.spec(zoo).input_size)
            _check(zoo, identity, config, workspace.seed)
        options = config.refill, config.recovery, config.choice, config.learning, config.meta_model
        return learn_by_interpolation(workspace, bank, identity, *options, _validation(zoo, config))


def _classes(zoo: Zoo, config: TdrConfig, seed: int) -> ClassIdentity:
    identity = identify_classes(zoo, config.class_map)
    _check(zoo, identity, config, seed)
    return identity


def _check(zoo: Zoo, identity: ClassIdentity, config: TdrConfig, seed: int) -> None:
    check_interpolation(
        zoo,
        identity,
        config.refill,
        config.learning,
        config.meta_model,
        seed,
        budget=config.budget if config.has_bank else None,
        rewarded=config.reward == "recovered",
    )


def _validation(zoo: Zoo, config: TdrConfig) -> ImageSet | None:
    """Labelled images of the reward; None if it does not look at any."""
    if config.reward != "validation" or config.validation is None:
        return None
    return load_images_at(config.validation, config.meta_model.spec(zoo).input_size)
