"""Large tensors in files, mapped into memory, so that the system may take back the pages that were read."""

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
    """Join tensors along their first dimension in a file without a name, which ends with the process.

    Args:
        folder: folder of the file.
        parts: tensors of one type, equal but for their first dimension.

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
        raise ArtefactError(
            str(folder), f"rows cannot be kept in a file there: {error.strerror}", "free some space and call again"
        ) from error


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    return tensor.detach().flatten().view(torch.uint8).numpy().data


_BYTES_AT_ONCE = 1 << 22


def write_matrices(
    path: Path, count: int, rows: Iterable[Mapping[str, Tensor]], metadata: Mapping[str, str] | None = None
) -> str:
    """Write matrices of `count` rows, float32 [count, size] by name, of which one row each is held at a time.

    The rows wait in a file without a name, so that `path` is written at once, and whole, as `write_tensors` writes it.

    Args:
        path: file to write.
        count: number of rows, at least 1.
        rows: `count` times one row, float32 [size], of every matrix.
        metadata: text by name; see `write_tensors`.

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
        with tempfile.TemporaryFile(dir=folder) as file:
            for number, row in enumerate(rows, start=1):
                if number == 1:
                    for name in sorted(row):
                        starts[name], kinds[name] = end, (row[name].shape, torch.float32)
                        end += 4 * count * row[name].numel()
                if number > count or {name: (one.shape, one.dtype) for name, one in row.items()} != kinds:
                    raise ValueError(f"row {number} of {count} is not like the first one, or too much")
                for name, one in row.items():
                    data = _bytes_of(one.cpu().contiguous())
                    file.seek(starts[name] + (number - 1) * len(data))
                    file.write(data)
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


def read_matrices(path: Path | str, sha256: str | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Map what `write_matrices` has written: the matrices by name, in alphabetical order, and the metadata.

    The file is read once for its hash. The matrices stay when the file is deleted or replaced.

    Raises:
        ArtefactError: the file is missing, damaged, not the one of that hash, or holds other things than matrices.
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
            raise ArtefactError(f"{path}", f"tensor {name[:100]!r} is no float32 matrix", "make the file again")
    return matrices, metadata
