"""All stages of distillation of a zoo; the methods that share them differ in how they group the teachers.

- The images of every model are recovered once, in pixels, into a bank. Another model of its domain is a guide where
  there is one; see `metazoo.recover.guides`.
- The loss of a teacher compares the meta-model with the whole zoo on the images of that teacher: the features of all
  teachers (the *joint features*), their cosines between images, and their class probabilities.
- In a zoo of several domains the meta-model continues to learn from each domain alone, and a new task uses the
  features of the domains that it resembles; see `metazoo.features.domain_router`.
"""

from collections.abc import Callable, Sequence

from pydantic import BaseModel, ConfigDict

from metazoo.bank import ResidentBanks
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
from metazoo.pipeline.learning_stage import learn_from_groups
from metazoo.pipeline.recovery_stage import recover_images
from metazoo.pipeline.shared_config import MetaModelConfig
from metazoo.pipeline.stage_plan import StagePlan, group_learning_plans, per_domain_plans, recovery_plans, trust_plans
from metazoo.pipeline.workspace import Workspace
from metazoo.recover import RecoveryBudget, RecoveryConfig
from metazoo.taskspace import FixedGrouping, Partition
from metazoo.zoo import Zoo


class ZooDistillationConfig(BaseModel):
    """Options of distillation of a zoo."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recovery: RecoveryConfig = RecoveryConfig()
    budget: RecoveryBudget = RecoveryBudget()
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
            "recovery": RecoveryConfig(guide_all=True),
            "domains": DomainConfig(specialise=0.7, learning_rate=1.0),
            "meta_model": MetaModelConfig(width="default"),
        }
    )
    thorough = {
        "budget": RecoveryBudget(images_per_class=120),
        "learning": base.learning.model_copy(update={"steps": 6000}),
    }
    quick = {
        "recovery": RecoveryConfig(iterations=60, learning_rate=0.1),
        "budget": RecoveryBudget(images_per_class=30),
        "learning": base.learning.model_copy(update={"steps": 250, "views": 1500, "steps_per_views": 125}),
        "meta_model": MetaModelConfig(),
    }
    return {
        "default": default,
        "thorough": default.model_copy(update=thorough),
        "quick": default.model_copy(update=quick),
    }


def distillation_plans(
    zoo: Zoo, config: ZooDistillationConfig, learning: LearningConfig, grouping: Sequence[StagePlan] = ()
) -> list[StagePlan]:
    """Plan the stages of `distil`; `grouping` has the plans of the grouping stage."""
    return [
        *recovery_plans(zoo, config.recovery, config.budget),
        *trust_plans(zoo, config.trust, config.budget, config.meta_model.spec(zoo).input_size),
        *grouping,
        *group_learning_plans(zoo, learning, config.meta_model),
        *per_domain_plans(zoo, learning, config.meta_model, config.domains),
    ]


def distil(
    workspace: Workspace,
    config: ZooDistillationConfig,
    learning: LearningConfig,
    group: Callable[[Workspace, ResidentBanks], Partition],
) -> MetaModelModule:
    """Recover images, judge and group the teachers, and learn from the groups, then from each domain alone.

    Args:
        workspace: run at work.
        config: options of all stages except learning and grouping.
        learning: options of learning from the groups.
        group: function that groups the teachers that the run keeps, given their workspace and the recovered images.
    """
    bank = recover_images(workspace, config.recovery, config.budget)
    banks = ResidentBanks(bank, workspace.compute.device)
    workspace, weights = apply_trust(workspace, banks, config.trust, config.meta_model.spec(workspace.zoo).input_size)
    domains = find_merged_domains(workspace, config.domains)
    more = per_domain_learning(learning, config.domains)
    if domains:
        message(f"note: {len(domains)} domains, each with {more.steps} more steps: {', '.join(domains)}")
    partition = group(workspace, banks)
    student = learn_from_groups(workspace, banks, FixedGrouping(partition), learning, config.meta_model, weights)
    if not domains:
        return student.classifier

    def learn_domain(part: Workspace, own: Sequence[int], stage: str) -> ImageClassifier:
        own_weights = None if weights is None else weights[list(own)]
        grouping = FixedGrouping(partition.within(own))
        return learn_from_groups(part, banks, grouping, more, student.part(own), own_weights, stage=stage).classifier

    return with_domain_models(
        workspace, banks, student.classifier, domains, learn_domain, config.domains.images, weights
    )
