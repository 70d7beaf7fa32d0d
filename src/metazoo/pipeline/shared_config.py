"""Options of the meta-model and of grouping, which several methods share."""

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_serializer, field_validator, model_validator

from metazoo.learn.update_rules import UpdateName
from metazoo.models import ArchitectureName, Argument, ClassifierSpec, check_width
from metazoo.recover import RecoveryBudget, RecoveryConfig
from metazoo.taskspace import GROUPINGS, AffinityConfig, ChangingGroups, CheckedGrouping, Grouping, Strategy
from metazoo.zoo import Zoo

BUCKET_PIXELS = 150 * 84**2
"""Pixels of 150 images of 84 pixels, or of 21 of 224."""
# Recovery of every method with the preset `default`, so that the rows of a study share the images.
DEFAULT_RECOVERY = RecoveryConfig(guide_all=True)
DEFAULT_BUDGET = RecoveryBudget(bucket_pixels=BUCKET_PIXELS)

# Option of every method whose memory joins classes of different models.
ClassMap = Annotated[
    str | None,
    Field(
        description="names: classes of one name are equal; a file: a list of equal classes; null: the zoo finds them"
    ),
]


class GroupingConfig(BaseModel):
    """Options of grouping teachers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Strategy = Field(default="dispersed", description="strategy of `metazoo.taskspace.groupings`")
    groups: int = Field(
        default=5, ge=1, description="number of groups, at most half the number of teachers; unused by selective"
    )
    similarity: Literal["scale-free", "published"] = Field(
        default="scale-free",
        description="published: one epsilon for all tensors, and values rounded to 4 decimals; unused by selective",
    )
    shuffle: bool = Field(
        default=False,
        description="control: permute the teachers of the dissimilarity matrix before grouping; refused by selective",
    )
    affinity: AffinityConfig = Field(
        default=AffinityConfig(), description="options of groups that change; unused by strategies by distances"
    )

    @model_validator(mode="after")
    def _check(self) -> "GroupingConfig":
        if self.shuffle and not self.by_distances:
            raise ValueError(f"strategy {self.strategy} uses no distances that shuffle could permute; set it to false")
        return self

    @property
    def by_distances(self) -> bool:
        """Whether groups are made once, by distances in the task space; otherwise while the meta-model learns."""
        return not isinstance(GROUPINGS.get(self.strategy), ChangingGroups)

    def changing(self, count: int) -> Grouping | None:
        """Grouping of `count` teachers that changes while the meta-model learns; None if groups are made once."""
        return None if self.by_distances else CheckedGrouping(self.strategy, count, self.affinity)

    def check_update(self, update: UpdateName) -> None:
        """Check that the groups matter for an update rule.

        Raises:
            ValueError: the strategy needs updates in turn.
        """
        strategy = GROUPINGS.get(self.strategy)
        if isinstance(strategy, ChangingGroups) and strategy.in_turn and update != "in-turn":
            raise ValueError(f"grouping.strategy {self.strategy} needs learning.update in-turn, not {update}")


_Width = int | tuple[int, ...]
_DEFAULT_WIDTHS: dict[str, _Width] = {"conv4": 64}


class MetaModelConfig(BaseModel):
    """Options of the meta-model.

    The meta-model stands for many models and needs more capacity than one of them: with width `default` a conv4 has 64
    channels, as in prototypical networks (Snell et al. 2017), while the models of a zoo mostly have 32.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: ArchitectureName = "conv4"
    width: _Width | Literal["default"] | None = Field(
        default=None,
        description="width of the architecture (for conv4 one number, or one for each block); null: the width of the "
        "architecture itself; default: 64 for conv4, otherwise like null",
    )
    arguments: dict[str, Argument] = Field(
        default={}, description="further arguments of the architecture, such as patch_size of a timm:vit"
    )
    input_size: int | None = Field(
        default=None,
        ge=16,
        le=224,
        description="side of the input in pixels; null: the most frequent side of the teachers",
    )
    ways: int = Field(default=5, ge=2, description="outputs of the untrained head, for learners that start from a head")

    def __hash__(self) -> int:  # arguments are a dictionary
        return hash(self.model_dump_json())

    @field_validator("width", mode="plain")
    @classmethod
    def _check_width(cls, width: Any, fields: ValidationInfo) -> Any:
        width = tuple(width) if isinstance(width, list) else width
        if width is not None and width != "default":
            try:
                check_width(fields.data.get("architecture", "conv4"), width)
            except ValueError as error:
                raise ValueError(f"{error}, default or null") from None
        return width

    @field_validator("arguments")
    @classmethod
    def _check_arguments(cls, arguments: dict[str, Argument]) -> dict[str, Argument]:
        if "width" in arguments:
            raise ValueError("width is an option of its own")
        return arguments

    @field_serializer("width", when_used="json")
    def _written_width(self, width: Any) -> Any:  # pydantic warns of a tuple in a union with names
        return list(width) if isinstance(width, tuple) else width

    def spec(self, zoo: Zoo) -> ClassifierSpec:
        """Classifier to train for this zoo."""
        sizes = Counter(contract.spec.input_size for contract in zoo)
        most_frequent = max(sizes, key=lambda size: (sizes[size], size))
        width = _DEFAULT_WIDTHS.get(self.architecture) if self.width == "default" else self.width
        return ClassifierSpec(
            architecture=self.architecture,
            arguments={**({} if width is None else {"width": width}), **self.arguments},
            classes=self.ways,
            input_size=self.input_size or max(16, most_frequent),
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
        )
