"""Strategies that group the teachers whose tasks the meta-model learns together.

Most strategies split the zoo once, by distances of the teachers, into a `Partition`. Others change the groups while the
meta-model learns; see `ChangingGroups`.

TGR (ICML 2024) puts unlike teachers into one group. This is the maximum-dispersion or anticlustering problem: split N
items into groups of equal size so that the distances within the groups are greatest (Späth 1986; Brusco, Cradit and
Steinley 2020). `dispersed` solves it directly. The published method, spectral clustering with the distance as affinity,
only approximates it, and groups may have any size.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, final

import numpy as np
import torch
from pydantic import AfterValidator
from sklearn.cluster import SpectralClustering
from torch import Tensor

from metazoo.errors import DataError, MetazooError, UsageError
from metazoo.plugins import Registry
from metazoo.taskspace.exchange import largest_within
from metazoo.taskspace.partitions import Grouping, Partition
from metazoo.taskspace.selective import AffinityConfig, SelectiveGrouping

_SPECTRAL_SEED = 42
_LEVELS = 1_000_000


def group(distance: Tensor, strategy: str, groups: int, *, keys: Sequence[str], seed: int = 0) -> Partition:
    """Split a zoo of N teachers into groups.

    | strategy | groups |
    |---|---|
    | `dispersed` | balanced, the greatest total distance within groups |
    | `spectral` | spectral clustering with the distance as affinity, sizes free, seed 42 (as published) |
    | `homogeneous` | balanced, the smallest total distance within groups |
    | `random` | balanced, drawn with `seed` |
    | `single` | one group of all |

    Balanced: sizes differ by at most one. The number of groups is at most N // 2 (at least 1), so that no balanced
    group has one member unless N = 1. `spectral` may find fewer groups than requested; `notes` then says so.

    `dispersed` and `homogeneous` are pairwise exchange searches from several starts (see `exchange`): local optima,
    exact for most small zoos. `dispersed` separates duplicates, since their distance of 0 adds nothing within a group.

    The order of the zoo does not matter: all computations run in the order of `keys`, with distances rounded to whole
    millionths of the greatest one, so that sums and ties are exact. Members are sorted by key, groups by the key of
    their first member. The result depends on `seed` for `random` and, through the starts, for the two searches.

    Args:
        distance: [N, N], symmetric, at least 0, zero on the diagonal (see `dissimilarity_matrix`).
        strategy: name of a strategy in `GROUPINGS` that groups by distances.
        groups: number of groups, at least 1; not used by `single`.
        keys: N different names of the teachers, which do not depend on the order of the zoo.
        seed: seed of `random` or of the starts.

    Raises:
        DataError: `distance` is not such a matrix.
        UsageError: the strategy is unknown or has no groups before the meta-model learns, `groups` is below 1, `keys`
            are not N different names, or a registered grouping does not return one group per teacher.
    """
    split = GROUPINGS.get(strategy)
    if isinstance(split, ChangingGroups):
        problem = "has no groups before the meta-model learns"
        raise UsageError(f"grouping {strategy!r}", problem, "use a strategy that groups by distances")
    if groups < 1:
        raise UsageError("groups", f"must be at least 1, not {groups}")
    values = _checked(distance)
    count = len(values)
    if len(keys) != count or len(set(keys)) != count:
        raise UsageError("keys", f"{len(set(keys))} different keys for {count} teachers", "use different keys")
    order = np.array(sorted(range(count), key=lambda index: keys[index]))
    values = values[np.ix_(order, order)]
    groups = min(groups, max(1, count // 2))
    assignment, notes = _single(values, 1, seed) if groups == 1 else split(values, groups, seed)
    if not isinstance(assignment, np.ndarray) or assignment.shape != (count,) or assignment.dtype.kind != "i":
        raise UsageError(f"grouping {strategy!r}", "result is no array of integers", f"return integers [{count}]")
    positions = sorted(np.flatnonzero(assignment == index).tolist() for index in np.unique(assignment))
    return Partition(tuple(tuple(int(order[index]) for index in members) for members in positions), strategy, notes)


def _checked(distance: Tensor) -> np.ndarray:
    values = distance.detach().double().cpu()
    if values.ndim != 2 or values.shape[0] != values.shape[1] or len(values) == 0:
        raise DataError("distance", f"must be a square matrix of at least one teacher, not {list(values.shape)}")
    if not torch.isfinite(values).all() or (values < 0).any():
        raise DataError("distance", "some entries are negative or not finite", "compute the task space again")
    if (values != values.T).any() or (values.diagonal() != 0).any():
        raise DataError("distance", "not symmetric with a zero diagonal", "symmetrise it")
    return values.numpy()


def _single(values: np.ndarray, _groups: int, _seed: int) -> tuple[np.ndarray, tuple[str, ...]]:
    return np.zeros(len(values), dtype=np.int64), ()


def _random(values: np.ndarray, groups: int, seed: int) -> tuple[np.ndarray, tuple[str, ...]]:
    return torch.randperm(len(values), generator=torch.Generator().manual_seed(seed)).numpy() % groups, ()


def _searched(values: np.ndarray, groups: int, sign: int, seed: int) -> np.ndarray:
    greatest = values.max()
    levels = np.rint(values * (_LEVELS / greatest if greatest > 0 else 0)).astype(np.int64)
    return largest_within(sign * levels, groups, seed=seed)


def _spectral(values: np.ndarray, groups: int, _seed: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Published clustering; warnings of scikit-learn (disconnected graph, fewer clusters) are returned as notes."""
    if not values.any():
        return np.zeros(len(values), dtype=np.int64), ("all distances are zero, so there is one group",)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            clustering = SpectralClustering(
                groups, affinity="precomputed", assign_labels="kmeans", n_init=30, random_state=_SPECTRAL_SEED
            )
            assignment = np.asarray(clustering.fit_predict(values))
        except (np.linalg.LinAlgError, RuntimeError) as error:
            return np.zeros(len(values), dtype=np.int64), (f"spectral clustering failed ({error}): one group",)
    notes = [f"{warning.category.__name__}: {warning.message}" for warning in caught]
    found = len(np.unique(assignment))
    if found < groups:
        notes.append(f"spectral clustering found {found} of {groups} groups")
    return assignment.astype(np.int64), tuple(dict.fromkeys(notes))


GroupingFunction = Callable[[np.ndarray, int, int], tuple[np.ndarray, tuple[str, ...]]]
"""Function of the distance [N, N] in the order of the keys, the number of groups (2 or more) and the seed. It returns
the group of each teacher, integer [N], and notes on problems."""


@final
@dataclass(frozen=True)
class ChangingGroups:
    """Strategy whose groups change while the meta-model learns; it needs no distances.

    Attributes:
        build: function that makes the `Grouping` of N teachers, from N and the options of affinity. It is also called
            for a trial before any work.
        in_turn: whether the groups matter only if they are updated in turn; then other update rules are refused.
    """

    build: Callable[[int, AffinityConfig], Grouping]
    in_turn: bool = False


GROUPINGS: Registry[GroupingFunction | ChangingGroups] = Registry(
    "grouping",
    values={
        "dispersed": lambda values, groups, seed: (_searched(values, groups, 1, seed), ()),
        "spectral": _spectral,
        "homogeneous": lambda values, groups, seed: (_searched(values, groups, -1, seed), ()),
        "random": _random,
        "single": _single,
        "selective": ChangingGroups(SelectiveGrouping, in_turn=True),
    },
)
register_grouping = GROUPINGS.register
"""Register a `GroupingFunction` or `ChangingGroups`: `register_grouping(name, strategy)`, or the decorator
`register_grouping(name)` of a function."""

Strategy = Annotated[str, AfterValidator(GROUPINGS.validate)]
"""Type of an option that names a grouping; validation refuses unknown names."""


@final
class CheckedGrouping(Grouping):
    """Grouping of a strategy that refuses groups that a learner cannot use.

    Args:
        strategy: name of `ChangingGroups` in `GROUPINGS`.
        count: number of teachers.
        options: options of affinity.

    Raises:
        UsageError: the strategy groups by distances, or `draw` or `sub_groups` returns no partition.
    """

    def __init__(self, strategy: str, count: int, options: AffinityConfig) -> None:
        changing = GROUPINGS.get(strategy)
        if not isinstance(changing, ChangingGroups):
            raise UsageError(f"grouping {strategy!r}", "groups by distances", "register it as ChangingGroups")
        self._strategy, self._count, self._grouping = strategy, count, changing.build(count, options)
        self.observes = self._grouping.observes

    def draw(self, step: int, random: torch.Generator) -> Partition:  # noqa: D102
        found = self._grouping.draw(step, random)
        if not isinstance(found, Partition) or not _splits(found.groups, self._count):
            problem = f"draws no partition of the {self._count} teachers in step {step}"
            raise UsageError(f"grouping {self._strategy!r}", problem, "put each teacher into one group")
        return found

    def sub_groups(self, members: Sequence[int]) -> tuple[tuple[int, ...], ...]:  # noqa: D102
        found = self._grouping.sub_groups(members)
        if found and not _splits(found, len(members)):
            problem = f"splits the {len(members)} members of a step into the sub-groups {found}"
            remedy = "put each position of a member into one sub-group"
            raise UsageError(f"grouping {self._strategy!r}", problem, remedy)
        return found

    def observe(  # noqa: D102
        self, sources: Sequence[int], members: Sequence[int], losses_before: Tensor, losses_after: Tensor
    ) -> None:
        self._grouping.observe(sources, members, losses_before, losses_after)

    def state(self) -> dict[str, Tensor]:  # noqa: D102
        return self._grouping.state()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: D102
        self._grouping.restore(tensors)


def _splits(groups: Sequence[Sequence[int]], count: int) -> bool:
    """Whether the groups have each number from 0 to `count` - 1 once, and none is empty."""
    return all(map(len, groups)) and sorted(index for group in groups for index in group) == list(range(count))


def try_strategy(strategy: str, count: int, options: AffinityConfig) -> None:
    """Check a strategy before any work; if its groups change, draw some for `count` teachers.

    Raises:
        UsageError: the strategy is unknown or neither a function nor `ChangingGroups`, or the draw fails.
    """
    split, subject = GROUPINGS.get(strategy), f"grouping {strategy!r}"
    if not isinstance(split, ChangingGroups):
        if isinstance(split, type) or not callable(split):
            problem = f"is neither a function of distances nor ChangingGroups, but {split!r}"
            raise UsageError(subject, problem, "register a function or ChangingGroups")
        return
    try:
        grouping = CheckedGrouping(strategy, count, options)
        grouping.sub_groups(grouping.draw(0, torch.Generator().manual_seed(0)).groups[0])
    except MetazooError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        problem = f"fails for {count} teachers ({type(error).__name__}: {reason})"
        raise UsageError(subject, problem, "correct the package that registers it") from error
