"""Few-shot episodes: draws of classes, support images and query images."""

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
    """Images of one class to draw from, at least `shots + queries`.

    Attributes:
        members: indices of the images, int64 [m].
        groups: group of each image, numbered from 0, int64 [m]; None if every image is its own group.
        shots: number of support images to draw.
        queries: number of query images to draw.
    """

    members: np.ndarray
    groups: np.ndarray | None
    shots: int
    queries: int

    def draw(self, random: np.random.Generator) -> Drawn:
        """Draw indices of `shots` support and `queries` query images, all different and without common groups."""
        order = random.random(len(self.members)).argsort(kind="stable")
        if self.groups is None:
            chosen = self.members[order[: self.shots + self.queries]]
            return chosen[: self.shots], chosen[self.shots :]
        groups = self.groups[order]
        chosen_groups = self._support_groups(groups)
        inside = np.isin(groups, chosen_groups)
        candidates, others = order[inside], order[~inside]
        # First one image of each support group, then the other images of these groups.
        _, first = np.unique(groups[inside], return_index=True)
        rest = np.delete(np.arange(len(candidates)), first)
        picked = candidates[np.concatenate([np.sort(first), rest])[: self.shots]]
        return self.members[picked], self.members[others[: self.queries]]

    def _support_groups(self, shuffled: np.ndarray) -> list[int]:
        """Draw at most `shots` groups for the support, skipping groups that would leave a side with too few images."""
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
    """For every k, the sums of all subsets of `sizes[k:]` as bits: bit s is set if s is such a sum."""
    sums = [1]
    for size in reversed(sizes):
        sums.append(sums[-1] | sums[-1] << size)
    return sums[::-1]


def _reaches(sums: int, lowest: int, highest: int) -> bool:
    """Whether a bit from `lowest` to `highest` is set."""
    return highest >= 0 and (sums & ((1 << highest + 1) - 1)) >> max(lowest, 0) != 0


def class_pools(image_set: ImageSet, shots: int, queries: int) -> list[ClassPool]:
    """Make one pool for each class of the set.

    Raises:
        UsageError: a class has too few images, or its groups cannot be separated into support and query.
    """
    pools = []
    need = f"{shots} support and {queries} query images"
    remedy = "ask for fewer shots or queries, or remove the class"
    for index, name in enumerate(image_set.class_names):
        members = image_set.indices_of(index).numpy()
        subject = f"class {name!r} of {image_set.name}"
        if len(members) < shots + queries:
            raise UsageError(subject, f"has {len(members)} images, but {need} are needed", remedy)
        groups = None
        if image_set.groups is not None:
            _, groups = np.unique(image_set.groups.numpy()[members], return_inverse=True)
            sums = _sums_of_rests(np.bincount(groups).tolist())[0]
            if not _reaches(sums, shots, len(members) - queries):
                problem = f"{len(members)} images in {groups.max() + 1} groups cannot be separated into {need}"
                raise UsageError(subject, problem, remedy)
        pools.append(ClassPool(members, groups, shots, queries))
    return pools


FORMAT_VERSION = 1
_TENSORS = ("support_indices", "query_indices", "class_indices")
_NUMBERS = ("ways", "shots", "queries", "seed")


@dataclass(frozen=True, eq=False)
class Episode:
    """One N-way K-shot task on an image set.

    Attributes:
        support_indices: indices of the support images, int64 [ways * shots], class after class.
        query_indices: indices of the query images, int64 [ways * queries], class after class.
        class_indices: indices of the classes in the image set, int64 [ways], in the order of the relative labels.
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
    """Sequence of episodes on one image set.

    Attributes:
        support_indices: indices of the support images, int64 [episodes, ways * shots].
        query_indices: indices of the query images, int64 [episodes, ways * queries].
        class_indices: indices of the classes, int64 [episodes, ways].
        ways: number of classes per episode.
        shots: number of support images per class.
        queries: number of query images per class.
        seed: seed of the draw.
        image_set_sha256: SHA-256 of the image set.
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

        A shorter list is the beginning of a longer one. If the set has groups, support and query of a class share none,
        and the shots come from different groups as far as enough images are left for the query.

        Raises:
            UsageError: a number is below 1 (`ways` below 2), or there are too few classes, images or groups.
        """
        if ways < 2 or min(shots, queries, episodes) < 1:
            problem = f"{ways} ways, {shots} shots, {queries} queries and {episodes} episodes are too few"
            raise UsageError("episodes", problem, "choose at least 2 ways, 1 shot, 1 query and 1 episode")
        total = len(image_set.class_names)
        if ways > total:
            problem = f"has {total} classes, too few for {ways}-way episodes"
            raise UsageError(image_set.name, problem, "choose fewer ways")
        pools = class_pools(image_set, shots, queries)
        random = np.random.Generator(np.random.Philox(seed_of(seed, "episodes", f"{ways}-{shots}-{queries}")))
        classes = np.empty((episodes, ways), np.int64)
        support = np.empty((episodes, ways, shots), np.int64)
        query = np.empty((episodes, ways, queries), np.int64)
        for episode in range(episodes):
            # Sorting uniform numbers gives the same list in all versions of NumPy, unlike its shuffles.
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
        """SHA-256 over the hash of the image set, ways, shots, queries, seed and all indices, in hexadecimal."""
        head = [self.image_set_sha256, len(self), *(getattr(self, name) for name in _NUMBERS)]
        digest = hashlib.sha256(json.dumps(head, separators=(",", ":")).encode())
        for name in _TENSORS:
            digest.update(getattr(self, name).contiguous().numpy().data)
        return digest.hexdigest()

    def check_drawn_from(self, image_set: ImageSet) -> None:
        """Check that the episodes were drawn from `image_set`.

        Raises:
            UsageError: they were drawn from other images.
        """
        if self.image_set_sha256 != image_set.sha256:
            problem = f"not drawn from the present images of {image_set.name}"
            raise UsageError("episode list", problem, "draw it again")

    def save(self, path: Path | str) -> str:
        """Write the list as safetensors and return the SHA-256 of the file.

        Raises:
            ArtefactError: the file cannot be written.
        """
        metadata = {name: str(getattr(self, name)) for name in _NUMBERS}
        metadata |= {"image_set_sha256": self.image_set_sha256, "sha256": self.sha256}
        metadata |= {"format": "metazoo-episodes", "format_version": str(FORMAT_VERSION)}
        return write_tensors(path, {name: getattr(self, name) for name in _TENSORS}, metadata)

    @classmethod
    def load(cls, path: Path | str) -> "EpisodeList":
        """Read a list and check its hash.

        Raises:
            ArtefactError: the file is missing, not an episode list, of another format version, or changed.
        """
        tensors, metadata = read_tensors(path), read_tensor_metadata(path)
        if metadata.get("format") != "metazoo-episodes" or metadata.get("format_version") != str(FORMAT_VERSION):
            problem = f"not an episode list of format version {FORMAT_VERSION}"
            raise ArtefactError(path, problem, "draw it again")
        try:
            ways, shots, queries, seed = (int(metadata[name]) for name in _NUMBERS)
            parts = support, query, classes = tuple(tensors[name] for name in _TENSORS)
            episodes = cls(support, query, classes, ways, shots, queries, seed, metadata["image_set_sha256"])
            sound = all(part.dtype == torch.int64 and part.dim() == 2 for part in parts)
            sound = sound and episodes.sha256 == metadata["sha256"]
        except (KeyError, ValueError) as error:
            raise ArtefactError(path, f"incomplete episode list ({error})", "draw it again") from error
        if not sound:
            raise ArtefactError(path, "has changed since it was written", "draw it again")
        return episodes
