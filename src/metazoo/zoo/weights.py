"""Weights of one model: `models/NAME.safetensors` within its zoo, checked before use."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from metazoo.errors import ArtefactError, UsageError, ZooError
from metazoo.models import ImageClassifier, network_with_weights, network_without_weights
from metazoo.storage.tensor_files import read_tensors, write_tensors
from metazoo.zoo.contract import ModelContract

FOLDER = "models"
SUFFIX = ".safetensors"
_METADATA = {"format": "metazoo-weights", "format_version": "1"}
_LARGEST_HEADER = 1 << 20
_REMEDY = "restore the file, or remove the model with `metazoo zoo remove`"


def models_folder(zoo: Path) -> Path:
    """Folder of the contracts and weights of a zoo.

    Raises:
        ZooError: a symbolic link leads out of the zoo.
    """
    return _within(zoo, zoo / FOLDER)


def weights_path(zoo: Path, name: str) -> Path:
    """Path of the weights of model `name`.

    Raises:
        ZooError: a symbolic link leads out of the zoo.
    """
    return _within(zoo, zoo / FOLDER / f"{name}{SUFFIX}")


def _within(zoo: Path, path: Path) -> Path:
    try:
        inside = path.resolve().is_relative_to(zoo.resolve())
    except (OSError, RuntimeError):  # links in a circle
        inside = False
    if not inside:
        raise ZooError(path, "a link leads out of the zoo", "replace it by the file or folder itself")
    return path


def write_weights(zoo: Path, name: str, classifier: ImageClassifier) -> str:
    """Write the weights of a sound classifier and return their SHA-256.

    Raises:
        ZooError: the weights do not fit the architecture, are not finite, or a variance is negative.
        ArtefactError: the file cannot be written.
    """
    state = classifier.network.state_dict()
    problem = unsound(state, network_without_weights(classifier.spec).state_dict())
    if problem is not None:
        raise ZooError(f"model {name!r}", problem, "train it again with a lower learning rate")
    return write_tensors(weights_path(zoo, name), state, _METADATA)


def read_weights(zoo: Path, contract: ModelContract) -> ImageClassifier:
    """Build the classifier of `contract` with its weights; the size of the file is checked before it is read.

    Raises:
        ArtefactError: the file is missing, has changed, or is not safetensors.
        ZooError: the contract cannot be built, or the weights do not fit it, are not finite, or a variance is negative.
    """
    name, path = contract.name, weights_path(zoo, contract.name)
    try:
        expected = network_without_weights(contract.spec).state_dict()
    except UsageError as error:
        raise ZooError(
            f"model {name!r} of {zoo}",
            f"cannot be built: {error.subject}: {error.problem}",
            f"{error.remedy or 'update metazoo'}, or remove the model with `metazoo zoo remove`",
        ) from error
    try:
        _check_size(path, sum(tensor.numel() * tensor.element_size() for tensor in expected.values()))
        state = read_tensors(path, contract.weights_sha256)
    except ArtefactError as error:
        problem = ": ".join(filter(None, (error.subject, error.problem)))
        remedy = ", or ".join(filter(None, (error.remedy, "remove the model with `metazoo zoo remove`")))
        raise ArtefactError(f"model {name!r}", problem, remedy) from error
    problem = unsound(state, expected)
    if problem is not None:
        raise ZooError(f"model {name!r}", f"{path} {problem}", _REMEDY)
    return ImageClassifier(contract.spec, network_with_weights(contract.spec, state))


def _check_size(path: Path, most: int) -> None:
    if not path.is_file():
        raise ArtefactError(path, "missing", "restore it or make it again")
    size = path.stat().st_size
    if size > most + _LARGEST_HEADER:
        raise ArtefactError(path, f"has {size} bytes instead of {most}", "restore it or make it again")


def unsound(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """First difference of the tensors `state` from the expected ones, or first unsound value; None if there is none."""
    for name in sorted(expected.keys() | state.keys()):
        if name not in state:
            return f"lacks tensor {name}"
        if name not in expected:
            return f"has tensor {name[:100]!r}, which the architecture lacks"
        found, wanted = _kind(state[name]), _kind(expected[name])
        if found != wanted:
            return f"has tensor {name} as {found} instead of {wanted}"
        if state[name].is_floating_point() and not bool(state[name].isfinite().all()):
            return f"has values that are not finite in tensor {name}"
        if name.endswith("running_var") and bool((state[name] < 0).any()):
            return f"has a negative variance in tensor {name}"
    return None


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
