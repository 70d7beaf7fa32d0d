"""Balanced partition by pairwise exchange, the search for dispersed and homogeneous groups.

Exchange from several random starts is the usual heuristic of the maximum-dispersion problem (Späth 1986; Papenberg and
Klau 2021, "Using anticlustering to partition data sets into equivalent parts").
"""

import numpy as np
import torch

from metazoo.errors import UsageError

STARTS = 10
MOST_ITEMS = 5000


def largest_within(weights: np.ndarray, groups: int, *, seed: int = 0, starts: int = STARTS) -> np.ndarray:
    """Find balanced groups of the greatest total weight within groups, a local optimum over `starts` random starts.

    Where N is no multiple of `groups`, each smaller group is filled up with one item without weight: exchanging it for
    an item moves that item. All arithmetic is in integers and hence exact.

    Args:
        weights: int64 [N, N], symmetric, zero diagonal, up to 1e6 in size; N up to 5000, so that no sum overflows.
        groups: number of groups, from 2 to N.
        seed: seed of the starts.
        starts: number of starts, at least 1; the best is returned, the first one of equal ones.

    Returns:
        int64 [N], the group of each item, in [0, groups).

    Raises:
        UsageError: N is above 5000.
    """
    count = len(weights)
    if count > MOST_ITEMS:
        raise UsageError(
            f"{count} teachers", f"at most {MOST_ITEMS} can be grouped by distance", "choose the grouping random"
        )
    total = count + -count % groups
    padded = np.zeros((total, total), dtype=np.int64)
    padded[:count, :count] = weights
    # Two fillers in one group cost more than all items gain together, so that no exchange joins them.
    padded[count:, count:] = -(4 * (total // groups + 1) * int(np.abs(weights).max()) + 1)
    np.fill_diagonal(padded, 0)
    generator = torch.Generator().manual_seed(seed)
    best, best_total = np.zeros(count, dtype=np.int64), None
    for _ in range(starts):
        assignment = _exchange(padded, _deal(count, total, groups, generator), groups)[:count]
        found = int(weights[assignment[:, None] == assignment[None, :]].sum())
        if best_total is None or found > best_total:
            best, best_total = assignment, found
    return best


def _deal(count: int, total: int, groups: int, generator: torch.Generator) -> np.ndarray:
    """Assign items to the groups in turn, in random order, with the fillers in direct succession."""
    ranks, labels = (torch.randperm(total, generator=generator).numpy() for _ in range(2))
    assignment = np.empty(total, dtype=np.int64)
    assignment[np.lexsort((ranks, labels[np.minimum(np.arange(total), count)]))] = np.arange(total) % groups
    return assignment


def _exchange(weights: np.ndarray, assignment: np.ndarray, groups: int) -> np.ndarray:
    """Exchange each item in turn with its best partner of another group, until no exchange raises the total."""
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
