"""Settings that several methods share; those of a room stand in that room."""

from collections import Counter
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_serializer, field_validator, model_validator

from metazoo.models import ArchitectureName, ClassifierSpec, check_width
from metazoo.taskspace import Strategy
from metazoo.zoo import Zoo

SourceName = Literal["recovered", "leaves", "fractals", "glyphs", "noise", "images"]


class ImageSourceConfig(BaseModel):
    """Which images the meta-model learns from: recovered ones, or others to compare them with.

    `leaves`, `fractals` and `glyphs` are drawn by formulas and `noise` is uniform; no teacher is inverted for them.
    `images` are real ones, which only a study has: those of each teacher's own classes, by name, out of a data set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: SourceName = "recovered"
    data: str | None = Field(default=None, description="of kind images: an .npz pack or a folder")

    @property
    def shows_classes(self) -> bool:
        """Whether an image shows the class of its label, as its model sees it."""
        return self.kind in ("recovered", "images")

    @model_validator(mode="after")
    def _check(self) -> "ImageSourceConfig":
        if (self.kind == "images") is not (self.data is not None):
            raise ValueError("data is given for kind images, and only for it")
        return self


class GroupingConfig(BaseModel):
    """How teachers are put into groups."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Strategy = Field(default="dispersed", description="see `metazoo.taskspace.groupings`")
    groups: int = Field(default=5, ge=1, description="lowered to half the number of teachers where it is larger")
    similarity: Literal["scale-free", "published"] = Field(
        default="scale-free", description="published: one epsilon for all tensors, and rounded to 4 decimals"
    )


_Width = int | tuple[int, ...]
_DEFAULT_WIDTHS: dict[str, _Width] = {"conv4": 64}


class MetaModelConfig(BaseModel):
    """What the meta-model is.

    It stands for many models, which asks for more room than one of them has: of width `default` a conv4 has 64
    channels, as in prototypical networks (Snell et al. 2017), while those of a zoo mostly have 32.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: ArchitectureName = "conv4"
    width: _Width | Literal["default"] | None = Field(
        default=None,
        description="of the architecture, of conv4 one number or one for each block; null: its own; default: "
        "64 of conv4, else its own",
    )
    input_size: int | None = Field(
        default=None,
        ge=16,
        le=224,
        description="side of its input in pixels; the most frequent one of the teachers if left out",
    )
    ways: int = Field(default=5, ge=2, description="outputs of its untrained head, for learners that start from one")

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

    @field_serializer("width", when_used="json")
    def _written_width(self, width: Any) -> Any:  # pydantic itself warns of a tuple beside names
        return list(width) if isinstance(width, tuple) else width

    def spec(self, zoo: Zoo) -> ClassifierSpec:
        """The classifier to train for this zoo."""
        sizes = Counter(contract.spec.input_size for contract in zoo)
        most_frequent = max(sizes, key=lambda size: (sizes[size], size))
        width = _DEFAULT_WIDTHS.get(self.architecture) if self.width == "default" else self.width
        return ClassifierSpec(
            architecture=self.architecture,
            arguments={} if width is None else {"width": width},
            classes=self.ways,
            input_size=self.input_size or max(16, most_frequent),
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
        )
