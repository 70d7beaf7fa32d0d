"""Settings that several methods share; those of a room stand in that room."""

from collections import Counter

from pydantic import BaseModel, ConfigDict, Field

from metazoo.models import LARGEST_WIDTH, ArchitectureName, ClassifierSpec
from metazoo.taskspace import Strategy
from metazoo.zoo import Zoo


class GroupingRecipe(BaseModel):
    """How teachers are put into groups."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Strategy = Field(default="dispersed", description="see `metazoo.taskspace.groupings`")
    groups: int = Field(default=5, ge=1, description="lowered to half the number of teachers where it is larger")


class MetaModelRecipe(BaseModel):
    """What the meta-model is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: ArchitectureName = "conv4"
    width: int | None = Field(
        default=None, ge=1, le=LARGEST_WIDTH, description="of the architecture; its own if left out"
    )
    input_size: int | None = Field(
        default=None,
        ge=16,
        le=224,
        description="side of its input in pixels; the most frequent one of the teachers if left out",
    )
    ways: int = Field(default=5, ge=2, description="outputs of its untrained head, for learners that start from one")

    def spec(self, zoo: Zoo) -> ClassifierSpec:
        """The classifier to train for this zoo."""
        sizes = Counter(contract.spec.input_size for contract in zoo)
        most_frequent = max(sizes, key=lambda size: (sizes[size], size))
        return ClassifierSpec(
            architecture=self.architecture,
            arguments={} if self.width is None else {"width": self.width},
            classes=self.ways,
            input_size=self.input_size or max(16, most_frequent),
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
        )
