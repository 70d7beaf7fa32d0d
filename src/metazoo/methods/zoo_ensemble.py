"""Ensemble of the zoo: the normalised features of all models side by side, without learning.

The strongest simple use of a zoo, and the largest: a new task is solved by all models together, so size and time of the
meta-model are those of the whole zoo. Its bundle contains the weights of every model.
"""

from collections.abc import Mapping
from typing import ClassVar, final

from pydantic import BaseModel

from metazoo.features.embedders import JointFeatures
from metazoo.methods.base import Method, NoOptions
from metazoo.pipeline.workspace import Workspace


@final
class ZooEnsemble(Method):
    """Ensemble of all models, the method `zoo-ensemble`."""

    name = "zoo-ensemble"
    title = "Ensemble of the zoo"
    reference = "metazoo, normalised features of all models side by side, without learning"
    is_random = False
    uses = "weights"
    presets: ClassVar[Mapping[str, BaseModel]] = {"default": NoOptions()}

    def train(self, workspace: Workspace, config: NoOptions) -> JointFeatures:  # noqa: D102
        networks = [teacher.classifier for teacher in workspace.zoo.teachers()]
        return JointFeatures(networks).eval().requires_grad_(False)
