"""Safetensors files: written atomically, equal bytes for equal tensors, never a pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors

from metazoo.errors import ArtefactError
from metazoo.storage.artefacts import cannot_read, read_bytes, reason_of, write_bytes

# Importing torch takes seconds, so it is imported only where tensors are used.
if TYPE_CHECKING:
    from torch import Tensor


def write_tensors(path: Path | str, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str] | None = None) -> str:
    """Write tensors of any device as safetensors; equal tensors give equal bytes.

    Tensors that share memory are each written completely. See `write_bytes` for the return value.

    Raises:
        ArtefactError: a tensor is sparse or on the meta device, metadata is not text, or see `write_bytes`.
    """
    from safetensors.torch import save

    # The library's file writer neither flushes to the disk nor follows the umask.
    try:
        data = _canonical(save(_separate(tensors), dict(metadata) if metadata else None))
    except (ValueError, TypeError, AttributeError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        problem = f"cannot be written ({reason_of(error)})"
        raise ArtefactError(path, problem, "give dense tensors and text metadata") from error
    return write_bytes(path, data)


def _separate(tensors: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    import torch

    if "__metadata__" in tensors:
        raise ValueError("a tensor cannot be called __metadata__")
    dense = torch.contiguous_format
    return {name: tensor.detach().cpu().clone(memory_format=dense) for name, tensor in tensors.items()}


def _canonical(data: bytes) -> tuple[bytes, memoryview]:
    """Sort the header of a safetensors file; the library writes metadata in random order.

    Returns:
        The header and the remaining bytes.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    entries: dict[str, Any] = json.loads(data[8:start])
    metadata = dict(sorted(entries.pop("__metadata__", {}).items()))
    ordered = dict(sorted(entries.items(), key=lambda entry: (entry[1]["data_offsets"], entry[0])))
    header = {"__metadata__": metadata} | ordered if metadata else ordered
    return tensor_header(header), memoryview(data)[start:]


def tensor_header(entries: Mapping[str, Any]) -> bytes:
    """Header of a safetensors file, preceded by its length, from the entries of tensors and metadata."""
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_tensors(path: Path | str, sha256: str | None = None) -> dict[str, "Tensor"]:
    """Read a safetensors file into CPU memory; the file is neither kept open nor mapped.

    Raises:
        ArtefactError: see `read_bytes`, or the file is not safetensors (truncated, or a pickle, which is never read).
    """
    from safetensors.torch import load

    data = read_bytes(path, sha256)
    try:
        return load(data)
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise _not_tensors(path, data, error) from error


def read_tensor_metadata(path: Path | str) -> dict[str, str]:
    """Text metadata of a safetensors file; its tensors are not read.

    Raises:
        ArtefactError: see `read_tensors`.
    """
    try:
        with Path(path).open("rb"), safetensors.safe_open(path, framework="pt") as content:
            return dict(content.metadata() or {})
    except safetensors.SafetensorError as error:
        raise _not_tensors(path, read_bytes(path), error) from error
    except (OSError, ValueError) as error:
        raise cannot_read(path, error) from error


def _not_tensors(path: Path | str, data: bytes, error: Exception) -> ArtefactError:
    if data.startswith(b"version https://git-lfs"):
        return ArtefactError(path, "is a Git LFS pointer, not the file itself", "run git lfs pull")
    # Byte 8 of a safetensors file is `{`; the length before it may look like the start of a pickle.
    if data[8:9] != b"{" and (data.startswith(b"PK") or (data[:1] == b"\x80" and data[1:2] <= b"\x05")):
        return ArtefactError(path, "is a pickle or zip archive, which is never read", "convert it to safetensors")
    problem = f"is not a complete safetensors file ({reason_of(error)})"
    return ArtefactError(path, problem, "restore it or make it again")
