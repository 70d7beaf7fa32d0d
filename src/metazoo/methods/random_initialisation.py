"""Random initialisation: the architecture of the meta-model with random weights, the floor of every comparison.

Published baselines set the bias of the last layer to zero (official code of Trustworthy-DFML, `method/random.py`). Here
the class head is unused by feature heads, and `fine-tune-own` starts from it.
"""

from collections.abc import Mapping
from typing import ClassVar, final

from pydantic import BaseModel, ConfigDict
from torch import nn

from metazoo.execution.randomness import generator
from metazoo.methods.base import Method, Requirements
from metazoo.models import ImageClassifier, build_classifier, network_without_weights
from metazoo.pipeline.shared_config import MetaModelConfig
from metazoo.pipeline.workspace import Workspace
from metazoo.zoo import Zoo


class RandomInitialisationConfig(BaseModel):
    """Options of the random initialisation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    meta_model: MetaModelConfig = MetaModelConfig(width="default")


@final
class RandomInitialisation(Method):
    """Random weights, the method `random`."""

    name = "random"
    title = "Random initialisation"
    reference = "random weights, a floor for comparison"
    uses = "nothing"
    presets: ClassVar[Mapping[str, BaseModel]] = {"default": RandomInitialisationConfig()}
    requires = Requirements(white_box=False)

    def check(self, zoo: Zoo, config: RandomInitialisationConfig, seed: int) -> None:  # noqa: D102
        network_without_weights(config.meta_model.spec(zoo))

    def train(self, workspace: Workspace, config: RandomInitialisationConfig) -> ImageClassifier:  # noqa: D102
        spec = config.meta_model.spec(workspace.zoo)
        classifier = build_classifier(spec, generator(workspace.seed, "random-initialisation", spec.architecture))
        nn.init.zeros_(classifier.network.head.bias)
        return classifier.eval().requires_grad_(False)
