"""Records of the support images of a classifier and of its versions, parts of `bundle.json`."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Row = Annotated[int, Field(ge=0)]


class SupportImage(BaseModel):
    """Support image, whose features are a row of a tensor of the bundle.

    Attributes:
        name: name for users, such as `cat/1.jpg`.
        sha256: hash of the resized image.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Version(BaseModel):
    """State of a classifier after a change.

    Attributes:
        change: description of the change.
        class_names: names of the classes.
        members: rows of the support images of each class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    change: str
    class_names: tuple[str, ...] = Field(min_length=2)
    members: tuple[Annotated[tuple[Row, ...], Field(min_length=1)], ...]


class HeldOutRecord(BaseModel):
    """Accuracy on held-out support images.

    Attributes:
        images: number of images held out.
        correct: number of those whose class was predicted.
        folds: number of classifiers that were fitted without some images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int = Field(ge=1)
    correct: int = Field(ge=0)
    folds: int = Field(ge=2)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson interval of the accuracy, in [0, 1]."""
        n, share = self.images, self.correct / self.images
        z = NormalDist().inv_cdf((1 + confidence) / 2)
        centre, scale = share + z * z / (2 * n), 1 + z * z / n
        half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def check_versions(versions: Sequence[Version], class_names: Sequence[str], images: int) -> None:
    """Check versions against the classes of the current one and the number of stored support images.

    Raises:
        ValueError: they do not fit.
    """
    if bool(versions) != bool(images):
        raise ValueError("support images without versions, or versions without them")
    if versions and versions[-1].class_names != tuple(class_names):
        raise ValueError("the last version has other classes")
    for version in versions:
        rows = [row for members in version.members for row in members]
        is_odd = len(version.members) != len(version.class_names) or len(set(rows)) < len(rows)
        if is_odd or len(set(version.class_names)) < len(version.class_names):
            raise ValueError(f"the version {version.change!r} does not fit its classes")
        if max(rows) >= images:
            raise ValueError(f"the version {version.change!r} has more images than are stored")
