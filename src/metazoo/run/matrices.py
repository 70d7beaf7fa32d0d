"""Safetensors files of matrices that are written and read row by row, however many rows there are."""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from metazoo.errors import ArtefactError
from metazoo.run.artefacts import cannot_read, cannot_write, check_digest, write_bytes
from metazoo.run.rows import RowsOnDisk, bytes_of
from metazoo.run.tensor_files import read_tensor_metadata, tensor_header

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
