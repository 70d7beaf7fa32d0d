"""Balanced partition by pairwise exchange: the search behind the dispersed and the homogeneous groups.

Exchange from several random starts is the usual heuristic of the maximum-dispersion problem (Späth 1986; Papenberg and
Klau 2021, "Using anticlustering to partition data sets into equivalent parts").
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch

from metazoo.errors import UsageError

STARTS = 10
MOST_ITEMS = 5000

Spread: TypeAlias = np.ndarray
"""Labels [N] of items; items of one label are to be spread over the groups as evenly as can be."""


def largest_within(
    weights: np.ndarray, groups: int, spreads: Sequence[Spread] = (), *, seed: int = 0, starts: int = STARTS
) -> np.ndarray:
    """Balanced groups of the greatest total weight within groups, a local optimum over `starts` random starts.

    Every start deals the items out in turn, those of one label after each other, which spreads each label as evenly as
    can be; a pair of one label then weighs less than all weights together, so that no exchange undoes it. Where N is no
    multiple of `groups`, weightless items that are spread likewise fill the smaller groups: exchanging one with an item
    moves that item. All arithmetic is in whole numbers and hence exact.

    Args:
        weights: int64 [N, N], symmetric, zero diagonal, up to 1e6 in size; N up to 5000, so that no sum overflows.
        groups: from 2 to N.
        spreads: the most important first; labels of an earlier one must refine those of a later one.
        seed: of the starts.
        starts: at least 1; the best is taken, the first of equals.

    Returns:
        int64 [N], the group of each item, in [0, groups).

    Raises:
        UsageError: more than 5000 items.
    """
    count = len(weights)
    if count > MOST_ITEMS:
        raise UsageError(f"at most {MOST_ITEMS} teachers can be grouped by distance, not {count}; group them at random")
    fillers = -count % groups
    total = count + fillers
    padded = np.zeros((total, total), dtype=np.int64)
    padded[:count, :count] = weights
    filled = [np.concatenate([labels, np.full(fillers, count)]) for labels in (*spreads, np.arange(count))]
    # the items themselves are the finest labels; only the fillers share one, so this level keeps the sizes balanced
    levels = [filled[-1], *filled[:-1]]
    for labels in reversed(levels):
        reach = 4 * (total // groups + 1) * int(np.abs(padded).max()) + 1
        together = labels[:, None] == labels[None, :]
        np.fill_diagonal(together, False)
        padded -= reach * together
    generator = torch.Generator().manual_seed(seed)
    best, best_total = np.zeros(total, dtype=np.int64), None
    for _ in range(starts):
        assignment = _exchange(padded, _deal(levels, groups, generator), groups)
        kept = assignment[:count]
        found = int(weights[kept[:, None] == kept[None, :]].sum())
        if best_total is None or found > best_total:
            best, best_total = assignment, found
    return best[:count]


def _deal(levels: Sequence[np.ndarray], groups: int, generator: torch.Generator) -> np.ndarray:
    total = len(levels[0])
    shuffled = [torch.randperm(total, generator=generator).numpy()]
    shuffled += [torch.randperm(total, generator=generator).numpy()[labels] for labels in levels]
    assignment = np.empty(total, dtype=np.int64)
    assignment[np.lexsort(shuffled)] = np.arange(total) % groups
    return assignment


def _exchange(weights: np.ndarray, assignment: np.ndarray, groups: int) -> np.ndarray:
    """Exchange each item in turn with its best partner of another group until no exchange gains."""
    items = np.arange(len(weights))
    links = weights @ np.eye(groups, dtype=np.int64)[assignment]
    waiting = len(items)
    item = -1
    while waiting:
        item = (item + 1) % len(items)
        waiting -= 1
        own = assignment[item]
        gain = links[:, own] - links[items, assignment] + links[item, assignment] - links[item, own] - 2 * weights[item]
        gain[assignment == own] = 0
        partner = int(gain.argmax())
        if gain[partner] <= 0:
            continue
        other = assignment[partner]
        change = weights[partner] - weights[item]
        links[:, own] += change
        links[:, other] -= change
        assignment[item], assignment[partner] = other, own
        waiting = len(items)
    return assignment
