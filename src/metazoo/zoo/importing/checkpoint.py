"""Reading of foreign weights: .safetensors, or the tensors of a .pt, .pth or .bin file.

No file can run code or fill the memory: pickles are read with torch's `weights_only`, and no file may be larger than
the architecture can need.
"""

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metazoo.errors import ArtefactError, UsageError
from metazoo.models import Network
from metazoo.storage.tensor_files import read_tensors

SUFFIXES = (".safetensors", ".pt", ".pth", ".th", ".bin")
# Weights, averaged weights and the two moments of Adam, and bytes for the structure.
_COPIES, _STRUCTURE = 4, 16 << 20
# Enough for the names and shapes of ten thousand tensors; reading a megabyte takes seconds.
_LARGEST_PICKLE = 2 << 20
_WRAPPERS = ("state_dict", "model_state_dict", "model", "weights")


def most_bytes(network: Network) -> int:
    """Size in bytes of the largest file that is read for `network`, which may be on the meta device."""
    return _COPIES * sum(t.numel() * t.element_size() for t in network.state_dict().values()) + _STRUCTURE


def check_file(path: Path) -> None:
    """Check that `path` is a file with one of `SUFFIXES`.

    Raises:
        UsageError: it is not.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(path, "not a weights file", f"give one of {', '.join(SUFFIXES)} (.pt2 can run code)")
    if not path.is_file():
        raise UsageError(path, "not a file", "give a weights file")


def read_checkpoint(path: Path, most: int) -> dict[str, Tensor]:
    """Read the tensors of a file by name, in the order of the file, without their common wrapper.

    Args:
        path: path of the file.
        most: size in bytes of the largest file that is read.

    Raises:
        UsageError: the file does not exist or is not a weights file.
        ArtefactError: it is too large, damaged, or contains other objects than tensors.
    """
    check_file(path)
    size = path.stat().st_size
    if size > most:
        raise ArtefactError(path, f"has {size} bytes, more than the {most} that its model can need", "check both")
    tensors = (
        read_tensors(path) if path.suffix.lower() == ".safetensors" else _unwrapped(path, _read_pickle(path, most))
    )
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise ArtefactError(
                path, f"tensor {name[:100]!a} is sparse, quantised or on a device", "store dense tensors"
            )
    return tensors


def _read_pickle(path: Path, most: int) -> Any:
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise ArtefactError(path, "damaged", "download or store it again") from error
        # torch never compresses; a compressed file may unpack to any size.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ArtefactError(path, "a compressed archive, which torch does not write", "store it again")
        structure = sum(entry.file_size for entry in entries if entry.filename.endswith(".pkl"))
        if sum(entry.file_size for entry in entries) > most or structure > _LARGEST_PICKLE:
            raise ArtefactError(path, "unpacks to more than its architecture can need", "check both")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about old files are for torch's developers
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile file can cause any exception
        # torch's own message advises to read the file without this protection.
        named = re.search(r"GLOBAL ([A-Za-z0-9_.]{1,100})", str(error))
        problem = f"not read, since it asks for {named[1]}" if named else "damaged or not a checkpoint"
        raise ArtefactError(path, problem, "store a state_dict as .safetensors") from error


def _unwrapped(path: Path, content: Any) -> dict[str, Tensor]:
    if _is_state(content):
        return dict(content)
    inner = [content[key] for key in _WRAPPERS if key in content] if isinstance(content, Mapping) else []
    found = [state for state in inner if _is_state(state)]
    if len(found) != 1:
        problem = f"contains {len(found)} state_dicts instead of one (directly, or as {', '.join(_WRAPPERS)})"
        raise ArtefactError(path, problem, "store one state_dict alone")
    return dict(found[0])


def _is_state(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    )
