"""The bank: every recovered image, stored once and never changed.

    BANK/bank.json                                           the folder is a bank, and of which format version
    BANK/TEACHER/generation-0000.json                        index: hash, size, class counts and health of every shard
    BANK/TEACHER/generation-0000-bucket-0000.safetensors     `images` uint8, `labels` int64

A shard counts once it stands in its index, which is written after it; a file that a killed process left before that is
ignored and overwritten. A refresh appends a generation. Images that may not be kept are discarded, all of a teacher at
once; the index stays and says so. There is one writer at a time: whoever holds the run folder.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from metazoo.bank.shard_index import (
    FORMAT_VERSION,
    GenerationIndex,
    Setting,
    Shard,
    check_tensors,
    check_version,
    read_index,
    read_shard,
    write_index,
    write_shard,
)
from metazoo.errors import ArtefactError, DataError, UsageError
from metazoo.storage.artefacts import read_json, write_json

FORMAT = "metazoo-bank"
NAME = "bank.json"
_TEACHER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_INDEX = re.compile(r"generation-(\d{4,})\.json")


class Bank:
    """Recovered images of a zoo on disk. Make one with `create` or `open`."""

    def __init__(self, folder: Path, indices: dict[str, dict[int, GenerationIndex]]) -> None:
        self.folder = folder
        self._indices = indices

    @classmethod
    def create(cls, folder: Path | str) -> "Bank":
        """Make an empty bank; the folder may exist, for other things.

        Raises:
            UsageError: there is a bank already.
            ArtefactError: the folder cannot be written.
        """
        folder = Path(folder)
        if (folder / NAME).exists():
            raise UsageError(f"{folder} is a bank already; open it, or choose another folder")
        write_json(folder / NAME, {"format": FORMAT, "format_version": FORMAT_VERSION})
        return cls(folder, {})

    @classmethod
    def open(cls, folder: Path | str, teachers: Collection[str] | None = None) -> "Bank":
        """Read the indices, of `teachers` alone if any are named; images are read when they are asked for.

        Raises:
            ArtefactError: no bank, one of another format version, or a damaged index, which is named.
        """
        folder = Path(folder)
        if not (folder / NAME).exists():
            raise ArtefactError(f"{folder} is not a bank of images, it has no {NAME}; recover images into it first")
        content = read_json(folder / NAME)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ArtefactError(f"{folder / NAME} is not that of a bank; restore it or recover into another folder")
        check_version(folder / NAME, content)
        indices: dict[str, dict[int, GenerationIndex]] = {}
        folders = folder.glob("*/") if teachers is None else map(folder.joinpath, teachers)
        for path in sorted(path for own in folders for path in own.glob("generation-*.json")):
            teacher, match = path.parent.name, _INDEX.fullmatch(path.name)
            if match is not None and _TEACHER.fullmatch(teacher):
                indices.setdefault(teacher, {})[int(match[1])] = read_index(path, teacher, int(match[1]))
        return cls(folder, indices)

    @classmethod
    def open_or_create(cls, folder: Path | str) -> "Bank":
        """Open the bank in `folder`, or make one there; see `open` and `create`."""
        return cls.open(folder) if (Path(folder) / NAME).exists() else cls.create(folder)

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the teachers that have images, in alphabetical order."""
        return tuple(sorted(self._indices))

    @property
    def total_bytes(self) -> int:
        """Size of all shards of all generations that are still there."""
        generations = [index for indices in self._indices.values() for index in indices.values()]
        return sum(shard.bytes for index in generations if not index.discarded for shard in index.shards)

    def has(self, teacher: str, generation: int, bucket: int) -> bool:
        """Whether this shard is stored."""
        index = self._indices.get(teacher, {}).get(generation)
        return index is not None and index.find(bucket) is not None

    def is_discarded(self, teacher: str) -> bool:
        """Whether images of this teacher were deleted."""
        return any(index.discarded for index in self._indices.get(teacher, {}).values())

    def generations_of(self, teacher: str) -> tuple[int, ...]:
        """The generations of one teacher's images, ascending; none if it has no image."""
        return tuple(sorted(self._indices.get(teacher, {})))

    def shards_of(self, teacher: str, generation: int | None = None) -> tuple[Shard, ...]:
        """What is known of each shard of a generation (the latest if None), in the order of the buckets.

        Raises:
            UsageError: the bank has no such images.
        """
        return self._index(teacher, generation).shards

    def made_with(self, teacher: str, generation: int | None = None) -> dict[str, Setting]:
        """The settings that a generation (the latest if None) was made with.

        Raises:
            UsageError: the bank has no such images.
        """
        return dict(self._index(teacher, generation).made_with)

    def images_of(self, teacher: str, generation: int | None = None) -> tuple[Tensor, Tensor]:
        """Read one generation (the latest if None) of a teacher's images, bucket after bucket.

        Returns:
            Images, uint8 [n, 1 or 3, side, side], and their local classes, int64 [n].

        Raises:
            UsageError: the bank has no such images, or they were discarded.
            ArtefactError: a shard is missing or has changed since it was written; it is named.
        """
        index = self._index(teacher, generation)
        if index.discarded:
            raise UsageError(
                f"the images of {teacher!r} in {self.folder} were deleted after the run, as its contract asks; make "
                "another run for what needs them"
            )
        parts = [self._read(index, shard) for shard in index.shards]
        return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])

    def verify(self) -> None:
        """Read every shard that is not discarded.

        Raises:
            ArtefactError: names the first one that is missing or has changed.
        """
        for teacher in self.teachers:
            for generation in self.generations_of(teacher):
                index = self._indices[teacher][generation]
                for shard in () if index.discarded else index.shards:
                    self._read(index, shard)

    def add(
        self,
        teacher: str,
        generation: int,
        bucket: int,
        images: Tensor,
        labels: Tensor,
        *,
        health: Mapping[str, float] | None = None,
        made_with: Mapping[str, Setting] | None = None,
    ) -> None:
        """Store one bucket; when this returns it is on the disk, and if the process is killed before, it is not there.

        Args:
            teacher: a name fit for a folder: letters, digits, `.`, `_` and `-`, at most 100.
            generation: 0 for the first images of a teacher, then counting up.
            bucket: its number within the generation.
            images: uint8 [n, 1 or 3, side, side]; side and channels are the same in all buckets of a generation.
            labels: int64 [n], local classes of the teacher.
            health: finite figures to keep beside the shard.
            made_with: settings that must be the same for all buckets of a generation.

        Raises:
            UsageError: the bucket is there already, the name is unfit, or the settings differ.
            DataError: images or labels do not fit.
            ArtefactError: it cannot be written; the bank is as it was.
        """
        self._check_name(teacher)
        if min(generation, bucket) < 0:
            raise UsageError(f"generations and buckets count from 0, not {generation} and {bucket}")
        place = f"bucket {bucket} of generation {generation} of {teacher}"
        check_tensors(place, images, labels)
        index = self._indices.get(teacher, {}).get(generation) or GenerationIndex(
            teacher=teacher,
            generation=generation,
            channels=1 if images.shape[1] == 1 else 3,
            side=images.shape[-1],
            made_with=dict(made_with or {}),
        )
        if index.find(bucket) is not None:
            raise UsageError(f"{place} is in {self.folder} already and never changes; add another generation")
        if index.made_with != dict(made_with or {}):
            raise UsageError(f"{place} was made with other settings than its other buckets; add another generation")
        if images.shape[1:] != (index.channels, index.side, index.side):
            expected = [len(images), index.channels, index.side, index.side]
            raise DataError(f"{place}: images are {list(images.shape)}, must be {expected} as in its other buckets")
        path = self.path_of(teacher, generation, bucket)
        shard = write_shard(path, index, bucket, images, labels, health or {})
        self._commit(index.with_shard(shard))

    def discard(self, teacher: str) -> None:
        """Delete all images of a teacher; what else is known of them stays. It may be called again, as after a kill.

        Raises:
            ArtefactError: an index cannot be written or a shard not be deleted.
        """
        for index in list(self._indices.get(teacher, {}).values()):
            if not index.discarded:
                self._commit(index.model_copy(update={"discarded": True}))
        for path in sorted((self.folder / teacher).glob("*.safetensors")):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise ArtefactError(f"cannot delete {path}: {error.strerror}; delete it yourself") from error

    def _commit(self, index: GenerationIndex) -> None:
        write_index(self.folder / index.teacher / f"generation-{index.generation:04d}.json", index)
        self._indices.setdefault(index.teacher, {})[index.generation] = index

    def path_of(self, teacher: str, generation: int, bucket: int) -> Path:
        """Where a shard lies, or would."""
        return self.folder / teacher / f"generation-{generation:04d}-bucket-{bucket:04d}.safetensors"

    def _check_name(self, teacher: str) -> None:
        if not _TEACHER.fullmatch(teacher):
            raise UsageError(f"a teacher cannot be called {teacher!r}; use letters, digits, '.', '_' and '-'")
        if teacher in self._indices:
            return
        twin = next((name for name in self._indices if name.lower() == teacher.lower()), None)
        if twin is not None:  # one folder, where the file system does not tell them apart
            raise UsageError(f"teachers {twin!r} and {teacher!r} differ in upper and lower case only; rename one")

    def _index(self, teacher: str, generation: int | None) -> GenerationIndex:
        indices = self._indices.get(teacher, {})
        if not indices or generation not in (None, *indices):
            subject = f"generation {generation} of {teacher!r}" if indices else f"{teacher!r}"
            raise UsageError(f"{self.folder} has no images of {subject}; recover them first")
        return indices[max(indices) if generation is None else generation]

    def _read(self, index: GenerationIndex, shard: Shard) -> tuple[Tensor, Tensor]:
        return read_shard(self.path_of(index.teacher, index.generation, shard.bucket), index, shard)
