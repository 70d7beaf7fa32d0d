"""Comparing tensors from a file with what its description says, before anything is built from them."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel
from torch import Tensor

from metazoo.errors import ArtefactError


def check_tensors(
    folder: Path, description: str, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], remedy: str
) -> None:
    """Check names, shapes, types and values.

    Args:
        folder: that both are from, for errors.
        description: name of the file that says what `expected` is.
        tensors: as read.
        expected: on the meta device, so that a description of anything gigantic takes no memory.
        remedy: ends every error.

    Raises:
        ArtefactError: a tensor is missing, too much, of another shape or type, not finite, or a negative variance.
    """
    if tensors.keys() != expected.keys():
        odd = min(tensors.keys() ^ expected.keys())
        raise ArtefactError(f"the weights in {folder} do not fit its {description} (tensor {odd[:100]}); {remedy}")
    for name, tensor in tensors.items():
        found, wanted = (f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for t in (tensor, expected[name]))
        if found != wanted:
            raise ArtefactError(f"tensor {name} in {folder} is {found}, by its {description} {wanted}; {remedy}")
        if not bool(tensor.isfinite().all()) or (name.endswith("running_var") and bool((tensor < 0).any())):
            raise ArtefactError(f"tensor {name} in {folder} holds impossible numbers; {remedy}")


_OF_KINDS = {"run.json": "a run", "zoo.json": "a zoo", "meta-model.json": "a meta-model"}


def other_kind(folder: Path) -> str | None:
    """What a folder is that was taken for another one, by the files in it; None if it is nothing of metazoo's."""
    return next((kind for name, kind in _OF_KINDS.items() if (folder / name).is_file()), None)


def silent(description: BaseModel) -> set[str]:
    """Fields about domains that say nothing and are left out, so that versions without them can read the rest."""
    return {name for name in ("domains", "general") if not getattr(description, name, True)}
