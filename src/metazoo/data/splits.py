"""Splits of the images of each class, and a check of splits by class."""

from collections.abc import Collection

import torch
from torch import Tensor

from metazoo.data.images import ImageSet
from metazoo.errors import DataError, UsageError


def assert_disjoint(*class_names: Collection[str]) -> None:
    """Check that no class name is in two of the collections.

    Raises:
        DataError: a class name is in two of them.
    """
    seen: set[str] = set()
    for names in class_names:
        shared = seen & set(names)
        if shared:
            raise DataError(f"class {min(shared)!r}", "in two parts of a split", "remove it from one")
        seen |= set(names)


def split_images(image_set: ImageSet, fraction: float = 0.8) -> tuple[ImageSet, ImageSet]:
    """Split each class into the first `fraction` of its images, for training, and the others, for validation.

    Groups are not divided: they are ordered by their first image, and the split is at the border between two groups
    that is nearest to `fraction`.

    Raises:
        UsageError: `fraction` is not between 0 and 1.
        DataError: a class has fewer than two images, or fewer than two groups.
    """
    if not 0 < fraction < 1:
        raise UsageError("training fraction", f"must be between 0 and 1, not {fraction}")
    training = torch.zeros(len(image_set), dtype=torch.bool)
    for index, name in enumerate(image_set.class_names):
        members = image_set.indices_of(index)
        noun = "images" if image_set.groups is None else "groups"
        # Without groups, every image is its own group.
        groups = members if image_set.groups is None else image_set.groups[members]
        rank, borders = _group_order(groups)
        if len(borders) < 2:
            problem = f"has {len(borders)} {noun}, but training and validation need at least 2"
            raise DataError(f"class {name!r} of {image_set.name}", problem, "add some or remove the class")
        last = int((borders[:-1] - fraction * len(members)).abs().argmin())
        training[members[rank <= last]] = True
    return image_set.take(training.nonzero().flatten()), image_set.take((~training).nonzero().flatten())


def _group_order(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Rank of the group of each image by first appearance [n], and the number of images in the first k groups [k]."""
    _, compact = torch.unique(groups, return_inverse=True)
    ranks = {group: rank for rank, group in enumerate(dict.fromkeys(compact.tolist()))}
    rank = torch.tensor([ranks[group] for group in compact.tolist()], dtype=torch.int64)
    return rank, torch.bincount(rank).cumsum(0)
