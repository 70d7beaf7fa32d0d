"""Statistics of a partition into groups, and the choice of the teachers of a learning step."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from metazoo.errors import DataError, UsageError
from metazoo.taskspace.partitions import Partition


@dataclass(frozen=True)
class GroupQuality:
    """Mean distances of a partition over pairs of teachers; None if there is no such pair.

    Attributes:
        strategy: strategy of the partition.
        sizes: number of teachers of each group.
        within_mean: mean over all pairs of the same group.
        between_mean: mean over all pairs of different groups.
        ratio: `within_mean / between_mean`, above 1 if groups hold unlike teachers; None also if `between_mean` is 0.
        closest_within: smallest distance within a group, 0 for duplicates in one group.
        group_means: mean over the pairs of each group.
        notes: notes of the partition.
    """

    strategy: str
    sizes: tuple[int, ...]
    within_mean: float | None
    between_mean: float | None
    ratio: float | None
    closest_within: float | None
    group_means: tuple[float | None, ...]
    notes: tuple[str, ...]

    def as_record(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


@dataclass(frozen=True)
class GroupRow:
    """Row of the group table: names, counts by domain and architecture, and mean distance of the members of a group."""

    index: int
    members: tuple[str, ...]
    domains: dict[str, int]
    architectures: dict[str, int]
    mean_distance: float | None


def group_quality(distance: Float[Tensor, "N N"], partition: Partition) -> GroupQuality:
    """Compute the statistics of `partition` for a symmetric `distance`.

    Raises:
        DataError: the groups are not a partition of the N teachers.
    """
    count = len(distance)
    labels = torch.full((count,), -1)
    if sorted(index for members in partition.groups for index in members) != list(range(count)):
        raise DataError("groups", f"not a partition of the {count} teachers", "group the teachers again")
    for number, members in enumerate(partition.groups):
        labels[list(members)] = number
    rows, columns = torch.triu_indices(count, count, 1)
    values = distance.detach().double().cpu()[rows, columns]
    same = labels[rows] == labels[columns]
    within, between = _mean(values[same]), _mean(values[~same])
    return GroupQuality(
        strategy=partition.strategy,
        sizes=tuple(len(members) for members in partition.groups),
        within_mean=within,
        between_mean=between,
        ratio=within / between if within is not None and between else None,
        closest_within=float(values[same].min()) if same.any() else None,
        group_means=tuple(_mean(values[same & (labels[rows] == number)]) for number in range(len(partition))),
        notes=partition.notes,
    )


def group_rows(
    distance: Float[Tensor, "N N"],
    partition: Partition,
    *,
    names: Sequence[str],
    domains: Sequence[str],
    architectures: Sequence[str],
) -> tuple[GroupRow, ...]:
    """Make the group table, one row per group, from the `names`, `domains` and `architectures` of the N teachers.

    Raises:
        DataError: the groups are not a partition of the N teachers, or a name, domain or architecture is missing.
    """
    if not len(names) == len(domains) == len(architectures) == len(distance):
        raise DataError("group table", f"needs a name, domain and architecture for each of {len(distance)} teachers")
    means = group_quality(distance, partition).group_means
    return tuple(
        GroupRow(
            index=number,
            members=tuple(names[index] for index in members),
            domains=dict(sorted(Counter(domains[index] for index in members).items())),
            architectures=dict(sorted(Counter(architectures[index] for index in members).items())),
            mean_distance=means[number],
        )
        for number, members in enumerate(partition.groups)
    )


def draw_members(
    partition: Partition,
    group_size: int,
    generator: torch.Generator,
    *,
    replacement: bool = False,
    weights: Float[Tensor, " N"] | None = None,
) -> tuple[int, tuple[int, ...]]:
    """Draw the teachers of one learning step: the index of a group, and the indices of up to `group_size` members.

    All groups have the same probability, whatever their size, as published (TGR, ICML 2024). A teacher of a small group
    is therefore drawn more often. A group of fewer members gives all of them. Deviation: members are drawn without
    replacement (published: with `replacement`, so that a teacher may be drawn several times).

    Args:
        partition: groups of the N teachers.
        group_size: largest number of teachers, at least 1.
        generator: random generator.
        replacement: whether members are drawn with replacement.
        weights: probabilities of the teachers up to a factor, above 0; a group is drawn by its mean weight.

    Raises:
        UsageError: `group_size` is below 1.
    """
    if group_size < 1:
        raise UsageError("group_size", f"must be at least 1, not {group_size}")
    if weights is not None:
        own = [weights[list(members)].double() for members in partition.groups]
        number = int(torch.multinomial(torch.stack([values.mean() for values in own]), 1, generator=generator))
        members = partition.groups[number]
        most = group_size if replacement else min(group_size, len(members))
        drawn = torch.multinomial(own[number], most, replacement, generator=generator)
        return number, tuple(members[position] for position in drawn.tolist())
    number = int(torch.randint(len(partition), (1,), generator=generator))
    members = partition.groups[number]
    if replacement:
        drawn = torch.randint(len(members), (group_size,), generator=generator)
    else:
        drawn = torch.randperm(len(members), generator=generator)[:group_size]
    return number, tuple(members[position] for position in drawn.tolist())


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if values.numel() else None
