"""Index of one generation of a teacher's images, which describes its shards.

There is one index per teacher and generation, not one per bank, for two reasons. A commit rewrites its index, so with a
single index the bytes written would grow with the square of the zoo (1000 teachers of 13 shards: 13,000 commits of a
file of megabytes). And files of a finished generation are never written again.

No manifest has the hash of an index, since it changes with every bucket. The index has the hashes of the shards, and
its options are compared with those of the run. Only the health figures are not checked; the run copies them into
`recovery.json`, which has a hash.
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
_REMEDY = "restore it or recover again"

OptionValue = bool | int | float | str


class Shard(BaseModel):
    """Description of one stored bucket of images, which never changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bucket: int = Field(ge=0)
    images: int = Field(ge=1, description="number of images")
    class_counts: dict[int, int] = Field(description="numbers of images by local class, without zeros")
    health: dict[str, float] = Field(description="figures on the quality of the images")
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: int = Field(ge=1, description="size of the file")


class GenerationIndex(BaseModel):
    """Descriptions of the shards of one generation, in the order of their buckets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["metazoo-images"] = FORMAT
    format_version: Literal[1] = FORMAT_VERSION
    teacher: str
    generation: int = Field(ge=0)
    channels: Literal[1, 3]
    side: int = Field(ge=1, description="height and width of every image in pixels")
    made_with: dict[str, OptionValue] = Field(description="options with which all shards were made")
    shards: tuple[Shard, ...] = ()
    discarded: bool = Field(default=False, description="whether all images were deleted")

    def find(self, bucket: int) -> Shard | None:
        """Shard of `bucket`, or None."""
        return next((shard for shard in self.shards if shard.bucket == bucket), None)

    def with_shard(self, shard: Shard) -> "GenerationIndex":
        """Index with one shard added."""
        shards = sorted((*self.shards, shard), key=lambda entry: entry.bucket)
        return self.model_copy(update={"shards": tuple(shards)})


def write_index(path: Path, index: GenerationIndex) -> None:
    """Write an index; see `write_json`."""
    # False is omitted, as in older banks.
    write_json(path, index.model_dump(mode="json", exclude=set() if index.discarded else {"discarded"}))


def check_version(path: Path, content: dict[str, Any]) -> None:
    """Check the format version of the JSON object `content` of `path`.

    Raises:
        ArtefactError: the format version is not supported.
    """
    check_format_version(path, content.get("format_version"), FORMAT_VERSION)


def read_index(path: Path, teacher: str, generation: int) -> GenerationIndex:
    """Read the index of `generation` of `teacher`.

    Raises:
        ArtefactError: the index is damaged, of another format version, or of another teacher or generation.
    """
    content = read_json(path)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        check_version(path, content)
    try:
        index = GenerationIndex.model_validate(content)
    except ValidationError as error:
        problem = f"not an index of recovered images: {first_problem(error)}"
        raise ArtefactError(path, problem, _REMEDY) from error
    if (index.teacher, index.generation) != (teacher, generation):
        problem = f"the index of generation {index.generation} of {index.teacher!r}"
        raise ArtefactError(path, problem, _REMEDY)
    if len({shard.bucket for shard in index.shards}) < len(index.shards):
        raise ArtefactError(path, "contains a bucket twice", _REMEDY)
    return index


def write_shard(
    path: Path, index: GenerationIndex, bucket: int, images: Tensor, labels: Tensor, health: Mapping[str, float]
) -> Shard:
    """Store a bucket that `check_tensors` accepts, and return its description for the index; see `write_tensors`."""
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
    """Read the images and labels of a shard, and check them against its index.

    Raises:
        ArtefactError: the file is missing, has changed since it was written, or does not match its index.
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
        raise ArtefactError(path, "does not match its index", "recover again into another folder")
    return images, labels


def _class_counts(labels: Tensor) -> dict[int, int]:
    present, counts = labels.unique(return_counts=True)
    return dict(zip(present.tolist(), counts.tolist(), strict=True))


def check_tensors(subject: str, images: Tensor, labels: Tensor) -> None:
    """Check shapes, types and values of a bucket of images, which errors call `subject`.

    Raises:
        DataError: images or labels do not fit.
    """
    shape = images.shape
    fits = images.dtype == torch.uint8 and len(shape) == 4 and shape[1] in (1, 3) and shape[2] == shape[3]
    if not fits or min(shape) == 0:
        problem = f"images must be uint8 [n, 1 or 3, side, side], not {images.dtype} {list(shape)}"
        raise DataError(subject, problem)
    if labels.dtype != torch.int64 or labels.shape != shape[:1] or bool((labels < 0).any()):
        raise DataError(subject, f"labels must be int64 [{shape[0]}], all at least 0")
