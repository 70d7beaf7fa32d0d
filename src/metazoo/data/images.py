"""Labelled sets of images."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from metazoo.errors import DataError, UsageError


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images of one source; sets with the same `sha256` are equal.

    Attributes:
        images: RGB images, uint8 [n, 3, side, side].
        labels: indices into `class_names`, int64 [n].
        class_names: unique names, in the order of the labels.
        groups: group of each image, int64 [n], or None. Images of one class and group, such as frames of one video,
            show the same object and are never separated into support and query, or into training and validation.
        name: name of the source; the default domain of models built on it.

    Raises:
        DataError: shape, type or range of a tensor does not fit.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    groups: Tensor | None = None
    name: str = "images"

    def __post_init__(self) -> None:
        shape = self.images.shape
        if self.images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
            raise DataError(self.name, f"images must be uint8 [n, 3, side, side], not {_describe(self.images)}")
        count = len(self.images)
        if count == 0 or shape[2] == 0:
            raise DataError(self.name, "no image", "give at least one")
        if self.labels.dtype != torch.int64 or self.labels.shape != (count,):
            raise DataError(self.name, f"labels must be int64 [{count}], not {_describe(self.labels)}")
        if self.groups is not None and (self.groups.dtype != torch.int64 or self.groups.shape != (count,)):
            raise DataError(self.name, f"groups must be int64 [{count}], not {_describe(self.groups)}")
        outside = (self.labels < 0) | (self.labels >= len(self.class_names))
        if bool(outside.any()):
            index = int(outside.nonzero()[0])
            label, last = int(self.labels[index]), len(self.class_names) - 1
            raise DataError(self.name, f"image {index} has label {label}, not one from 0 to {last}")
        if len(set(self.class_names)) < len(self.class_names):
            twice = next(name for name in self.class_names if self.class_names.count(name) > 1)
            raise DataError(self.name, f"duplicate class name {twice!r}", "rename one")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def side(self) -> int:
        """Height and width of the images in pixels."""
        return self.images.shape[-1]

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over images, labels, class names and groups (not the name), in hexadecimal."""
        head = [list(self.images.shape), list(self.class_names), self.groups is not None]
        digest = hashlib.sha256(json.dumps(head, separators=(",", ":")).encode())
        for tensor in (self.images, self.labels, self.groups):
            if tensor is not None:
                digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def equal_classes(self) -> list[tuple[str, ...]]:
        """Find classes that have the same images in any order; one tuple of names for each group of such classes."""
        hashes = [hashlib.sha256(image.cpu().contiguous().numpy().data).digest() for image in self.images]
        contents: dict[tuple[bytes, ...], list[str]] = {}
        for index, name in enumerate(self.class_names):
            own = tuple(sorted(hashes[position] for position in self.indices_of(index).tolist()))
            contents.setdefault(own, []).append(name)
        return [tuple(names) for images, names in contents.items() if images and len(names) > 1]

    def indices_of(self, class_index: int) -> Tensor:
        """Indices of the images of one class, int64 [m], ascending."""
        return torch.nonzero(self.labels == class_index).flatten()

    def take(self, indices: Tensor) -> "ImageSet":
        """Select images by `indices` (int64), in that order, with the same class names."""
        groups = None if self.groups is None else self.groups[indices]
        return dataclasses.replace(self, images=self.images[indices], labels=self.labels[indices], groups=groups)

    def select_classes(self, classes: Sequence[int]) -> "ImageSet":
        """Select the images of `classes` (indices into `class_names`), relabelled in this order.

        Raises:
            UsageError: a class does not exist or is given twice.
        """
        total = len(self.class_names)
        wrong = [index for index in classes if not 0 <= index < total]
        if wrong or not classes or len(set(classes)) < len(classes):
            problem = f"{list(classes)} is not a selection of classes 0 to {total - 1}, each at most once"
            raise UsageError(self.name, problem)
        new_label = torch.full((total,), -1)
        new_label[list(classes)] = torch.arange(len(classes))
        subset = self.take(torch.nonzero(new_label[self.labels] >= 0).flatten())
        names = tuple(self.class_names[index] for index in classes)
        return dataclasses.replace(subset, labels=new_label[subset.labels], class_names=names)

    def resized(self, side: int) -> "ImageSet":
        """Resize the images (bilinear, antialiased).

        Raises:
            UsageError: `side` is not positive.
        """
        if side < 1:
            raise UsageError("side", f"must be at least 1 pixel, not {side}")
        if side == self.side:
            return self
        images = torch.empty(len(self), 3, side, side, dtype=torch.uint8)
        for source, target in zip(self.images.split(512), images.split(512), strict=True):
            scaled = functional.interpolate(source.float(), size=(side, side), mode="bilinear", antialias=True)
            target.copy_(scaled.round_().clamp_(0, 255))
        return dataclasses.replace(self, images=images)


def draw_of_each(labels: Tensor, classes: Sequence[int], most: int, random: torch.Generator) -> list[Tensor]:
    """For each of `classes`, draw indices (int64) of up to `most` different entries of `labels` uniformly."""
    drawn = []
    for label in classes:
        own = torch.nonzero(labels == label).flatten()
        drawn.append(own[torch.randperm(len(own), generator=random)[:most]])
    return drawn


def first_of_each(labels: Tensor, most: int) -> Tensor:
    """Indices (int64 [m]) of the first `most` entries of each value of `labels` (int64 [n], from 0), by value."""
    order, rank = _by_value(labels)
    return order[rank < most]


def evenly_of_each(labels: Tensor, count: int) -> Tensor:
    """Indices (int64, ascending) of up to `count` entries of `labels` (int64 [n], from 0), the first of each value.

    The numbers of entries per value differ by at most one, except for values with too few entries.
    """
    order, rank = _by_value(labels)
    return order[rank.argsort(stable=True)[:count]].sort().values


def _by_value(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Indices ordered by value, and the rank of each among the entries of its value."""
    order = labels.argsort(stable=True)
    ordered, counts = labels[order], torch.bincount(labels)
    return order, torch.arange(len(order)) - (counts.cumsum(0) - counts)[ordered]


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
