"""Images that are too many for the memory: in a file without a name, which is gone with the process that made it."""

import os
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Self, final

import torch
from torch import Tensor

from metazoo.errors import ArtefactError


@final
class ImagesOnDisk:
    """uint8 images [n, channels, side, side] that are indexed by places (int64) or a slice as a tensor is.

    They are read where they are asked for, and not mapped, so that the memory of the process does not grow with what
    it has seen.
    """

    device = torch.device("cpu")

    def __init__(self, folder: Path, parts: Iterable[Tensor]) -> None:
        """Take the images of `parts` in turn; ArtefactError if they cannot be written into `folder`."""
        self._one: tuple[int, ...] = ()
        count = 0
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - open as long as this object
            weakref.finalize(self, self._file.close)
            for part in parts:
                self._one = tuple(part.shape[1:])
                self._file.write(part.contiguous().numpy().data)
                count += len(part)
        except OSError as error:
            raise ArtefactError(
                f"cannot keep images in {folder} for a while: {error.strerror}; free some space and call again"
            ) from error
        self.shape = torch.Size((count, *self._one))
        self._row = self.shape[1:].numel()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, places: Tensor | slice) -> Tensor:
        if isinstance(places, slice):
            start, stop, step = places.indices(len(self))
            if step == 1:
                return self._read(start, max(0, stop - start))
            places = torch.arange(start, stop, step)
        found = torch.empty((len(places), *self._one), dtype=torch.uint8)
        rows = found.numpy().data.cast("B") if len(places) else memoryview(b"")
        for number, place in enumerate(places.tolist()):
            self._fill(rows[number * self._row : (number + 1) * self._row], range(len(self))[place])
        return found

    def to(self, device: str | torch.device) -> "Self | Tensor":
        """Where the device has memory of its own, all of them as a tensor there."""
        return self if torch.device(device).type == "cpu" else self[:].to(device)

    def _read(self, start: int, count: int) -> Tensor:
        found = torch.empty((count, *self._one), dtype=torch.uint8)
        if count:
            self._fill(found.numpy().data.cast("B"), start)
        return found

    def _fill(self, target: memoryview, row: int) -> None:
        done = 0
        while done < len(target):
            read = os.preadv(self._file.fileno(), [target[done:]], row * self._row + done)
            if read == 0:
                raise ArtefactError("a temporary file of images ends too soon; check the disk and call again")
            done += read
