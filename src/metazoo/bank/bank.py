"""Bank of recovered images on disk, which are stored once and never changed.

    BANK/bank.json                                           format version of the bank
    BANK/TEACHER/generation-0000.json                        index: hash, size, class counts and health of every shard
    BANK/TEACHER/generation-0000-bucket-0000.safetensors     `images` uint8, `labels` int64

A shard is part of the bank once its index, which is written after it, contains it; other files, which killed processes
may leave, are ignored and overwritten. New images of a teacher are a new generation. Images that may not be kept are
discarded, all of a teacher at once; the index stays and records this. There is one writer at a time, the process that
has locked the run folder.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from metazoo.bank.shard_index import (
    FORMAT_VERSION,
    GenerationIndex,
    OptionValue,
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
    """Recovered images of a zoo on disk; see `create` and `open`."""

    def __init__(self, folder: Path, indices: dict[str, dict[int, GenerationIndex]]) -> None:
        self.folder = folder
        self._indices = indices

    @classmethod
    def create(cls, folder: Path | str) -> "Bank":
        """Make an empty bank in a folder, which may exist and hold other files.

        Raises:
            UsageError: the folder holds a bank.
            ArtefactError: the folder cannot be written.
        """
        folder = Path(folder)
        if (folder / NAME).exists():
            raise UsageError(folder, "already holds a bank", "open it, or choose another folder")
        write_json(folder / NAME, {"format": FORMAT, "format_version": FORMAT_VERSION})
        return cls(folder, {})

    @classmethod
    def open(cls, folder: Path | str, teachers: Collection[str] | None = None) -> "Bank":
        """Open a bank and read the indices of `teachers`, by default of all; images are read on access.

        Raises:
            ArtefactError: the folder holds no bank, the format version is not supported, or an index is damaged.
        """
        folder = Path(folder)
        if not (folder / NAME).exists():
            raise ArtefactError(folder, f"not a bank of images, {NAME} is missing", "recover images into it first")
        content = read_json(folder / NAME)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ArtefactError(folder / NAME, "does not describe a bank", "restore it or recover into another folder")
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
        """Open the bank in `folder`, or make an empty one; see `open` and `create`."""
        return cls.open(folder) if (Path(folder) / NAME).exists() else cls.create(folder)

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the teachers with images, in alphabetical order."""
        return tuple(sorted(self._indices))

    @property
    def total_bytes(self) -> int:
        """Size of all shards that are not discarded."""
        generations = [index for indices in self._indices.values() for index in indices.values()]
        return sum(shard.bytes for index in generations if not index.discarded for shard in index.shards)

    def has(self, teacher: str, generation: int, bucket: int) -> bool:
        """Whether a shard is stored."""
        index = self._indices.get(teacher, {}).get(generation)
        return index is not None and index.find(bucket) is not None

    def is_discarded(self, teacher: str) -> bool:
        """Whether images of a teacher were deleted."""
        return any(index.discarded for index in self._indices.get(teacher, {}).values())

    def generations_of(self, teacher: str) -> tuple[int, ...]:
        """Generations of a teacher's images, ascending; empty for an unknown teacher."""
        return tuple(sorted(self._indices.get(teacher, {})))

    def shards_of(self, teacher: str, generation: int | None = None) -> tuple[Shard, ...]:
        """Descriptions of the shards of a generation (the latest if None), in the order of the buckets.

        Raises:
            UsageError: the bank has no such images.
        """
        return self._index(teacher, generation).shards

    def made_with(self, teacher: str, generation: int | None = None) -> dict[str, OptionValue]:
        """Options with which a generation (the latest if None) was made.

        Raises:
            UsageError: the bank has no such images.
        """
        return dict(self._index(teacher, generation).made_with)

    def images_of(
        self, teacher: str, generation: int | None = None
    ) -> tuple[UInt8[Tensor, "n channels side side"], Int64[Tensor, " n"]]:
        """Read one generation (the latest if None) of a teacher's images, bucket after bucket.

        Returns:
            Images of 1 or 3 channels, and their local classes.

        Raises:
            UsageError: the bank has no such images, or they were discarded.
            ArtefactError: a shard is missing or has changed since it was written.
        """
        index = self._index(teacher, generation)
        if index.discarded:
            problem = f"its images in {self.folder} were deleted after the run, as its contract requires"
            raise UsageError(f"teacher {teacher!r}", problem, "train another run")
        parts = [self._read(index, shard) for shard in index.shards]
        return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])

    def verify(self) -> None:
        """Check every shard that is not discarded.

        Raises:
            ArtefactError: a shard is missing or has changed.
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
        made_with: Mapping[str, OptionValue] | None = None,
    ) -> None:
        """Store one bucket, whole or not at all; it is on the disk when this returns.

        Args:
            teacher: name of the teacher and of its folder, at most 100 letters, digits, `.`, `_` and `-`.
            generation: number of the generation, counted from 0.
            bucket: number of the bucket in the generation, counted from 0.
            images: images, uint8 [n, 1 or 3, side, side]; all buckets of a generation have one side and channel count.
            labels: local classes of the teacher, int64 [n].
            health: finite figures to store with the shard.
            made_with: options, equal for all buckets of a generation.

        Raises:
            UsageError: the bucket exists, the name is not valid, or the options differ.
            DataError: images or labels do not fit.
            ArtefactError: the bucket cannot be written; the bank is unchanged.
        """
        self._check_name(teacher)
        if min(generation, bucket) < 0:
            raise UsageError(f"teacher {teacher!r}", f"generation {generation} or bucket {bucket} is below 0")
        subject = f"bucket {bucket} of generation {generation} of {teacher}"
        check_tensors(subject, images, labels)
        index = self._indices.get(teacher, {}).get(generation) or GenerationIndex(
            teacher=teacher,
            generation=generation,
            channels=1 if images.shape[1] == 1 else 3,
            side=images.shape[-1],
            made_with=dict(made_with or {}),
        )
        if index.find(bucket) is not None:
            raise UsageError(subject, f"already in {self.folder}, where images never change", "add another generation")
        if index.made_with != dict(made_with or {}):
            raise UsageError(subject, "its options differ from those of the other buckets", "add another generation")
        if images.shape[1:] != (index.channels, index.side, index.side):
            expected = [len(images), index.channels, index.side, index.side]
            raise DataError(subject, f"images must be {expected} as in the other buckets, not {list(images.shape)}")
        path = self.path_of(teacher, generation, bucket)
        shard = write_shard(path, index, bucket, images, labels, health or {})
        self._commit(index.with_shard(shard))

    def discard(self, teacher: str) -> None:
        """Delete all images of a teacher, but keep their indices. After an interruption it can be called again.

        Raises:
            ArtefactError: an index cannot be written or a shard cannot be deleted.
        """
        for index in list(self._indices.get(teacher, {}).values()):
            if not index.discarded:
                self._commit(index.model_copy(update={"discarded": True}))
        for path in sorted((self.folder / teacher).glob("*.safetensors")):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise ArtefactError(path, f"cannot be deleted: {error.strerror}", "delete it yourself") from error

    def _commit(self, index: GenerationIndex) -> None:
        write_index(self.folder / index.teacher / f"generation-{index.generation:04d}.json", index)
        self._indices.setdefault(index.teacher, {})[index.generation] = index

    def path_of(self, teacher: str, generation: int, bucket: int) -> Path:
        """Path of a shard, which need not exist."""
        return self.folder / teacher / f"generation-{generation:04d}-bucket-{bucket:04d}.safetensors"

    def _check_name(self, teacher: str) -> None:
        if not _TEACHER.fullmatch(teacher):
            raise UsageError(f"teacher {teacher!r}", "not a valid name", "use letters, digits, '.', '_' and '-'")
        if teacher in self._indices:
            return
        twin = next((name for name in self._indices if name.lower() == teacher.lower()), None)
        if twin is not None:  # one folder on some file systems
            raise UsageError(
                f"teacher {teacher!r}", f"differs from {twin!r} only in upper and lower case", "rename one"
            )

    def _index(self, teacher: str, generation: int | None) -> GenerationIndex:
        indices = self._indices.get(teacher, {})
        if not indices or generation not in (None, *indices):
            missing = f"generation {generation} of {teacher!r}" if indices else f"{teacher!r}"
            raise UsageError(self.folder, f"has no images of {missing}", "recover them first")
        return indices[max(indices) if generation is None else generation]

    def _read(self, index: GenerationIndex, shard: Shard) -> tuple[Tensor, Tensor]:
        return read_shard(self.path_of(index.teacher, index.generation, shard.bucket), index, shard)
