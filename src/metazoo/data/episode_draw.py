"""Drawing the support and query images of one class."""

from dataclasses import dataclass

import numpy as np

from metazoo.data.images import ImageSet
from metazoo.errors import UsageError

Drawn = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class ClassPool:
    """The images of one class, at least `shots + queries`.

    Attributes:
        members: positions of its images, int64 [m].
        groups: compact group number of each image, int64 [m], or None if every image stands for itself.
        shots: support images to draw.
        queries: query images to draw.
    """

    members: np.ndarray
    groups: np.ndarray | None
    shots: int
    queries: int

    def draw(self, random: np.random.Generator) -> Drawn:
        """Positions of `shots` support and `queries` query images, all different, no group on both sides."""
        order = random.random(len(self.members)).argsort(kind="stable")
        if self.groups is None:
            chosen = self.members[order[: self.shots + self.queries]]
            return chosen[: self.shots], chosen[self.shots :]
        groups = self.groups[order]
        chosen_groups = self._support_groups(groups)
        inside = np.isin(groups, chosen_groups)
        candidates, others = order[inside], order[~inside]
        # One image of each support group first, then whatever these groups still have.
        _, first = np.unique(groups[inside], return_index=True)
        rest = np.delete(np.arange(len(candidates)), first)
        picked = candidates[np.concatenate([np.sort(first), rest])[: self.shots]]
        return self.members[picked], self.members[others[: self.queries]]

    def _support_groups(self, shuffled: np.ndarray) -> list[int]:
        """Groups for the support: in random order, at most one a shot, skipping what would leave a side too small."""
        order = list(dict.fromkeys(shuffled.tolist()))
        sizes = np.bincount(shuffled)[order].tolist()
        lowest, highest = self.shots, len(shuffled) - self.queries
        sums = _sums_of_rests(sizes)
        chosen: list[int] = []
        held = 0
        for position, (group, size) in enumerate(zip(order, sizes, strict=True)):
            if len(chosen) == self.shots:
                break
            if _reaches(sums[position + 1], lowest - held - size, highest - held - size):
                chosen.append(group)
                held += size
        return chosen


def _sums_of_rests(sizes: list[int]) -> list[int]:
    """For every k the sums that subsets of `sizes[k:]` can have, as bits: bit s is set if s can be reached."""
    sums = [1]
    for size in reversed(sizes):
        sums.append(sums[-1] | sums[-1] << size)
    return sums[::-1]


def _reaches(sums: int, lowest: int, highest: int) -> bool:
    """Whether a sum between `lowest` and `highest` is set."""
    return highest >= 0 and (sums & ((1 << highest + 1) - 1)) >> max(lowest, 0) != 0


def class_pools(image_set: ImageSet, shots: int, queries: int) -> list[ClassPool]:
    """One pool for every class of the set.

    Raises:
        UsageError: a class has too few images, or groups that cannot be kept apart; it is named.
    """
    pools = []
    need = f"{shots} support and {queries} query images"
    remedy = "ask for fewer shots or queries, or remove the class"
    for index, name in enumerate(image_set.class_names):
        members = image_set.indices_of(index).numpy()
        if len(members) < shots + queries:
            raise UsageError(
                f"class {name!r} of {image_set.name} has {len(members)} images, {shots + queries} are needed "
                f"for {need}; {remedy}"
            )
        groups = None
        if image_set.groups is not None:
            _, groups = np.unique(image_set.groups.numpy()[members], return_inverse=True)
            sums = _sums_of_rests(np.bincount(groups).tolist())[0]
            if not _reaches(sums, shots, len(members) - queries):
                raise UsageError(
                    f"class {name!r} of {image_set.name} has {len(members)} images in {groups.max() + 1} groups, which "
                    f"cannot be parted into {need} without a group on both sides; {remedy}"
                )
        pools.append(ClassPool(members, groups, shots, queries))
    return pools
