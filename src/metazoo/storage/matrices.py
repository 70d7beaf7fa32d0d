"""Large tensors in files mapped into memory, whose pages the system can reclaim."""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from metazoo.errors import ArtefactError
from metazoo.storage.artefacts import cannot_read, cannot_write, check_digest, write_bytes
from metazoo.storage.tensor_files import read_tensor_metadata, tensor_header


def keep_rows(folder: Path, parts: Iterable[Tensor]) -> Tensor:
    """Concatenate tensors along their first dimension in an unnamed temporary file.

    Args:
        folder: folder of the file.
        parts: tensors of one type and shape, except the first dimension.

    Returns:
        A tensor on the CPU, mapped from the file.

    Raises:
        ArtefactError: the file cannot be written.
    """
    count, shape, dtype = 0, torch.Size(), torch.uint8
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for part in parts:
                shape, dtype = part.shape[1:], part.dtype
                file.write(_bytes_of(part.contiguous()))
                count += len(part)
            file.flush()
            if not count * shape.numel():
                return torch.empty((count, *shape), dtype=dtype)
            mapped = torch.from_numpy(np.memmap(file, np.uint8, "r+"))
            return mapped.view(dtype).view(count, *shape)
    except OSError as error:
        problem = f"cannot hold a temporary file ({error.strerror})"
        raise ArtefactError(folder, problem, "free some space and repeat the command") from error


def _bytes_of(tensor: Tensor) -> memoryview:
    """Memory of a contiguous CPU tensor."""
    return tensor.detach().flatten().view(torch.uint8).numpy().data


_BYTES_AT_ONCE = 1 << 22


def write_matrices(
    path: Path, count: int, rows: Iterable[Mapping[str, Tensor]], metadata: Mapping[str, str] | None = None
) -> str:
    """Write float32 matrices [count, size] by name, holding one row of each in memory.

    Rows are collected in an unnamed temporary file; then `path` is written as by `write_tensors`.

    Args:
        path: file to write.
        count: number of rows, at least 1.
        rows: iterable of `count` mappings with one float32 row [size] of every matrix.
        metadata: text by name; see `write_tensors`.

    Returns:
        The SHA-256 of the file, in hexadecimal.

    Raises:
        ArtefactError: the file cannot be written; see `write_bytes`.
        ValueError: the number of rows is not `count`, or their names, types or sizes differ.
    """
    folder = next(level for level in path.absolute().parents if level.exists())
    starts: dict[str, int] = {}
    layout: dict[str, tuple[torch.Size, torch.dtype]] = {}
    end = number = 0
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for number, row in enumerate(rows, start=1):
                if number == 1:
                    for name in sorted(row):
                        starts[name], layout[name] = end, (row[name].shape, torch.float32)
                        end += 4 * count * row[name].numel()
                if number > count or {name: (one.shape, one.dtype) for name, one in row.items()} != layout:
                    raise ValueError(f"row {number} of {count} is surplus, or its layout differs from row 1")
                for name, one in row.items():
                    data = _bytes_of(one.cpu().contiguous())
                    file.seek(starts[name] + (number - 1) * len(data))
                    file.write(data)
            if number != count:
                raise ValueError(f"found {number} rows, expected {count}")
            entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
            for name, start in starts.items():
                size = layout[name][0].numel()
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
            raise OSError("the temporary file is truncated")
        yield part
        end -= len(part)


def read_matrices(path: Path | str, sha256: str | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Map a file of `write_matrices` into memory: matrices by name, in alphabetical order, and metadata.

    With `sha256`, the file is read once. The matrices outlive a deletion or replacement of the file.

    Raises:
        ArtefactError: the file is missing or damaged, has another hash, or holds anything but float32 matrices.
    """
    metadata = read_tensor_metadata(path)
    try:
        if sha256 is not None:
            with Path(path).open("rb") as file:
                check_digest(path, hashlib.file_digest(file, "sha256").hexdigest(), sha256)
        with safetensors.safe_open(path, framework="pt") as content:
            matrices = {name: content.get_tensor(name) for name in sorted(content.keys())}
    except OSError as error:
        raise cannot_read(path, error) from error
    for name, matrix in matrices.items():
        if matrix.dtype != torch.float32 or matrix.dim() != 2:
            raise ArtefactError(path, f"tensor {name[:100]!r} is not a float32 matrix", "make the file again")
    return matrices, metadata
