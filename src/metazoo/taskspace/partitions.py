"""Partitions of a zoo into groups of teachers, and groupings, which choose the partition of each learning step."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from metazoo.errors import ArtefactError, DataError


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
        observes: whether `observe` is called, which needs the losses of the members again after each update.
    """

    observes: bool = False

    def draw(self, step: int, random: torch.Generator) -> Partition:
        """Partition of all teachers for one learning step, called once per step, in order.

        Args:
            step: number of the step, from 0.
            random: generator of this step. Use no other randomness, so that a resumed run draws the same.
        """
        ...

    def sub_groups(self, members: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Split the members of one step into the sub-groups that are updated in turn.

        Args:
            members: indices of the teachers of the step, [T]; a teacher may be there twice.

        Returns:
            Positions of members, 0 to T - 1, each in one sub-group, in the order of the updates. It is empty if the
            update rule splits the members.
        """
        return ()

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


def one_group(count: int) -> FixedGrouping:
    """Grouping of `count` teachers into one group."""
    return FixedGrouping(Partition((tuple(range(count)),), "single"))
