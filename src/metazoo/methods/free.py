"""FREE: faster and better data-free meta-learning.

Wei, Hu, Wang, Shen, Yuan and Tao, CVPR 2024 (arXiv:2405.00984). A meta-generator recovers images from any model in five
steps (FIVE), the meta-model follows the models one after the other and then moves towards where that led, which aligns
their gradients (BELL), and recovered images of classes of different models are replayed as episodes.

The preset `published` is the procedure of the authors' code: 999 meta-iterations, of which 19 warm up. What it does
differently:

- its distillation and its adversarial term use probabilities where their logarithm belongs. Here they are divergences;
  `learning.distillation_form: published` follows the distillation;
- the outer Adam of the meta-generator is made anew in every iteration, so that the generator takes steps of equal
  length in every weight; followed by default (`generator.outer_step: published`). `persistent` keeps its moments, and
  `reptile` moves towards the adapted copies instead;
- only the images of an iteration's last model enter its memory; here those of all visited models do;
- the images of a model are those of the step with the lowest loss (published: of the last step, against the intention
  of the code);
- the last meta-model is used (published: the one with the best accuracy on the test set);
- models of several architectures take part side by side (published: one architecture in an iteration, whose four visits
  are to one model with the class lists of four);
- all images have the size of the meta-model, rounded up to a multiple of 4, and models resize them to their own;
- recovered images are rounded to 8 bits before the meta-model sees them, a class is drawn for episodes once it has
  enough images (published: once it has any), and a replay ends after at most `learning.replay.most_updates` updates;
- the meta-model maps [0, 1] by one mean and scale (published: by those of the data set) and gets stored batch-norm
  statistics in the end. As published, every batch is normalised by its own: evaluate with `--batch-norm query --head
  fine-tune-own`;
- images are made in the end, from the last meta-generator, for health figures and contact sheets; only for models with
  the strictest contract of the zoo, since the meta-generator has learned from all of them.

The other presets have about the cost of the preset `default` of `tgr`. `default` recovers images in pixels, once, into
the bank, so that a comparison shows how FREE learns and not how fast it recovers. `generated` uses the meta-generator.
Both have a meta-model of 64 channels (published: 32) and replay episodes by prototypes (published: MAML with a learning
rate of 0.01, which learns hardly anything within so few iterations).

The alignment of gradients is the update rule `reptile` (`learning.update`), which `tgr` can use as well. FREE has no
groups: every visit is drawn from all models.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, final

from pydantic import BaseModel, ConfigDict, Field

from metazoo.bank import ResidentBanks
from metazoo.data import UnlabelledImages
from metazoo.learn.learning_config import RegularisationConfig
from metazoo.learn.replay_learning import ReplayConfig, ReplayLearningConfig
from metazoo.methods.base import Method
from metazoo.models import ImageClassifier, network_without_weights
from metazoo.pipeline.class_stage import keep_classes, mark_conflicts
from metazoo.pipeline.generated_visits import GeneratedVisits, generated_visit_plans
from metazoo.pipeline.recovery_stage import recover_images
from metazoo.pipeline.replay_stage import check_episodes, learn_by_replay
from metazoo.pipeline.shared_config import DEFAULT_BUDGET, DEFAULT_RECOVERY, ClassMap, MetaModelConfig
from metazoo.pipeline.stage_plan import StagePlan, recovery_plans, replay_plans
from metazoo.pipeline.visits import BankVisits, TeacherVisits, VisitConfig, VisitDrawConfig
from metazoo.pipeline.workspace import Workspace
from metazoo.recover import GeneratorConfig, MetaGeneratorConfig, RecoveryBudget, RecoveryConfig
from metazoo.taskspace import one_group
from metazoo.zoo import ClassIdentity, Zoo, identify_classes

_LEARNING = ReplayLearningConfig(
    iterations=980,
    cross_entropy=0.0,
    distillation_form="divergence",
    regularisation=RegularisationConfig(kind="mean"),
    update="reptile",
    teachers_per_update=1,
    replay=ReplayConfig(episodes_per_update=10, patience=10),
)


class FreeConfig(BaseModel):
    """Options of FREE on images in the bank, which are recovered once, in pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recovery: RecoveryConfig = RecoveryConfig()
    budget: RecoveryBudget = RecoveryBudget()
    visits: VisitDrawConfig = VisitDrawConfig(images_per_class=20)
    learning: ReplayLearningConfig = _LEARNING
    meta_model: MetaModelConfig = MetaModelConfig()
    class_map: ClassMap = "names"

    @property
    def images_kept(self) -> tuple[int, str]:
        """Upper bound of a model's images per class that episodes are drawn from, and the option that raises it."""
        return self.budget.images_per_class, "budget.images_per_class"


class GeneratedFreeConfig(BaseModel):
    """Options of FREE on images that a meta-generator makes for every visit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    generator: MetaGeneratorConfig = MetaGeneratorConfig()
    visits: VisitDrawConfig = VisitDrawConfig(images_per_class=20)
    learning: ReplayLearningConfig = _LEARNING
    meta_model: MetaModelConfig = MetaModelConfig()
    class_map: str = Field(
        default="names", description="names: classes of one name are equal; a file: a list of equal classes"
    )

    @property
    def images_kept(self) -> tuple[int, str]:
        """Upper bound of a model's images per class that episodes are drawn from, and the option that raises it."""
        return self.learning.replay.slots * self.visits.images_per_class, "visits.images_per_class"


# The best of four configurations on validation classes; see benchmarks/studies/tuning.yaml.
_SHORT = _LEARNING.model_copy(
    update={"iterations": 30, "replay": _LEARNING.replay.model_copy(update={"learner": "protonet"})}
)
_WIDE = MetaModelConfig(width="default")


@final
class Free(Method):
    """Faster and better data-free meta-learning, the method `free`."""

    name = "free"
    title = "FREE"
    reference = "Wei et al., FREE: Faster and Better Data-Free Meta-Learning, CVPR 2024"
    presets: ClassVar[Mapping[str, BaseModel]] = {
        "default": FreeConfig(
            recovery=DEFAULT_RECOVERY,
            budget=DEFAULT_BUDGET,
            learning=_SHORT,
            meta_model=_WIDE,
        ),
        "generated": GeneratedFreeConfig(learning=_SHORT, meta_model=_WIDE),
        "published": GeneratedFreeConfig(),
    }

    def check(self, zoo: Zoo, config: FreeConfig | GeneratedFreeConfig, seed: int) -> None:  # noqa: D102
        network_without_weights(config.meta_model.spec(zoo))
        _classes(zoo, config)

    def plan(  # noqa: D102
        self, zoo: Zoo, config: FreeConfig | GeneratedFreeConfig, unlabelled: UnlabelledImages | None = None
    ) -> Sequence[StagePlan]:
        learning, meta_model = config.learning, config.meta_model
        if isinstance(config, GeneratedFreeConfig):
            return generated_visit_plans(zoo, config.visits, config.generator, learning, meta_model)
        visits = VisitConfig(**config.visits.model_dump(), reinversion=False)
        return [
            *recovery_plans(zoo, config.recovery, config.budget),
            *replay_plans(zoo, visits, GeneratorConfig(), config.budget, learning, meta_model),
        ]

    def train(self, workspace: Workspace, config: FreeConfig | GeneratedFreeConfig) -> ImageClassifier:  # noqa: D102
        zoo, side = workspace.zoo, config.meta_model.spec(workspace.zoo).input_size
        identity = keep_classes(workspace, lambda: _classes(zoo, config))
        bank = None
        if isinstance(config, FreeConfig):
            bank = recover_images(workspace, config.recovery, config.budget)
            if config.class_map is None:
                banks = ResidentBanks(bank, workspace.compute.device)
                identity = mark_conflicts(workspace, banks, identity, side)
                check_episodes(zoo, identity, config.images_kept, config.learning, config.meta_model)

        def visits_for(classifier: ImageClassifier) -> TeacherVisits:
            shared = workspace, one_group(len(zoo)), identity, config.visits
            if isinstance(config, GeneratedFreeConfig):
                return GeneratedVisits(*shared, config.generator, classifier)
            assert bank is not None
            return BankVisits(*shared, classifier.spec, [bank.images_of(contract.name) for contract in zoo])

        return learn_by_replay(workspace, visits_for, config.learning, config.meta_model)


def _classes(zoo: Zoo, config: FreeConfig | GeneratedFreeConfig) -> ClassIdentity:
    """Classes of all models, after a check that episodes of them can be drawn."""
    identity = identify_classes(zoo, config.class_map)
    check_episodes(zoo, identity, config.images_kept, config.learning, config.meta_model)
    return identity
