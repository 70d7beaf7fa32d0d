"""Average of the weights of all models, the simplest fusion.

Published as the baseline *Average* of data-free meta-learning (official code of Trustworthy-DFML, `method/average.py`).
Weights of models that were trained from different starts do not correspond to each other, so the average is mostly
close to random weights. Difference: the class head is zero, since the heads of the models stand for different classes.
"""

from collections.abc import Mapping
from typing import ClassVar, final

from pydantic import BaseModel

from metazoo.fusion import average_parameters, check_same_features
from metazoo.methods.base import Method, NoOptions, Requirements
from metazoo.models import ImageClassifier
from metazoo.pipeline.workspace import Workspace
from metazoo.zoo import Zoo


@final
class Average(Method):
    """Average of all weights, the method `average`."""

    name = "average"
    title = "Average of the weights"
    reference = "elementwise mean of the weights of all models"
    is_random = False
    uses = "weights"
    presets: ClassVar[Mapping[str, BaseModel]] = {"default": NoOptions()}
    requires = Requirements(one_architecture=True)

    def check(self, zoo: Zoo, config: NoOptions, seed: int) -> None:  # noqa: D102
        check_same_features(zoo)

    def train(self, workspace: Workspace, config: NoOptions) -> ImageClassifier:  # noqa: D102
        zoo = workspace.zoo
        average = average_parameters((teacher.classifier for teacher in zoo.teachers_in_turn()), zoo.contracts[0].spec)
        assert average is not None  # see `check`
        return average.requires_grad_(False)
