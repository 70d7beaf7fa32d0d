"""Distillation of a zoo, registered as the method `sample-distillation`.

Every model is inverted once, and one meta-model learns the outputs of all models for the images, without task space,
groups and regularisation.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, final

from pydantic import BaseModel, ConfigDict

import metazoo
from metazoo.bank import ResidentBanks
from metazoo.data import UnlabelledImages
from metazoo.learn.learning_config import LearningConfig, RegularisationConfig
from metazoo.methods import Method
from metazoo.models import ImageClassifier, network_without_weights
from metazoo.pipeline.learning_stage import learn_from_groups
from metazoo.pipeline.recovery_stage import recover_images
from metazoo.pipeline.shared_config import MetaModelConfig
from metazoo.pipeline.stage_plan import StagePlan, group_learning_plans, recovery_plans
from metazoo.pipeline.workspace import Workspace
from metazoo.recover import RecoveryBudget, RecoveryConfig
from metazoo.taskspace import FixedGrouping, Partition
from metazoo.zoo import Zoo


class DistillationConfig(BaseModel):
    """Options of the method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recovery: RecoveryConfig = RecoveryConfig()
    budget: RecoveryBudget = RecoveryBudget()
    learning: LearningConfig = LearningConfig(regularisation=RegularisationConfig(kind="mean"))
    meta_model: MetaModelConfig = MetaModelConfig(architecture="patch-mixer", width=16)


@metazoo.register_method
@final
class SampleDistillation(Method):
    """Distillation of all models as one group."""

    name = "sample-distillation"
    title = "Distillation of the zoo"
    reference = "docs/extending.md of metazoo"
    presets: ClassVar[Mapping[str, BaseModel]] = {"default": DistillationConfig()}

    def check(self, zoo: Zoo, config: DistillationConfig, seed: int) -> None:
        """Build the meta-model without weights, which fails if the options do not fit."""
        network_without_weights(config.meta_model.spec(zoo))

    def plan(
        self, zoo: Zoo, config: DistillationConfig, unlabelled: UnlabelledImages | None = None
    ) -> Sequence[StagePlan]:
        """Plan the stages of `train`."""
        recovery = recovery_plans(zoo, config.recovery, config.budget)
        return [*recovery, *group_learning_plans(zoo, config.learning, config.meta_model)]

    def train(self, workspace: Workspace, config: DistillationConfig) -> ImageClassifier:
        """Recover images, then learn from all models as one group."""
        bank = recover_images(workspace, config.recovery, config.budget)
        banks = ResidentBanks(bank, workspace.compute.device)
        everyone = FixedGrouping(Partition((tuple(range(len(workspace.zoo))),), "single"))
        return learn_from_groups(workspace, banks, everyone, config.learning, config.meta_model).classifier
