"""The file of one bucket of images: `images` uint8, `labels` int64."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from metazoo.bank.index import FORMAT, FORMAT_VERSION, GenerationIndex, Shard
from metazoo.errors import ArtefactError, DataError
from metazoo.run.tensor_files import read_tensors, write_tensors


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
