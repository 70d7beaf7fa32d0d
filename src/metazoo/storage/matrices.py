"""Rows of tensors that are too many for the memory, in files."""

import hashlib
import json
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self, final

import torch
from torch import Tensor

from metazoo.errors import ArtefactError
from metazoo.storage.artefacts import cannot_read, cannot_write, check_digest, write_bytes
from metazoo.storage.tensor_files import read_tensor_metadata, tensor_header


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


_BYTES_AT_ONCE = 1 << 22


def write_matrices(
    path: Path, count: int, rows: Iterable[Mapping[str, Tensor]], metadata: Mapping[str, str] | None = None
) -> str:
    """Write matrices of `count` rows, float32 [count, size] by name, of which one row each is held at a time.

    The rows wait in a file without a name, so that `path` is written at once, and whole, as `write_tensors` writes it.

    Args:
        path: of the file.
        count: at least 1.
        rows: `count` times one row, float32 [size], of every matrix.
        metadata: as that of `write_tensors`.

    Returns:
        The SHA-256 of the file, in hexadecimal.

    Raises:
        ArtefactError: it cannot be written, as `write_bytes`.
        ValueError: `rows` are not `count`, or names, types or sizes are not the same in all of them.
    """
    folder = next(level for level in path.absolute().parents if level.exists())
    starts: dict[str, int] = {}
    kinds: dict[str, tuple[torch.Size, torch.dtype]] = {}
    end = number = 0
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            for number, row in enumerate(rows, start=1):
                if number == 1:
                    for name in sorted(row):
                        starts[name], kinds[name] = end, (row[name].shape, torch.float32)
                        end += 4 * count * row[name].numel()
                if number > count or {name: (one.shape, one.dtype) for name, one in row.items()} != kinds:
                    raise ValueError(f"row {number} of {count} is not like the first one, or too much")
                for name, one in row.items():
                    data = bytes_of(one.cpu().contiguous())
                    file.seek(starts[name] + (number - 1) * len(data))
                    while data:
                        data = data[file.write(data) :]
            if number != count:
                raise ValueError(f"there are {number} rows, not {count}")
            entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
            for name, start in starts.items():
                size = kinds[name][0].numel()
                offsets = [start, start + 4 * count * size]
                entries[name] = {"dtype": "F32", "shape": [count, size], "data_offsets": offsets}
            return write_bytes(path, _parts(tensor_header(entries), file, end))
    except OSError as error:
        raise cannot_write(path, error) from error


def _parts(header: bytes, file: IO[bytes], end: int) -> Iterator[bytes]:
    yield header
    file.seek(0)
    while end:
        part = file.read(min(_BYTES_AT_ONCE, end))
        if not part:
            raise OSError("a temporary file ends too soon")
        yield part
        end -= len(part)


def read_matrices(path: Path | str, sha256: str | None = None) -> tuple[dict[str, RowsOnDisk], dict[str, str]]:
    """Open what `write_matrices` has written: the matrices by name, in alphabetical order, and the metadata.

    The file is read once for its hash; it stays open as long as the matrices are there.

    Raises:
        ArtefactError: the file is missing, damaged, not the one of that hash, or holds other things than matrices.
    """
    metadata = read_tensor_metadata(path)
    try:
        with Path(path).open("rb", buffering=0) as file:
            if sha256 is not None:
                check_digest(path, hashlib.file_digest(file, "sha256").hexdigest(), sha256)
                file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            entries = json.loads(file.read(length))
            entries.pop("__metadata__", None)
            matrices = {}
            for name in sorted(entries):
                entry = entries[name]
                if entry["dtype"] != "F32" or len(entry["shape"]) != 2:
                    raise ArtefactError(f"tensor {name[:100]!r} in {path} is no float32 matrix; make the file again")
                start = 8 + length + entry["data_offsets"][0]
                matrices[name] = RowsOnDisk(file.fileno(), entry["shape"], torch.float32, start)
            return matrices, metadata
    except OSError as error:
        raise cannot_read(path, error) from error
