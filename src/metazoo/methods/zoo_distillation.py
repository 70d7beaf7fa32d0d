"""Distillation of a zoo: one meta-model learns the joint features of all teachers from recovered images.

This is the method `tgr` without task space, groups and regularisation: one group of all teachers, and the mean of their
gradients. It is a method of its own so that a comparison shows what those three add. No paper describes it; for its
parts and their sources see `metazoo.pipeline.distillation`.

The presets are those of `tgr` except `published`.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, final

from pydantic import BaseModel

from metazoo.bank import ResidentBanks
from metazoo.data import UnlabelledImages
from metazoo.features.embedders import MetaModelModule
from metazoo.learn.learning_config import LearningConfig, RegularisationConfig
from metazoo.methods.base import Method
from metazoo.models import network_without_weights
from metazoo.pipeline.distillation import ZooDistillationConfig, distil, distillation_plans, distillation_presets
from metazoo.pipeline.embedding_stage import GroupingOf, parts_of
from metazoo.pipeline.stage_plan import StagePlan
from metazoo.pipeline.workspace import Workspace
from metazoo.taskspace import one_group
from metazoo.zoo import Zoo


@final
class ZooDistillation(Method):
    """Distillation of the zoo, the method `zoo-distillation`."""

    name = "zoo-distillation"
    title = "Distillation of the zoo"
    reference = "metazoo, distillation of the joint features of a zoo, without grouping and regularisation"
    presets: ClassVar[Mapping[str, BaseModel]] = distillation_presets(ZooDistillationConfig())

    def check(self, zoo: Zoo, config: ZooDistillationConfig, seed: int) -> None:  # noqa: D102
        network_without_weights(config.meta_model.spec(zoo))

    def plan(  # noqa: D102
        self, zoo: Zoo, config: ZooDistillationConfig, unlabelled: UnlabelledImages | None = None
    ) -> Sequence[StagePlan]:
        return distillation_plans(zoo, config, _learning(config), unlabelled)

    def train(  # noqa: D102
        self, workspace: Workspace, config: ZooDistillationConfig
    ) -> MetaModelModule:
        return distil(workspace, config, _learning(config), _one_group)


def _learning(config: ZooDistillationConfig) -> LearningConfig:
    return LearningConfig(**config.learning.model_dump(), regularisation=RegularisationConfig(kind="mean"))


def _one_group(workspace: Workspace, _banks: ResidentBanks) -> GroupingOf:
    return parts_of(one_group(len(workspace.zoo)).partition)
