"""The index of one generation of one teacher's images: which shards there are, and what is known of each.

There is one index a teacher and generation, rather than one for the bank, for two reasons. A commit rewrites the index
it belongs to, so with a single one the bytes written would grow with the square of the zoo (1000 teachers of 13 shards:
13,000 commits of a file of megabytes). And nothing that belongs to a finished generation is ever written again.

An index has no hash in a manifest: it changes with every bucket, and all that a run goes on from is checked against
something else, the images and their classes against the shards, whose hashes it holds, and the settings against those
of the run. The health figures alone are not; the run copies them into `recovery.json`, which has a hash.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from metazoo.errors import ArtefactError, DataError
from metazoo.storage.artefacts import read_json, write_json
from metazoo.storage.tensor_files import read_tensors, write_tensors
from metazoo.storage.validation import check_format_version, first_problem

FORMAT = "metazoo-images"
FORMAT_VERSION = 1

Setting = bool | int | float | str


class Shard(BaseModel):
    """One stored bucket of images. Nothing of it ever changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bucket: int = Field(ge=0)
    images: int = Field(ge=1, description="number of images")
    class_counts: dict[int, int] = Field(description="images of every local class that occurs")
    health: dict[str, float] = Field(description="figures of whoever made the images")
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: int = Field(ge=1, description="size of the file")


class GenerationIndex(BaseModel):
    """The shards of one generation, in the order of their buckets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["metazoo-images"] = FORMAT
    format_version: Literal[1] = FORMAT_VERSION
    teacher: str
    generation: int = Field(ge=0)
    channels: Literal[1, 3]
    side: int = Field(ge=1, description="height and width of every image in pixels")
    made_with: dict[str, Setting] = Field(description="settings that all shards have in common")
    shards: tuple[Shard, ...] = ()
    discarded: bool = Field(default=False, description="whether the images were deleted, all of them")

    def find(self, bucket: int) -> Shard | None:
        """The shard of `bucket`, if there is one."""
        return next((shard for shard in self.shards if shard.bucket == bucket), None)

    def with_shard(self, shard: Shard) -> "GenerationIndex":
        """The index with one shard more."""
        shards = sorted((*self.shards, shard), key=lambda entry: entry.bucket)
        return self.model_copy(update={"shards": tuple(shards)})


def write_index(path: Path, index: GenerationIndex) -> None:
    """Write an index; see `write_json`."""
    # Left out as long as the images are there, as in banks that are older than it.
    write_json(path, index.model_dump(mode="json", exclude=set() if index.discarded else {"discarded"}))


def check_version(path: Path, content: dict[str, Any]) -> None:
    """Refuse the JSON object `content` of `path` if it is of another format version.

    Raises:
        ArtefactError: it is.
    """
    check_format_version(path, content.get("format_version"), FORMAT_VERSION)


def read_index(path: Path, teacher: str, generation: int) -> GenerationIndex:
    """Read the index of `generation` of `teacher`.

    Raises:
        ArtefactError: it is damaged, of another format version, or of another teacher or generation.
    """
    content = read_json(path)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        check_version(path, content)
    try:
        index = GenerationIndex.model_validate(content)
    except ValidationError as error:
        raise ArtefactError(
            f"{path} is not an index of recovered images ({first_problem(error)}); restore it or recover again"
        ) from error
    if (index.teacher, index.generation) != (teacher, generation):
        raise ArtefactError(
            f"{path} is the index of generation {index.generation} of {index.teacher!r}; restore it or recover again"
        )
    if len({shard.bucket for shard in index.shards}) < len(index.shards):
        raise ArtefactError(f"{path} names a bucket twice; restore it or recover again")
    return index


def write_shard(
    path: Path, index: GenerationIndex, bucket: int, images: Tensor, labels: Tensor, health: Mapping[str, float]
) -> Shard:
    """Store a bucket that `check_tensors` has passed, and say what its index must know; see `write_tensors`."""
    metadata = {"format": FORMAT, "format_version": str(FORMAT_VERSION)}
    metadata |= {"teacher": index.teacher, "generation": str(index.generation), "bucket": str(bucket)}
    sha256 = write_tensors(path, {"images": images, "labels": labels}, metadata)
    return Shard(
        bucket=bucket,
        images=len(images),
        class_counts=_class_counts(labels),
        health=dict(health),
        sha256=sha256,
        bytes=path.stat().st_size,
    )


def read_shard(path: Path, index: GenerationIndex, shard: Shard) -> tuple[Tensor, Tensor]:
    """The images and labels of a shard, of which the index says so much.

    Raises:
        ArtefactError: the file is missing, has changed since it was written, or does not fit its index.
    """
    tensors = read_tensors(path, shard.sha256)
    images, labels = tensors.get("images"), tensors.get("labels")
    shape = (shard.images, index.channels, index.side, index.side)
    if (
        images is None
        or labels is None
        or images.shape != shape
        or labels.shape != shape[:1]
        or _class_counts(labels) != shard.class_counts
    ):
        raise ArtefactError(f"{path} does not hold what its index says; recover again into another folder")
    return images, labels


def _class_counts(labels: Tensor) -> dict[int, int]:
    present, counts = labels.unique(return_counts=True)
    return dict(zip(present.tolist(), counts.tolist(), strict=True))


def check_tensors(place: str, images: Tensor, labels: Tensor) -> None:
    """Refuse what is no bucket of images.

    Raises:
        DataError: images or labels do not fit; `place` is named.
    """
    shape = images.shape
    fits = images.dtype == torch.uint8 and len(shape) == 4 and shape[1] in (1, 3) and shape[2] == shape[3]
    if not fits or min(shape) == 0:
        raise DataError(f"{place}: images must be uint8 [n, 1 or 3, side, side], not {images.dtype} {list(shape)}")
    if labels.dtype != torch.int64 or labels.shape != shape[:1] or bool((labels < 0).any()):
        raise DataError(f"{place}: labels must be int64 [{shape[0]}], all at least 0")
