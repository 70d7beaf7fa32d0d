"""The preset `published` of Task Groupings Regularization: the mechanics of the published code.

Every teacher is inverted through a generator, embedded and grouped. In every meta-iteration the drawn teachers of one
group are inverted again, the meta-model takes one step by implicit gradient regularisation, and episodes from a memory
of recovered images are replayed through second-order MAML. The published run (1200 meta-iterations, 100 teachers) takes
weeks on a few cores; three options determine the cost: `learning.iterations`, `budget.images_per_class` (600 as
published: 20 rounds of 30) and `recovery.iterations`.

Quirks of the published code, each with the option that follows or corrects it; the defaults follow, except where noted:

- its distillation uses probabilities instead of their logarithm (`learning.distillation_form`), and ignores the weight
  of that term (`learning.distillation` is used here; the published value amounts to 1);
- the gradient flows through the displacement of the regularisation, which doubles its strength
  (`learning.regularisation.differentiate_displacement`);
- images are recovered through a generator (`images`); recovery in pixels separates what is learned from how it is
  recovered;
- drawn teachers are inverted from scratch at every visit (`visits.reinversion`), and a teacher may be drawn twice in
  one iteration (`visits.replacement`);
- one crop and one flip serve a whole batch (`recovery.shared_augmentation`, `learning.shared_augmentation`);
- the embedding squares the gradient of a batch's mean loss (`probe.fisher`), normalised by that batch
  (`probe.batch_statistics`), and the similarity adds one epsilon to tensors of any scale (`grouping.similarity`); all
  entries of the probe's tensors embed (`probe.fisher_entries: null`; by default 36,864 of each stand for them);
- in its mixed presets each pass of the regularisation uses other crops (`learning.second_augmentation`, off by
  default), and crops move by 4 pixels of 84 (`recovery.shift` and `learning.shift`; by default an eighth of the side);
- the probe is an ImageNet network with a 1000-way head (`probe.architecture: imagenet-resnet34` and `probe.weights`).
  By default the run trains a probe, since ImageNet weights are made from images that the user may not have;
- classes of equal name are one class of the memory (`class_map: names`);
- at test time every batch is normalised by its own statistics: evaluate with `--batch-norm query --head fine-tune-own`.
  The meta-model also gets stored statistics, so that every other protocol is possible.

Differences from the published code:

- the last model is used (published: the model with the best accuracy on the test set);
- hooks are removed after each inversion, and fast weights after each step;
- in mixed zoos every teacher is used (published: the first 100);
- a replay ends after at most `learning.replay.most_updates` updates;
- recovered images are rounded to 8 bits before the meta-model sees them (published: truncated, in the memory only);
- the probe sees images of `probe.input_size` (published: as recovered);
- the meta-model maps [0, 1] by one mean and scale (published: by those of the data set);
- in mixed zoos every teacher is inverted at its own size, and the meta-model has one size (published: 84 pixels for
  all, and a meta-model of any size);
- a class is drawn for episodes once it has enough images (published: once it has any).
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from metazoo.bank import Bank, ResidentBanks
from metazoo.learn.replay_learning import ReplayLearningConfig
from metazoo.models import ImageClassifier
from metazoo.pipeline.class_stage import keep_classes, mark_conflicts
from metazoo.pipeline.embedding_stage import GroupingOf, check_probe, group_teachers
from metazoo.pipeline.recovery_stage import recover_images
from metazoo.pipeline.replay_stage import check_episodes, learn_by_replay
from metazoo.pipeline.shared_config import ClassMap, GroupingConfig, MetaModelConfig
from metazoo.pipeline.stage_plan import StagePlan, embedding_plans, recovery_plans, replay_plans
from metazoo.pipeline.visits import BankVisits, InvertedVisits, TeacherVisits, VisitConfig
from metazoo.pipeline.workspace import Workspace
from metazoo.recover import GeneratorConfig, RecoveryBudget, RecoveryConfig
from metazoo.taskspace import ProbeConfig
from metazoo.zoo import ClassIdentity, Zoo, identify_classes


class PublishedTgrConfig(BaseModel):
    """Options of TGR as published."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: Literal["generator", "pixels"] = Field(
        default="generator",
        description="pixels: images are recovered by the options `pixels`, many times faster, and those of `recovery` "
        "are unused; generator: the reverse. Visits with reinversion have no guides",
    )
    recovery: GeneratorConfig = GeneratorConfig()
    pixels: RecoveryConfig = RecoveryConfig()
    budget: RecoveryBudget = RecoveryBudget(images_per_class=600)
    probe: ProbeConfig = ProbeConfig(fisher="published", fisher_images=3000, batch_statistics=True)
    grouping: GroupingConfig = GroupingConfig(strategy="spectral", similarity="published")
    visits: VisitConfig = VisitConfig()
    learning: ReplayLearningConfig = ReplayLearningConfig()
    meta_model: MetaModelConfig = MetaModelConfig()
    class_map: ClassMap = "names"

    @model_validator(mode="after")
    def _check(self) -> "PublishedTgrConfig":
        self.grouping.check_update(self.learning.update)
        return self

    @property
    def used_recovery(self) -> GeneratorConfig | RecoveryConfig:
        """Options of recovery, in pixels or through the generator."""
        return self.pixels if self.images == "pixels" else self.recovery

    @property
    def images_kept(self) -> tuple[int, str]:
        """Upper bound of a model's images per class that episodes are drawn from, and the option that raises it."""
        if self.visits.reinversion:
            return self.learning.replay.slots * self.visits.images_per_class, "visits.images_per_class"
        return self.budget.images_per_class, "budget.images_per_class"


def check_config(zoo: Zoo, config: PublishedTgrConfig) -> ClassIdentity:
    """Check the class map and the sizes of episodes before any work, and return the classes.

    Raises:
        UsageError: the class map is wrong, or no episode can be drawn.
    """
    identity = identify_classes(zoo, config.class_map)
    check_episodes(zoo, identity, config.images_kept, config.learning, config.meta_model)
    return identity


def plan_as_published(zoo: Zoo, config: PublishedTgrConfig) -> list[StagePlan]:
    """Plan the stages of `train_as_published`."""
    return [
        *recovery_plans(zoo, config.used_recovery, config.budget),
        *(embedding_plans(zoo, config.probe, config.budget) if config.grouping.by_distances else ()),
        *replay_plans(zoo, config.visits, config.used_recovery, config.budget, config.learning, config.meta_model),
    ]


def train_as_published(workspace: Workspace, config: PublishedTgrConfig) -> ImageClassifier:
    """Recover images, group the teachers, and learn by meta-iterations."""
    identity = keep_classes(workspace, lambda: check_config(workspace.zoo, config))
    if config.grouping.by_distances:
        check_probe(workspace, config.probe)
    section = "pixels" if config.images == "pixels" else "recovery"
    bank = recover_images(workspace, config.used_recovery, config.budget, f"raise {section}.iterations")
    grouping_of, identity = _group_and_compare(workspace, bank, identity, config)
    grouping = grouping_of(range(len(workspace.zoo)))

    def visits_for(classifier: ImageClassifier) -> TeacherVisits:
        shared = workspace, grouping, identity, config.visits, classifier.spec
        if config.visits.reinversion:
            return InvertedVisits(*shared, config.used_recovery)
        return BankVisits(*shared, [bank.images_of(contract.name) for contract in workspace.zoo])

    return learn_by_replay(workspace, visits_for, config.learning, config.meta_model)


def _group_and_compare(
    workspace: Workspace, bank: Bank, identity: ClassIdentity, config: PublishedTgrConfig
) -> tuple[GroupingOf, ClassIdentity]:
    """Group the models and, without a class map, find equal classes; the images are freed on return."""
    banks = ResidentBanks(bank, workspace.compute.device)
    grouping_of = group_teachers(workspace, banks, config.probe, config.grouping)
    if config.class_map is None:
        identity = mark_conflicts(workspace, banks, identity, config.probe.input_size)
        check_episodes(workspace.zoo, identity, config.images_kept, config.learning, config.meta_model)
    return grouping_of, identity
