"""Rows of tensors that are too many for the memory, in files."""

import os
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self, final

import torch
from torch import Tensor

from metazoo.errors import ArtefactError


@final
class RowsOnDisk:
    """A tensor [n, ...] in a file, indexed by places (int64) or a slice along its first dimension as a tensor is.

    Rows are read where they are asked for, and not mapped, so that the memory of the process does not grow with what
    it has seen. Any number of threads may do so at once.

    Args:
        file: descriptor of the open file; this object keeps one of its own.
        shape: of the whole.
        dtype: of its numbers, which lie row after row.
        start: byte of the file where they begin.
    """

    device = torch.device("cpu")

    def __init__(self, file: int, shape: Sequence[int], dtype: torch.dtype, start: int = 0) -> None:
        self.shape, self.dtype = torch.Size(shape), dtype
        self._file, self._start = os.dup(file), start
        self._row = self.shape[1:].numel() * dtype.itemsize
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, places: Tensor | slice) -> Tensor:
        if isinstance(places, slice):
            start, stop, step = places.indices(len(self))
            if step == 1:
                found, target = self._empty(max(0, stop - start))
                self._fill(target, start)
                return found
            places = torch.arange(start, stop, step)
        found, target = self._empty(len(places))
        for number, place in enumerate(places.tolist()):
            self._fill(target[number * self._row : (number + 1) * self._row], range(len(self))[place])
        return found

    def to(self, device: str | torch.device) -> "Self | Tensor":
        """Where the device has memory of its own, all of them as a tensor there."""
        return self if torch.device(device).type == "cpu" else self[:].to(device)

    def _empty(self, count: int) -> tuple[Tensor, memoryview]:
        found = torch.empty((count, *self.shape[1:]), dtype=self.dtype)
        return found, bytes_of(found)

    def _fill(self, target: memoryview, row: int) -> None:
        place = self._start + row * self._row
        while target:
            read = os.preadv(self._file, [target], place)  # at a place of its own, not at one that threads would share
            if not read:
                raise ArtefactError("a file of rows ends too soon; check the disk and call again")
            target, place = target[read:], place + read


def keep_rows(folder: Path, parts: Iterable[Tensor]) -> RowsOnDisk:
    """Take the rows of `parts` in turn into a file without a name, which is gone with the process that made it.

    Raises:
        ArtefactError: they cannot be written into `folder`.
    """
    count, shape, dtype = 0, torch.Size(), torch.uint8
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            for part in parts:
                shape, dtype = part.shape[1:], part.dtype
                rest = bytes_of(part.contiguous())
                while rest:
                    rest = rest[file.write(rest) :]
                count += len(part)
            return RowsOnDisk(file.fileno(), (count, *shape), dtype)
    except OSError as error:
        raise ArtefactError(
            f"cannot keep rows in {folder} for a while: {error.strerror}; free some space and call again"
        ) from error


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    return tensor.detach().flatten().view(torch.uint8).numpy().data
