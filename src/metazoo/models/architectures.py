"""Architectures by name; for architectures of other libraries see `metazoo.models.library`."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Annotated

import torch
from pydantic import AfterValidator
from torch import nn

from metazoo.errors import MetazooError, UsageError
from metazoo.models.cifar_resnet import CifarResNet
from metazoo.models.conv4 import CONV4_BLOCKS, Conv4
from metazoo.models.graph_body import GraphBody, layer_name
from metazoo.models.library import build_library_network, is_library_name
from metazoo.models.network import Argument, Network, cannot_be_built
from metazoo.models.operator_graph import OperatorGraph
from metazoo.models.resnet import BasicBlock, BottleneckBlock, ResNet, ThinResNet
from metazoo.models.wrapped import WrappedNetwork, find_head
from metazoo.plugins import Registry

_BUILT_IN: dict[str, Callable[..., Network]] = {
    "conv4": Conv4,
    "thin-resnet": ThinResNet,
    "resnet10": partial(ResNet, (1, 1, 1, 1), BasicBlock),
    "resnet18": partial(ResNet, (2, 2, 2, 2), BasicBlock),
    "resnet50": partial(ResNet, (3, 4, 6, 3), BottleneckBlock),
    **{f"cifar-resnet{depth}": partial(CifarResNet, depth) for depth in (20, 32, 44, 56, 110)},
}
_SHAPE = {"classes", "channels", "input_size"}
LARGEST_WIDTH = 4096
ONNX = "onnx"
"""Architecture of models whose specification holds their graph."""
ARCHITECTURES: Registry[Callable[..., Network]] = Registry(
    "architecture",
    "metazoo.architectures",
    values=_BUILT_IN,
    also=("timm:NAME", "torchvision:NAME", "transformers:CLASS"),
)
register_architecture = ARCHITECTURES.register
"""Register an architecture: `register_architecture(name, builder)`, or the decorator `register_architecture(name)`.

The builder is called as `builder(classes=, channels=, input_size=, **arguments)` and returns a module with new weights
from torch's global generator: a `Network`, or any `nn.Module` that maps normalised images to logits and ends in one
linear layer, whose inputs become the features (see `metazoo.models.wrapped`). Other keyword arguments of the builder
need defaults. Every network is first built on torch's meta device, to find its shapes, so a builder must not read
values of tensors.
"""


def _check_name(name: str) -> str:
    return name if is_library_name(name) else ARCHITECTURES.validate(name)


ArchitectureName = Annotated[str, AfterValidator(_check_name)]
"""Type of options that hold the name of an architecture, which is checked when they are read.

Names of libraries are checked when the network is built."""


def architectures() -> tuple[str, ...]:
    """Names of all architectures except those of libraries."""
    return ARCHITECTURES.names()


def is_built_in(architecture: str) -> bool:
    """Whether `architecture` is built by this package; such networks have no state other than their weights."""
    return architecture in _BUILT_IN


def check_width(architecture: str, width: object) -> None:
    """Check the argument `width` of an architecture.

    Args:
        architecture: name of the architecture.
        width: integer; for conv4 also a tuple of one integer per block, for architectures of plug-ins any tuple.

    Raises:
        ValueError: the width is out of range or of another form, or the architecture takes none.
    """
    is_fixed = is_built_in(architecture) or is_library_name(architecture)
    if isinstance(width, tuple) and is_fixed and (architecture != "conv4" or len(width) != CONV4_BLOCKS):
        raise ValueError(f"width must be one number, or for conv4 {CONV4_BLOCKS}, one for each block, not {width!r}")
    for number in width if isinstance(width, tuple) else (width,):
        if type(number) is not int or not 1 <= number <= LARGEST_WIDTH:
            raise ValueError(f"width must be from 1 to {LARGEST_WIDTH}, not {number!r}")
    if not is_fixed:
        _check_arguments(architecture, ARCHITECTURES.get(architecture), {"width"})


def build_network(
    architecture: str, *, classes: int, channels: int, input_size: int, arguments: Mapping[str, Argument] | None = None
) -> Network:
    """Build a network with new weights from torch's global generator.

    Args:
        architecture: one of `architectures()`, or a name of a library, see `metazoo.models.library`.
        classes: number of outputs of the head.
        channels: number of input channels, 1 or 3.
        input_size: side of the square images in pixels.
        arguments: arguments of the architecture, such as `width`; for timm see
            `metazoo.models.library.TIMM_ARGUMENTS`, for transformers the configuration of the class, for plug-ins the
            parameters of the builder.

    Raises:
        UsageError: unknown architecture or argument, an argument out of range, a library is not installed, or the
            builder of a plug-in fails or returns another object.
    """
    shape = {"classes": classes, "channels": channels, "input_size": input_size}
    arguments = dict(arguments or {})
    if is_library_name(architecture):
        return build_library_network(architecture, **shape, arguments=arguments)
    builder = ARCHITECTURES.get(architecture)
    try:
        _check_arguments(architecture, builder, arguments.keys())
        if is_built_in(architecture):
            check_width(architecture, arguments.get("width", 1))
    except ValueError as error:
        raise UsageError(architecture, str(error)) from None
    if is_built_in(architecture):
        return builder(**shape, **arguments)
    try:
        network = builder(**shape, **arguments)
    except MetazooError:
        raise
    except Exception as error:
        raise cannot_be_built(architecture, channels, input_size, arguments, error) from error
    return _as_network(architecture, network, channels, input_size, arguments, classes)


def build_graph_network(graph: OperatorGraph, *, classes: int, channels: int, input_size: int) -> Network:
    """Build the network of a graph, see `GraphBody` for its weights.

    Raises:
        UsageError: the graph is not one for this number of classes, or a layer has impossible attributes.
    """
    head = graph.nodes[graph.head]
    if graph.weights[head.inputs[1]][0] != classes:
        problem = f"its last layer has {graph.weights[head.inputs[1]][0]} outputs for {classes} classes"
        raise UsageError(ONNX, problem, "add the model again")
    try:
        return WrappedNetwork(GraphBody(graph), layer_name(graph.head, head))
    except (ValueError, TypeError, LookupError, RuntimeError) as error:
        raise cannot_be_built(ONNX, channels, input_size, {}, error) from error


def _as_network(
    architecture: str,
    built: object,
    channels: int,
    input_size: int,
    arguments: Mapping[str, Argument],
    classes: int,
) -> Network:
    """Check the network that a plug-in has built, or wrap it if it is another module."""
    remedy = "correct the package that registers it"
    if not isinstance(built, nn.Module):
        raise UsageError(architecture, f"its builder returns a {type(built).__name__}, not a module", remedy)
    if isinstance(built, Network):
        head = getattr(built, "head", None)
        shape = (getattr(built, "feature_size", None), classes)
        if not isinstance(head, nn.Linear) or head.bias is None or (head.in_features, head.out_features) != shape:
            problem = "its head is not a linear layer with bias from feature_size to the classes"
            raise UsageError(architecture, problem, remedy)
        return built
    device = next((tensor.device for tensor in (*built.parameters(), *built.buffers())), None)
    try:
        found = find_head(built, torch.zeros(2, channels, input_size, input_size, device=device), classes)
    except Exception as error:  # foreign code raises any error
        raise cannot_be_built(architecture, channels, input_size, arguments, error) from error
    if found is None:
        problem = f"does not end in one linear layer on pooled features with {classes} outputs"
        raise UsageError(architecture, problem, remedy)
    name, is_last = found
    return WrappedNetwork(built, name, is_last=is_last)


def _check_arguments(architecture: str, builder: Callable[..., Network], names: Iterable[str]) -> None:
    parameters = inspect.signature(builder).parameters.values()
    taken = {each.name for each in parameters if each.kind in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD)} - _SHAPE
    unknown = sorted(set(names) - taken)
    if unknown and not any(each.kind is each.VAR_KEYWORD for each in parameters):
        raise ValueError(f"{architecture} takes {', '.join(sorted(taken)) or 'no arguments'}, not {unknown[0]!r}")
