"""Reading of foreign weights: safetensors, or the tensors of a file of `torch.save`.

No file can run code or fill the memory, and no file may be larger than the architecture can need.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metazoo.errors import ArtefactError, UsageError, shown
from metazoo.execution.progress import message
from metazoo.models import Network
from metazoo.storage.tensor_files import read_tensors
from metazoo.text import some_of
from metazoo.zoo.importing.foreign_files import check_content, is_safetensors
from metazoo.zoo.importing.torch_files import WRAPPERS, read_torch_file

SUFFIXES = (".safetensors", ".pt", ".pth", ".th", ".ckpt", ".tar", ".pkl", ".bin")
"""Suffixes of files that are weights in a folder of models."""
# Weights, averaged weights, three moments of AMSGrad, one copy more, and bytes for the structure.
_COPIES, _STRUCTURE = 6, 16 << 20
_MOST_ITEMS = 20


def most_bytes(network: Network) -> int:
    """Size in bytes of the largest file that is read for `network`, which may be on the meta device."""
    return _COPIES * sum(t.numel() * t.element_size() for t in network.state_dict().values()) + _STRUCTURE


def check_file(path: Path) -> None:
    """Check that `path` is a file that may hold weights.

    Raises:
        UsageError: it is not; the error states what its content is, and how to convert it.
        ArtefactError: it cannot be read.
    """
    if not path.is_file():
        raise UsageError(path, "is not a file", f"give a weights file ({', '.join(SUFFIXES)})")
    check_content(path)


def read_checkpoint(path: Path, most: int, state_dict: str | None = None) -> dict[str, Tensor]:
    """Read the tensors of a file by name, in the order of the file, without their common wrapper.

    Args:
        path: path of the file.
        most: size in bytes of the largest file that is read.
        state_dict: key of the state_dict in a file with several, such as `model_ema`; keys of nested mappings are
            joined by dots.

    Raises:
        UsageError: the file does not exist or is not a weights file, or holds different state_dicts, or none of that
            name.
        ArtefactError: it is too large, damaged, or contains other objects than tensors.
    """
    check_file(path)
    size = path.stat().st_size
    if size > most:
        problem = f"has {size:,} bytes, more than the {most:,} that its model can need"
        raise ArtefactError(path, problem, "check the architecture, or store the state_dict alone")
    content = read_tensors(path) if is_sorted(path) else read_torch_file(path, most)
    states = _state_dicts(content)
    # Before anything is computed with tensors, which may repeat a few bytes.
    if sum(tensor.numel() * tensor.element_size() for state in states.values() for tensor in state.values()) > most:
        raise ArtefactError(path, f"has tensors that repeat {size:,} bytes", "store contiguous tensors")
    return _chosen(path, content, states, state_dict)


def is_sorted(path: Path) -> bool:
    """Whether a file holds its tensors sorted by name, as safetensors do, and not in the order of definition."""
    with path.open("rb") as file:
        return is_safetensors(file.read(9))


def _chosen(path: Path, content: Any, states: dict[str, dict[str, Tensor]], key: str | None) -> dict[str, Tensor]:
    """The state_dict called `key`, or the only one, or else the only one under a usual key."""
    if key is not None:
        if key not in states:
            known = some_of([shown(name) for name in states if name])
            remedy = f"choose one of {known}" if known else "omit --state-dict"
            raise UsageError(path, f"holds no state_dict {shown(key)!r}", remedy)
        return states[key]
    if not states:
        keys = some_of([shown(key) for key in content]) if isinstance(content, Mapping) else ""
        problem = "holds no state_dict (tensors by name)" + (f", but {keys}" if keys else "")
        raise ArtefactError(path, problem, "store the state_dict of the network")
    usual = {name: state for name, state in states.items() if any(part in WRAPPERS for part in name.split("."))}
    left = [name for name in states if name not in usual] if usual else []
    states = usual or states
    first, *others = states.values()
    if any(not _are_equal(first, other) for other in others):
        names = some_of([shown(name) for name in states])
        # Averaged weights are usually more accurate, but only the user knows which ones were meant.
        averaged = next((name for name in states if re.search("ema|average|swa", name)), next(iter(states)))
        problem = f"holds {len(states)} state_dicts that differ: {names}"
        raise UsageError(path, problem, f"choose one, such as --state-dict {shown(averaged)}")
    if left:
        taken, names = shown(next(iter(states))), some_of([shown(name) for name in left])
        message(f"note: {shown(path.name)}: {taken} is taken; --state-dict takes another ({names})")
    return first


def _state_dicts(content: Any) -> dict[str, dict[str, Tensor]]:
    """State_dicts at most two levels deep by their keys."""
    found: dict[tuple[str, ...], dict[str, Tensor]] = {}
    for key, value in _items(content):
        inner = {(key, inner_key): inner for inner_key, inner in _items(value)}
        for keys, state in ({(key,): value} if _is_state_dict(value) else inner).items():
            if _is_state_dict(state):
                found[keys] = {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    if not found and _is_state_dict(content):
        return {"": {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}}
    return {".".join(keys): state for keys, state in found.items()}


def _items(content: Any) -> list[tuple[str, Any]]:
    """Items of a mapping by their texts, or of a short list or tuple by their numbers."""
    if isinstance(content, list | tuple):
        content = {str(number): item for number, item in enumerate(content[:_MOST_ITEMS])}
    items = content.items() if isinstance(content, Mapping) else ()
    return [(key, value) for key, value in items if isinstance(key, str)]


def _is_state_dict(content: Any) -> bool:
    """Whether it maps texts to tensors and perhaps other values, and one tensor can be the weights of a layer."""
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        return False
    tensors = [value for value in content.values() if isinstance(value, Tensor)]
    return any(tensor.ndim > 1 and tensor.is_floating_point() for tensor in tensors)


def _are_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    pairs = zip(one.values(), other.values(), strict=True) if len(one) == len(other) else ()
    return len(one) == len(other) and all(torch.equal(first, second) for first, second in pairs)
