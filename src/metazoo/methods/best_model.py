"""Best single model of the zoo, chosen by its recorded accuracy, as the meta-model.

A new task uses its features with any head, or fine-tunes the whole network (head `fine-tune`). The papers of this field
also let the model predict directly, with its own class k for class k of the new task; the classes are unrelated, so
this is chance by design and is left out.
"""

from collections.abc import Mapping
from typing import ClassVar, final

from pydantic import BaseModel, ConfigDict, Field

from metazoo.errors import UsageError
from metazoo.methods.base import Method
from metazoo.models import ImageClassifier
from metazoo.pipeline.workspace import Workspace
from metazoo.zoo import Zoo


class BestModelConfig(BaseModel):
    """Options of the choice."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(
        default=None, description="name of the model; null: the one with the highest recorded accuracy"
    )


@final
class BestModel(Method):
    """One model of the zoo, the method `best-model`."""

    name = "best-model"
    title = "Best single model"
    reference = "the model of the zoo with the highest recorded accuracy"
    is_random = False
    uses = "weights"
    presets: ClassVar[Mapping[str, BaseModel]] = {"default": BestModelConfig()}

    def check(self, zoo: Zoo, config: BestModelConfig, seed: int) -> None:  # noqa: D102
        _choose(zoo, config)

    def train(self, workspace: Workspace, config: BestModelConfig) -> ImageClassifier:  # noqa: D102
        return workspace.zoo.teacher(_choose(workspace.zoo, config)).classifier.requires_grad_(False)


def _choose(zoo: Zoo, config: BestModelConfig) -> str:
    if config.model is not None:
        return zoo.contract(config.model).name
    recorded = [(-contract.accuracy, contract.name) for contract in zoo if contract.accuracy is not None]
    if not recorded:
        raise UsageError(zoo.folder, "no model has a recorded accuracy", "name a model with --set model=NAME")
    return min(recorded)[1]
