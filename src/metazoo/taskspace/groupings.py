"""Groups of teachers whose tasks the meta-model learns together.

A `Partition` is one split of the zoo, made from distances. A `Grouping` chooses the partition of each learning step,
and may change it while the meta-model learns.

TGR (ICML 2024) puts unlike teachers into one group. This is the maximum-dispersion or anticlustering problem: split N
items into groups of equal size so that the distances within the groups are greatest (Späth 1986; Brusco, Cradit and
Steinley 2020). `dispersed` solves it directly. The published method, spectral clustering with the distance as affinity,
only approximates it, and groups may have any size.
"""

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from pydantic import AfterValidator
from sklearn.cluster import SpectralClustering
from torch import Tensor

from metazoo.errors import ArtefactError, DataError, UsageError
from metazoo.plugins import Registry
from metazoo.taskspace.exchange import largest_within

_SPECTRAL_SEED = 42
_LEVELS = 1_000_000


@dataclass(frozen=True)
class Partition:
    """Partition of a zoo into groups of teachers.

    Attributes:
        groups: indices of the teachers of each group.
        strategy: name of the strategy that made it.
        notes: problems that the strategy met.
    """

    groups: tuple[tuple[int, ...], ...]
    strategy: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.groups)

    def among(self, indices: Collection[int]) -> "Partition":
        """Restrict every group to `indices`, without groups that become empty."""
        parts = (tuple(index for index in members if index in indices) for members in self.groups)
        return Partition(tuple(filter(None, parts)), self.strategy, self.notes)

    def within(self, indices: Sequence[int]) -> "Partition":
        """Restrict every group to `indices` and renumber the teachers by their position in `indices`."""
        position = {index: number for number, index in enumerate(indices)}
        groups = (tuple(position[index] for index in members) for members in self.among(position).groups)
        return Partition(tuple(groups), self.strategy, self.notes)

    def as_record(self, names: Sequence[str]) -> dict[str, Any]:
        """JSON form with members by name; `names` are those of all models of the zoo, in its order."""
        return {
            "format_version": 1,
            "strategy": self.strategy,
            "groups": [[names[index] for index in members] for members in self.groups],
            "notes": list(self.notes),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any], names: Sequence[str]) -> "Partition":
        """Read a record of `as_record`, for a zoo of the same models in any order.

        Raises:
            ArtefactError: the record has another format or was made for other models.
        """
        try:
            version, strategy, notes = record["format_version"], str(record["strategy"]), record["notes"]
            members = [[str(name) for name in group] for group in record["groups"]]
        except (KeyError, TypeError) as error:
            raise ArtefactError("stored groups", "damaged record", "group the teachers again") from error
        if version != 1:
            raise ArtefactError("stored groups", f"format {version!r}, not 1", "group the teachers again")
        if sorted(name for group in members for name in group) != sorted(names):
            raise ArtefactError("stored groups", "other models than those of this zoo", "group the teachers again")
        position = {name: index for index, name in enumerate(names)}
        groups = tuple(tuple(position[name] for name in group) for group in members)
        return cls(groups, strategy, tuple(str(note) for note in notes))


@runtime_checkable
class Grouping(Protocol):
    """Groups of teachers that may change while the meta-model learns.

    The defaults, for subclasses: no observation, no state.

    Attributes:
        observes: whether `observe` is called, which needs the losses of the members a second time after each step.
    """

    observes: bool = False

    def draw(self, step: int, random: torch.Generator) -> Partition:
        """Partition of all teachers for one learning step, called once per step, in order.

        Args:
            step: number of the step, from 0.
            random: generator of this step. Use no other randomness, so that a resumed run draws the same.
        """
        ...

    def observe(
        self,
        sources: Sequence[int],
        members: Sequence[int],
        losses_before: Float[Tensor, " T"],
        losses_after: Float[Tensor, " T"],
    ) -> None:
        """Record how one update of the parameters changed the losses.

        Args:
            sources: indices of the teachers whose losses the update was computed from; some or all of `members`.
            members: indices of the teachers of the step, [T].
            losses_before: losses of `members` before the update.
            losses_after: losses of `members` on the same images after the update.
        """

    def state(self) -> dict[str, Tensor]:
        """State for a checkpoint: tensors by name."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore a result of `state`, which may be empty.

        Raises:
            DataError: the tensors are no state of this grouping.
        """
        if tensors:
            raise DataError("checkpoint", "groups of another strategy", "start the run again")


@final
class FixedGrouping(Grouping):
    """The same partition at every step."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition

    def draw(self, step: int, random: torch.Generator) -> Partition:  # noqa: D102
        return self.partition


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
        strategy: name of a strategy in `GROUPINGS`.
        groups: number of groups, at least 1; not used by `single`.
        keys: N different names of the teachers, which do not depend on the order of the zoo.
        seed: seed of `random` or of the starts.

    Raises:
        DataError: `distance` is not such a matrix.
        UsageError: the strategy is unknown, `groups` is below 1, `keys` are not N different names, or a registered
            grouping does not return one group per teacher.
    """
    split = GROUPINGS.get(strategy)
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

GROUPINGS: Registry[GroupingFunction] = Registry(
    "grouping",
    values={
        "dispersed": lambda values, groups, seed: (_searched(values, groups, 1, seed), ()),
        "spectral": _spectral,
        "homogeneous": lambda values, groups, seed: (_searched(values, groups, -1, seed), ()),
        "random": _random,
        "single": _single,
    },
)
register_grouping = GROUPINGS.register
"""Register a `GroupingFunction`: `register_grouping(name, function)`, or the decorator `register_grouping(name)`."""

Strategy = Annotated[str, AfterValidator(GROUPINGS.validate)]
"""Type of an option that names a grouping; validation refuses unknown names."""
