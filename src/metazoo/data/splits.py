"""Splits: by class between learning and evaluation, by image within the classes of one model."""

from collections.abc import Collection, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from metazoo.data.images import ImageSet
from metazoo.errors import DataError, UsageError
from metazoo.execution.randomness import generator


def split_classes(image_set: ImageSet, sizes: Sequence[int] | Sequence[float], seed: int) -> tuple[ImageSet, ...]:
    """Split by class into disjoint sets, drawn by `seed`; classes that no part asks for are left out.

    Args:
        image_set: what to split.
        sizes: classes of each part, either all counts (int) or all fractions (float, in sum at most 1).
        seed: of the draw.

    Returns:
        One set a part, its classes in their old order.

    Raises:
        UsageError: the sizes are no counts or fractions, a part would be empty, or they ask for more than there is.
    """
    total = len(image_set.class_names)
    counts = _counts(sizes, total, image_set.name)
    order = torch.randperm(total, generator=generator(seed, "split-classes", image_set.name))
    parts = order[: sum(counts)].split(counts)
    sets = tuple(image_set.select_classes(sorted(part.tolist())) for part in parts)
    assert_disjoint(*(part.class_names for part in sets))
    return sets


def _counts(sizes: Sequence[int] | Sequence[float], total: int, name: str) -> list[int]:
    if sizes and all(isinstance(size, int) and size > 0 for size in sizes):
        counts = [int(size) for size in sizes]
    elif sizes and all(isinstance(size, float) and size > 0 for size in sizes) and sum(sizes) <= 1 + 1e-9:
        # Rounding the running sums gives every class a part when the fractions add up to 1.
        edges = [round(total * sum(sizes[:end])) for end in range(len(sizes) + 1)]
        counts = [after - before for before, after in pairwise(edges)]
    else:
        raise UsageError(
            f"a split of classes takes positive counts, or fractions of at most 1 in sum, not {list(sizes)}"
        )
    if sum(counts) > total or min(counts) < 1:
        raise UsageError(f"{name} has {total} classes, too few to be split into {list(sizes)}; ask for less")
    return counts


def assert_disjoint(*class_names: Collection[str]) -> None:
    """Check that no class name stands in two of the collections.

    Raises:
        DataError: one does; it is named.
    """
    seen: set[str] = set()
    for names in class_names:
        shared = seen & set(names)
        if shared:
            raise DataError(f"class {min(shared)!r} stands on both sides of a split; remove it from one")
        seen |= set(names)


def split_images(image_set: ImageSet, fraction: float = 0.8) -> tuple[ImageSet, ImageSet]:
    """Split the images of every class into the first `fraction` of them, to train, and the rest, to validate.

    Groups stay whole: they are taken in the order in which they first appear, and the cut is the border between two
    groups that is nearest to `fraction`.

    Raises:
        UsageError: `fraction` is not between 0 and 1.
        DataError: a class has fewer than two images, or fewer than two groups; it is named.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"the part of images to train on must lie between 0 and 1, not {fraction}")
    training = torch.zeros(len(image_set), dtype=torch.bool)
    for index, name in enumerate(image_set.class_names):
        members = image_set.indices_of(index)
        kind = "images" if image_set.groups is None else "groups"
        # Without groups every image is one of its own.
        groups = members if image_set.groups is None else image_set.groups[members]
        rank, borders = _group_order(groups)
        if len(borders) < 2:
            raise DataError(
                f"class {name!r} of {image_set.name} has {len(borders)} {kind}, at least 2 are needed to train and "
                "validate; add some or remove the class"
            )
        last = int((borders[:-1] - fraction * len(members)).abs().argmin())
        training[members[rank <= last]] = True
    return image_set.take(training.nonzero().flatten()), image_set.take((~training).nonzero().flatten())


def _group_order(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Each image's group as a rank by first appearance [n], and how many images the first k groups hold [k]."""
    _, compact = torch.unique(groups, return_inverse=True)
    ranks = {group: rank for rank, group in enumerate(dict.fromkeys(compact.tolist()))}
    rank = torch.tensor([ranks[group] for group in compact.tolist()], dtype=torch.int64)
    return rank, torch.bincount(rank).cumsum(0)
