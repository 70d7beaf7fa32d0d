"""Search for the built-in architecture that a file of unknown origin fits, by the names and shapes of its tensors."""

import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from metazoo.errors import UsageError
from metazoo.models import (
    Argument,
    ClassifierSpec,
    architectures,
    default_arguments,
    is_built_in,
    network_without_weights,
)
from metazoo.zoo.importing.tensor_names import common_spelling, match_by_name

DEFAULT_SIDE = 32
_MOST_TENSORS = 5_000
_PADDINGS = (0, 2)
# Files of an exact fit may hold a few tensors of a profiler.
_NEARLY = 0.5


@dataclass(frozen=True)
class Fit:
    """Architecture that resembles a file.

    Attributes:
        architecture: name of a built-in architecture.
        arguments: arguments of the architecture that are not its defaults.
        classes: number of classes.
        channels: channels of the input.
        share: share of the shapes of both that agree, in [0, 1].
        is_exact: whether every tensor has a counterpart of its name and shape.
    """

    architecture: str
    arguments: dict[str, Argument]
    classes: int
    channels: int
    share: float
    is_exact: bool

    def __str__(self) -> str:
        """Text such as `wide-resnet (depth 28, width 10) with 10 classes`."""
        given = ", ".join(f"{key} {value}" for key, value in self.arguments.items())
        return f"{self.architecture}{f' ({given})' if given else ''} with {self.classes} classes"


def best_fits(tensors: Mapping[str, Tensor], input_size: int = DEFAULT_SIDE) -> list[Fit]:
    """Find the built-in architectures that resemble a file most.

    Each is built once without weights, with the width, depth and numbers of classes and channels that the file shows.

    Args:
        tensors: tensors of the file.
        input_size: side of the input in pixels, which matters for `conv4` and `lenet5`.

    Returns:
        All exact fits, or else the single best one if at least half of the shapes agree; empty if there is none.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    kernels = [shape for shape in shapes.values() if len(shape) == 4]
    stems = [shape for channels in (3, 1) for shape in kernels if shape[1] == channels]
    classes = _classes(tensors)
    if len(tensors) > _MOST_TENSORS or not stems or classes is None or min(map(min, kernels)) < 1:
        return []
    fits: list[Fit] = []
    for architecture in filter(is_built_in, architectures()):
        for arguments in _arguments(architecture, tensors, kernels, stems[0]):
            fit = _fit(architecture, arguments, tensors, classes, stems[0][1], input_size)
            fits += [] if fit is None else [fit]
    exact = [fit for fit in fits if fit.is_exact]
    return exact or [fit for fit in sorted(fits, key=lambda fit: -fit.share)[:1] if fit.share >= 0.5]


def _fit(
    architecture: str,
    arguments: dict[str, Argument],
    tensors: Mapping[str, Tensor],
    classes: int,
    channels: int,
    input_size: int,
) -> Fit | None:
    values: dict[str, Any] = {"architecture": architecture, "classes": classes, "input_size": input_size}
    values |= {"channels": channels, "mean": (0.0,) * channels, "std": (1.0,) * channels}
    try:
        network = network_without_weights(ClassifierSpec(**values, arguments=arguments))
    except UsageError:
        return None
    expected = network.state_dict()
    found, wanted = _shapes(tensors), _shapes(expected)
    share = (found & wanted).total() / (found | wanted).total()
    is_exact = share > _NEARLY and match_by_name(tensors, network).fits(expected)
    default = default_arguments(architecture)
    changed = {key: value for key, value in arguments.items() if default[key] != value}
    return Fit(architecture, changed, classes, channels, share, is_exact)


def _arguments(
    architecture: str, tensors: Mapping[str, Tensor], kernels: list[tuple[int, ...]], stem: tuple[int, ...]
) -> list[dict[str, Argument]]:
    """Possible arguments of an architecture, read from the shapes of the kernels."""
    width, squares = stem[0], sum(kernel[2:] == (3, 3) for kernel in kernels)
    matrices = [tensor for tensor in tensors.values() if tensor.ndim == 2]
    if architecture == "conv4":
        widths = tuple(kernel[0] for kernel in kernels[:4])
        return [{"width": width if len(set(widths)) < 2 or len(widths) < 4 else widths}]
    if architecture == "lenet5":
        return [{"width": width, "padding": padding} for padding in _PADDINGS]
    if architecture.startswith("vgg"):
        return [{"width": width, "hidden": len(matrices[0]) if len(matrices) > 1 else 0}]
    if architecture == "densenet-bc":
        return [{"width": width // 2, "depth": 2 * (squares - 1) + 4}]
    if architecture == "wide-resnet":
        layers = {name.rpartition(".")[0] for name, tensor in tensors.items() if tensor.ndim == 4}
        has_bias = any(f"{layer}.bias" in tensors for layer in layers)
        return [{"width": max(kernel[0] for kernel in kernels) // 64, "depth": squares + 3, "bias": has_bias}]
    if architecture == "shufflenet-v2":
        return [{"width": max(kernel[1] for kernel in kernels) // 4}]
    if "shortcut" in default_arguments(architecture):
        return [{"width": width, "shortcut": "B" if (1, 1) in {kernel[2:] for kernel in kernels} else "A"}]
    return [{"width": width}]


def _shapes(tensors: Mapping[str, Tensor]) -> Counter[tuple[int, ...]]:
    return Counter(tuple(tensor.shape) for tensor in tensors.values() if tensor.ndim)


def _classes(tensors: Mapping[str, Tensor]) -> int | None:
    """Outputs of the linear layer of the usual name, or of one whose outputs are not the inputs of another."""
    spelled = common_spelling(tensors)
    matrices = {name: tensor for name, tensor in tensors.items() if tensor.ndim == 2}
    named = [tensor for name, tensor in matrices.items() if spelled[name] == "head.weight"]
    inputs = {tensor.shape[1] for tensor in matrices.values()}
    ends = [tensor for tensor in matrices.values() if len(tensor) not in inputs or len(matrices) == 1]
    last = named or ends[-1:]
    return len(last[0]) if last and 1 <= len(last[0]) <= 1_000_000 else None


def command_line(zoo: object, source: str, options: Mapping[str, object]) -> str:
    """Command that adds a model, quoted for a shell.

    Args:
        zoo: folder of the zoo.
        source: source of the model.
        options: values by the names of options; None for those that are not given, True for switches.
    """
    words = ["metazoo", "zoo", "add", str(zoo), source]
    for option, value in options.items():
        if isinstance(value, Mapping):
            value = ",".join(f"{key}={_joined(each, '+')}" for key, each in value.items())
        value = _joined(value, ",")
        if value not in (None, ""):
            words += [option] if value is True else [option, str(value)]
    return shlex.join(words)


def _joined(value: object, separator: str) -> object:
    if not isinstance(value, tuple):
        return value
    return separator.join(map(str, value))
