"""Safetensors files: whole or not there, equal tensors giving equal bytes, and never a pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors

from metazoo.errors import ArtefactError
from metazoo.storage.artefacts import cannot_read, read_bytes, reason_of, write_bytes

# Importing torch takes seconds, which whoever needs no tensors should not wait for.
if TYPE_CHECKING:
    from torch import Tensor


def write_tensors(path: Path | str, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str] | None = None) -> str:
    """Write tensors of any device as safetensors, equal tensors giving equal bytes; see `write_bytes`.

    Tensors that share memory are each written whole; sparse or meta tensors and other metadata are an ArtefactError.
    """
    from safetensors.torch import save

    # The library's own file writer neither flushes to the disk nor honours the umask, so the bytes are made first.
    try:
        data = _canonical(save(_separate(tensors), dict(metadata) if metadata else None))
    except (ValueError, TypeError, AttributeError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise ArtefactError(f"cannot write {path}: {reason_of(error)}; give dense tensors and text metadata") from error
    return write_bytes(path, data)


def _separate(tensors: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    import torch

    if "__metadata__" in tensors:
        raise ValueError("a tensor cannot be called __metadata__")
    dense = torch.contiguous_format
    return {name: tensor.detach().cpu().clone(memory_format=dense) for name, tensor in tensors.items()}


def _canonical(data: bytes) -> tuple[bytes, memoryview]:
    """The same safetensors file with its header in a fixed order: the library shuffles the metadata on every call.

    Returns:
        The header, and the rest as it is.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    entries: dict[str, Any] = json.loads(data[8:start])
    metadata = dict(sorted(entries.pop("__metadata__", {}).items()))
    ordered = dict(sorted(entries.items(), key=lambda entry: (entry[1]["data_offsets"], entry[0])))
    header = {"__metadata__": metadata} | ordered if metadata else ordered
    return tensor_header(header), memoryview(data)[start:]


def tensor_header(entries: Mapping[str, Any]) -> bytes:
    """The header of a safetensors file, its length before it, from what it says of each tensor and of the whole."""
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_tensors(path: Path | str, sha256: str | None = None) -> dict[str, "Tensor"]:
    """Read a safetensors file into memory of its own (CPU); the file is not kept open or mapped.

    Raises:
        ArtefactError: as `read_bytes`, or the file is not safetensors (truncated, or a pickle, which is never read).
    """
    from safetensors.torch import load

    data = read_bytes(path, sha256)
    try:
        return load(data)
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise _not_tensors(path, data, error) from error


def read_tensor_metadata(path: Path | str) -> dict[str, str]:
    """The text metadata of a safetensors file, without reading its tensors.

    Raises:
        ArtefactError: as `read_tensors`.
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
        return ArtefactError(f"{path} is a Git LFS pointer, not the file itself; run git lfs pull")
    # Byte 8 opens the header of a safetensors file, whose length may happen to start like a pickle.
    if data[8:9] != b"{" and (data.startswith(b"PK") or (data[:1] == b"\x80" and data[1:2] <= b"\x05")):
        return ArtefactError(f"{path} is a pickle or zip archive, which is never read; convert it to safetensors")
    return ArtefactError(f"{path} is not a whole safetensors file ({reason_of(error)}); restore it or make it again")
