"""Distillation of a zoo: one meta-model learns the joint features of all teachers from recovered images.

This is what the method `tgr` does without the task space, its groups and its regularisation: one group of all teachers,
and the mean of their gradients. It stands for itself so that a comparison shows what those three add. No paper
describes it; the parts and their sources are those of `metazoo.pipeline.distillation`.

The presets are those of `tgr` without what is missing here: `default`, `thorough` and `quick`.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, final

from pydantic import BaseModel

from metazoo.bank import ResidentBanks
from metazoo.features.embedders import MultiDomainClassifier
from metazoo.learn.learning_config import LearningConfig, RegularisationConfig
from metazoo.methods.base import Method
from metazoo.models import ImageClassifier, network_without_weights
from metazoo.pipeline.distillation import ZooDistillationConfig, distil, distillation_plans, distillation_presets
from metazoo.pipeline.stage_plan import StagePlan
from metazoo.pipeline.workspace import Workspace
from metazoo.taskspace import Partition
from metazoo.zoo import Zoo


@final
class ZooDistillation(Method):
    """The method as users name it."""

    name = "zoo-distillation"
    title = "Distillation of the zoo"
    reference = "metazoo, distillation of the joint features of a zoo, without grouping and regularisation"
    presets: ClassVar[Mapping[str, BaseModel]] = distillation_presets(ZooDistillationConfig())

    def check(self, zoo: Zoo, config: ZooDistillationConfig, seed: int) -> None:  # noqa: D102
        network_without_weights(config.meta_model.spec(zoo))

    def plan(self, zoo: Zoo, config: ZooDistillationConfig) -> Sequence[StagePlan]:  # noqa: D102
        return distillation_plans(zoo, config, _learning(config))

    def train(  # noqa: D102
        self, workspace: Workspace, config: ZooDistillationConfig
    ) -> ImageClassifier | MultiDomainClassifier:
        return distil(workspace, config, _learning(config), _one_group)


def _learning(config: ZooDistillationConfig) -> LearningConfig:
    return LearningConfig(**config.learning.model_dump(), regularisation=RegularisationConfig(kind="mean"))


def _one_group(workspace: Workspace, _banks: ResidentBanks) -> Partition:
    return Partition((tuple(range(len(workspace.zoo))),), "single")
