"""A labelled set of images, the one form in which every source arrives."""

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
    """Labelled images of one source; two sets hold the same if their `sha256` agree.

    Attributes:
        images: uint8 [n, 3, side, side], RGB.
        labels: int64 [n], indices into `class_names`.
        class_names: unique names, in the order of the labels.
        groups: int64 [n] or None. Images of one class and group (the frames of one video, say) show the same thing, so
            they never stand on two sides: support and query of an episode, training and validation.
        name: name of the source; the default domain of models built on it.

    Raises:
        DataError: a tensor's shape, type or range does not fit.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    groups: Tensor | None = None
    name: str = "images"

    def __post_init__(self) -> None:
        shape = self.images.shape
        if self.images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
            raise DataError(f"{self.name}: images must be uint8 [n, 3, side, side], not {_describe(self.images)}")
        count = len(self.images)
        if count == 0 or shape[2] == 0:
            raise DataError(f"{self.name} holds no image; give at least one")
        if self.labels.dtype != torch.int64 or self.labels.shape != (count,):
            raise DataError(f"{self.name}: labels must be int64 [{count}], not {_describe(self.labels)}")
        if self.groups is not None and (self.groups.dtype != torch.int64 or self.groups.shape != (count,)):
            raise DataError(f"{self.name}: groups must be int64 [{count}], not {_describe(self.groups)}")
        outside = (self.labels < 0) | (self.labels >= len(self.class_names))
        if bool(outside.any()):
            position = int(outside.nonzero()[0])
            raise DataError(
                f"{self.name}: image {position} has label {int(self.labels[position])}, but with "
                f"{len(self.class_names)} class names labels run from 0 to {len(self.class_names) - 1}"
            )
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
        """Hash over images, labels, class names and groups (not the name), in hexadecimal."""
        head = [list(self.images.shape), list(self.class_names), self.groups is not None]
        digest = hashlib.sha256(json.dumps(head, separators=(",", ":")).encode())
        for tensor in (self.images, self.labels, self.groups):
            if tensor is not None:
                digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def equal_classes(self) -> list[tuple[str, ...]]:
        """Names of classes that have the same images, in any order; one tuple for each such group of classes."""
        hashes = [hashlib.sha256(image.cpu().contiguous().numpy().data).digest() for image in self.images]
        contents: dict[tuple[bytes, ...], list[str]] = {}
        for index, name in enumerate(self.class_names):
            own = tuple(sorted(hashes[position] for position in self.indices_of(index).tolist()))
            contents.setdefault(own, []).append(name)
        return [tuple(names) for images, names in contents.items() if images and len(names) > 1]

    def indices_of(self, class_index: int) -> Tensor:
        """Positions (int64 [m], ascending) of the images of one class."""
        return torch.nonzero(self.labels == class_index).flatten()

    def take(self, indices: Tensor) -> "ImageSet":
        """The images at `indices` (int64), in that order, with the same class names."""
        groups = None if self.groups is None else self.groups[indices]
        return dataclasses.replace(self, images=self.images[indices], labels=self.labels[indices], groups=groups)

    def select_classes(self, classes: Sequence[int]) -> "ImageSet":
        """Only the images of `classes` (indices into `class_names`), relabelled in the order given.

        Raises:
            UsageError: a class does not exist or is asked for twice.
        """
        total = len(self.class_names)
        wrong = [index for index in classes if not 0 <= index < total]
        if wrong or not classes or len(set(classes)) < len(classes):
            raise UsageError(
                f"{self.name} has classes 0 to {total - 1}, each selected at most once, not {list(classes)}"
            )
        position = torch.full((total,), -1)
        position[list(classes)] = torch.arange(len(classes))
        subset = self.take(torch.nonzero(position[self.labels] >= 0).flatten())
        names = tuple(self.class_names[index] for index in classes)
        return dataclasses.replace(subset, labels=position[subset.labels], class_names=names)

    def resized(self, side: int) -> "ImageSet":
        """The same images at another size (bilinear, antialiased).

        Raises:
            UsageError: `side` is not positive.
        """
        if side < 1:
            raise UsageError(f"image side must be at least 1 pixel, not {side}")
        if side == self.side:
            return self
        images = torch.empty(len(self), 3, side, side, dtype=torch.uint8)
        for source, target in zip(self.images.split(512), images.split(512), strict=True):
            scaled = functional.interpolate(source.float(), size=(side, side), mode="bilinear", antialias=True)
            target.copy_(scaled.round_().clamp_(0, 255))
        return dataclasses.replace(self, images=images)


def draw_of_each(labels: Tensor, classes: Sequence[int], most: int, random: torch.Generator) -> list[Tensor]:
    """For each of `classes` the positions (int64) of up to `most` different entries of `labels`, drawn uniformly."""
    drawn = []
    for label in classes:
        own = torch.nonzero(labels == label).flatten()
        drawn.append(own[torch.randperm(len(own), generator=random)[:most]])
    return drawn


def first_of_each(labels: Tensor, most: int) -> Tensor:
    """Positions (int64 [m]) of the first `most` entries of each value of `labels` (int64 [n], from 0), by value."""
    order, rank = _by_value(labels)
    return order[rank < most]


def evenly_of_each(labels: Tensor, count: int) -> Tensor:
    """Positions (int64, ascending) of up to `count` entries of `labels` (int64 [n], from 0), the first of each value.

    Values have as many as each other, up to one, as long as they last.
    """
    order, rank = _by_value(labels)
    return order[rank.argsort(stable=True)[:count]].sort().values


def _by_value(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Positions ordered by value, and how many entries of its value stand before each of them."""
    order = labels.argsort(stable=True)
    ordered, counts = labels[order], torch.bincount(labels)
    return order, torch.arange(len(order)) - (counts.cumsum(0) - counts)[ordered]


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
