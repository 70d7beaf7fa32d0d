"""Drawing the support and query images of one class."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metazoo.data.images import ImageSet
from metazoo.errors import ArtefactError, UsageError
from metazoo.execution.randomness import seed_of
from metazoo.storage.tensor_files import read_tensor_metadata, read_tensors, write_tensors

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


FORMAT_VERSION = 1
_TENSORS = ("support_indices", "query_indices", "class_indices")
_NUMBERS = ("ways", "shots", "queries", "seed")


@dataclass(frozen=True, eq=False)
class Episode:
    """One N-way K-shot task over an image set.

    Attributes:
        support_indices: positions of the support images, int64 [ways * shots], class after class.
        query_indices: positions of the query images, int64 [ways * queries], class after class.
        class_indices: the classes in the image set, int64 [ways]; their order is that of the relative labels.
    """

    support_indices: Tensor
    query_indices: Tensor
    class_indices: Tensor

    @property
    def ways(self) -> int:
        """Number of classes."""
        return len(self.class_indices)

    @property
    def support_labels(self) -> Tensor:
        """Relative labels (0 to ways - 1) of the support images, int64 [ways * shots]."""
        return torch.arange(self.ways).repeat_interleave(len(self.support_indices) // self.ways)

    @property
    def query_labels(self) -> Tensor:
        """Relative labels (0 to ways - 1) of the query images, int64 [ways * queries]."""
        return torch.arange(self.ways).repeat_interleave(len(self.query_indices) // self.ways)


@dataclass(frozen=True, eq=False)
class EpisodeList:
    """Episodes over one image set; a sequence of `Episode`.

    Attributes:
        support_indices: int64 [episodes, ways * shots].
        query_indices: int64 [episodes, ways * queries].
        class_indices: int64 [episodes, ways].
        ways: classes an episode.
        shots: support images a class.
        queries: query images a class.
        seed: the list was drawn with.
        image_set_sha256: of the image set that the positions point into.
    """

    support_indices: Tensor
    query_indices: Tensor
    class_indices: Tensor
    ways: int
    shots: int
    queries: int
    seed: int
    image_set_sha256: str

    @classmethod
    def draw(
        cls, image_set: ImageSet, ways: int, shots: int, queries: int = 15, episodes: int = 1000, seed: int = 0
    ) -> "EpisodeList":
        """Draw classes uniformly without replacement, then distinct images of each.

        A shorter list is the beginning of a longer one. Where the set has groups, the support and the query of a class
        share none, and the shots come from different groups as far as that leaves enough for the query.

        Raises:
            UsageError: a number is below 1 (`ways` below 2), there are too few classes, or a class has too few images
                or groups; it is named, with what it has and what is needed.
        """
        if ways < 2 or min(shots, queries, episodes) < 1:
            raise UsageError(
                f"episodes need at least 2 ways, 1 shot, 1 query and 1 episode, not {ways} ways, {shots} shots, "
                f"{queries} queries and {episodes} episodes"
            )
        total = len(image_set.class_names)
        if ways > total:
            raise UsageError(
                f"{image_set.name} has {total} classes, too few for {ways}-way episodes; ask for fewer ways"
            )
        pools = class_pools(image_set, shots, queries)
        random = np.random.Generator(np.random.Philox(seed_of(seed, "episodes", f"{ways}-{shots}-{queries}")))
        classes = np.empty((episodes, ways), np.int64)
        support = np.empty((episodes, ways, shots), np.int64)
        query = np.empty((episodes, ways, queries), np.int64)
        for episode in range(episodes):
            # Sorting uniform numbers keeps a list the same across versions of NumPy, which its shuffles do not promise.
            classes[episode] = random.random(total).argsort(kind="stable")[:ways]
            for way, chosen in enumerate(classes[episode].tolist()):
                pool: ClassPool = pools[chosen]
                support[episode, way], query[episode, way] = pool.draw(random)
        return cls(
            torch.from_numpy(support.reshape(episodes, -1)),
            torch.from_numpy(query.reshape(episodes, -1)),
            torch.from_numpy(classes),
            ways=ways,
            shots=shots,
            queries=queries,
            seed=seed,
            image_set_sha256=image_set.sha256,
        )

    def __len__(self) -> int:
        return len(self.class_indices)

    def __getitem__(self, index: int) -> Episode:
        return Episode(self.support_indices[index], self.query_indices[index], self.class_indices[index])

    def __iter__(self) -> Iterator[Episode]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def sha256(self) -> str:
        """Hash over the image set's hash, ways, shots, queries, seed and every position, in hexadecimal."""
        head = [self.image_set_sha256, len(self), *(getattr(self, name) for name in _NUMBERS)]
        digest = hashlib.sha256(json.dumps(head, separators=(",", ":")).encode())
        for name in _TENSORS:
            digest.update(getattr(self, name).contiguous().numpy().data)
        return digest.hexdigest()

    def check_drawn_from(self, image_set: ImageSet) -> None:
        """Check that the positions point into `image_set`.

        Raises:
            UsageError: the list was drawn from other images.
        """
        if self.image_set_sha256 != image_set.sha256:
            raise UsageError(f"this episode list was not drawn from {image_set.name} as it is now; draw it again")

    def save(self, path: Path | str) -> str:
        """Store the list as safetensors; the SHA-256 of the file is returned.

        Raises:
            ArtefactError: the file cannot be written.
        """
        metadata = {name: str(getattr(self, name)) for name in _NUMBERS}
        metadata |= {"image_set_sha256": self.image_set_sha256, "sha256": self.sha256}
        metadata |= {"format": "metazoo-episodes", "format_version": str(FORMAT_VERSION)}
        return write_tensors(path, {name: getattr(self, name) for name in _TENSORS}, metadata)

    @classmethod
    def load(cls, path: Path | str) -> "EpisodeList":
        """Read a stored list and check its hash.

        Raises:
            ArtefactError: missing, not an episode list, of another format version, or changed.
        """
        tensors, metadata = read_tensors(path), read_tensor_metadata(path)
        if metadata.get("format") != "metazoo-episodes" or metadata.get("format_version") != str(FORMAT_VERSION):
            raise ArtefactError(f"{path} is not an episode list of format version {FORMAT_VERSION}; draw it again")
        try:
            ways, shots, queries, seed = (int(metadata[name]) for name in _NUMBERS)
            parts = support, query, classes = tuple(tensors[name] for name in _TENSORS)
            episodes = cls(support, query, classes, ways, shots, queries, seed, metadata["image_set_sha256"])
            sound = all(part.dtype == torch.int64 and part.dim() == 2 for part in parts)
            sound = sound and episodes.sha256 == metadata["sha256"]
        except (KeyError, ValueError) as error:
            raise ArtefactError(f"{path} is an incomplete episode list ({error}); draw it again") from error
        if not sound:
            raise ArtefactError(f"{path} has changed since it was written; draw it again")
        return episodes
