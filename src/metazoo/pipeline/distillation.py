"""All stages of distillation of a zoo; the methods that share them differ in how they group the teachers.

- The images of every model are recovered once, in pixels, into a bank. Another model of its domain is a guide where
  there is one; see `metazoo.recover.guides`.
- The loss of a teacher compares the meta-model with the whole zoo on the images of that teacher: the features of all
  teachers (the *joint features*), their cosines between images, and their class probabilities.
- Unlabelled images of the user are learned from too, or instead; see `metazoo.pipeline.unlabelled_stage`.
- In a zoo of several domains the meta-model continues to learn from each domain alone, and a new task uses the
  features of the domains that it resembles; see `metazoo.features.domain_router`.
"""

from collections.abc import Callable, Sequence

from pydantic import BaseModel, ConfigDict

from metazoo.bank import ResidentBanks
from metazoo.data import UnlabelledImages
from metazoo.execution.progress import message
from metazoo.features.embedders import MetaModelModule
from metazoo.learn.learning_config import DistillationConfig, LearningConfig
from metazoo.models import ImageClassifier
from metazoo.pipeline.audit_stage import (
    DomainConfig,
    TrustConfig,
    apply_trust,
    find_merged_domains,
    per_domain_learning,
)
from metazoo.pipeline.domain_models import with_domain_models
from metazoo.pipeline.embedding_stage import GroupingOf
from metazoo.pipeline.learning_stage import learn_from_groups
from metazoo.pipeline.recovery_stage import recover_images
from metazoo.pipeline.shared_config import (
    BUCKET_PIXELS,
    DEFAULT_BUDGET,
    DEFAULT_RECOVERY,
    GroupingConfig,
    MetaModelConfig,
)
from metazoo.pipeline.stage_plan import StagePlan, group_learning_plans, per_domain_plans, recovery_plans, trust_plans
from metazoo.pipeline.unlabelled_stage import (
    UnlabelledConfig,
    copy_unlabelled,
    labelled_by_models,
    shared_images,
    unlabelled_plans,
)
from metazoo.pipeline.workspace import Workspace
from metazoo.recover import RecoveryBudget, RecoveryConfig
from metazoo.zoo import Zoo


class ZooDistillationConfig(BaseModel):
    """Options of distillation of a zoo."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recovery: RecoveryConfig = RecoveryConfig()
    budget: RecoveryBudget = RecoveryBudget()
    unlabelled: UnlabelledConfig = UnlabelledConfig()
    trust: TrustConfig = TrustConfig()
    domains: DomainConfig = DomainConfig()
    learning: DistillationConfig = DistillationConfig()
    meta_model: MetaModelConfig = MetaModelConfig()


def distillation_presets(base: ZooDistillationConfig) -> dict[str, BaseModel]:
    """Presets `default`, `thorough` and `quick` of a method; `base` has the values of its other options.

    `thorough` uses twice the images and steps, `quick` few of both, for a first look.
    """
    default = base.model_copy(
        update={
            "recovery": DEFAULT_RECOVERY,
            "budget": DEFAULT_BUDGET,
            "domains": DomainConfig(specialise=0.7, learning_rate=1.0),
            "meta_model": MetaModelConfig(width="default"),
        }
    )
    thorough = {
        "budget": RecoveryBudget(images_per_class=120, bucket_pixels=BUCKET_PIXELS),
        "learning": base.learning.model_copy(update={"steps": 6000}),
    }
    quick = {
        "recovery": RecoveryConfig(iterations=60, learning_rate=0.1),
        "budget": RecoveryBudget(images_per_class=30, bucket_pixels=BUCKET_PIXELS),
        "learning": base.learning.model_copy(update={"steps": 250, "views": 1500, "steps_per_views": 125}),
        "meta_model": MetaModelConfig(),
    }
    return {
        "default": default,
        "thorough": default.model_copy(update=thorough),
        "quick": default.model_copy(update=quick),
    }


def distillation_plans(
    zoo: Zoo,
    config: ZooDistillationConfig,
    learning: LearningConfig,
    unlabelled: UnlabelledImages | None = None,
    embedding: Sequence[StagePlan] = (),
    grouping_side: int | None = None,
    grouping: GroupingConfig | None = None,
) -> list[StagePlan]:
    """Plan the stages of `distil`.

    Args:
        zoo: the teachers.
        config: options of all stages except learning and grouping.
        learning: options of learning from the groups.
        unlabelled: unlabelled images; None if there are none.
        embedding: plans of the embedding stage.
        grouping_side: side of the images by which teachers are grouped; None if that needs none.
        grouping: options of groups that may change while the meta-model learns, which makes steps longer; None: fixed.
    """
    side, alone = config.meta_model.spec(zoo).input_size, unlabelled is not None and config.unlabelled.share == 1
    plans = []
    if unlabelled is not None:
        labels = config.unlabelled.weighting != "none" or (alone and grouping_side is not None)
        stored = max(side, grouping_side or 0)
        plans += unlabelled_plans(zoo, config.unlabelled, unlabelled, stored, labels=labels)
    if not alone:
        plans += [*recovery_plans(zoo, config.recovery, config.budget)]
        plans += trust_plans(zoo, config.trust, config.budget, side)
    plans += [*embedding, *group_learning_plans(zoo, learning, config.meta_model, grouping)]
    return plans if alone else [*plans, *per_domain_plans(zoo, learning, config.meta_model, config.domains, grouping)]


def distil(
    workspace: Workspace,
    config: ZooDistillationConfig,
    learning: LearningConfig,
    group: Callable[[Workspace, ResidentBanks], GroupingOf],
    grouping_side: int | None = None,
) -> MetaModelModule:
    """Recover images, judge and group the teachers, and learn from the groups, then from each domain alone.

    A run that learns from unlabelled images alone recovers none; it does not judge the teachers and has one domain.

    Args:
        workspace: run at work.
        config: options of all stages except learning and grouping.
        learning: options of learning from the groups.
        group: function that groups the teachers that the run keeps, given their workspace and images of each.
        grouping_side: side of the images by which `group` groups; None if it needs none.
    """
    side, device = config.meta_model.spec(workspace.zoo).input_size, workspace.compute.device
    stored_side, weights, domains = max(side, grouping_side or 0), None, {}
    unlabelled = copy_unlabelled(workspace, config.unlabelled, stored_side)
    if unlabelled is not None and config.unlabelled.share == 1:
        bank = unlabelled
        if grouping_side is not None:
            bank = labelled_by_models(workspace, unlabelled, config.budget, stored_side)
        banks = ResidentBanks(bank, device)
    else:
        bank = recover_images(workspace, config.recovery, config.budget)
        banks = ResidentBanks(bank, device)
        workspace, weights = apply_trust(workspace, banks, config.trust, side)
        domains = find_merged_domains(workspace, config.domains)
    more = per_domain_learning(learning, config.domains)
    if domains:
        message(f"note: {len(domains)} domains, each with {more.steps} more steps: {', '.join(domains)}")
    grouping_of = group(workspace, banks)
    if unlabelled is not None:
        banks = ResidentBanks(bank, device, shared_images(workspace, unlabelled, config.unlabelled, stored_side))
    grouping = grouping_of(range(len(workspace.zoo)))
    student = learn_from_groups(workspace, banks, grouping, learning, config.meta_model, weights)
    if not domains:
        return student.classifier

    def learn_domain(part: Workspace, own: Sequence[int], stage: str) -> ImageClassifier:
        own_weights = None if weights is None else weights[list(own)]
        return learn_from_groups(
            part, banks, grouping_of(own), more, student.part(own), own_weights, stage=stage
        ).classifier

    return with_domain_models(
        workspace, banks, student.classifier, domains, learn_domain, config.domains.images, weights
    )
