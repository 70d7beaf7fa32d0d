"""Architectures by name; for architectures of other libraries see `metazoo.models.library`."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Annotated

import torch
from pydantic import AfterValidator
from torch import nn
from torch.nn.parameter import is_lazy

from metazoo.errors import MetazooError, UsageError
from metazoo.models.cifar_resnet import CifarResNet
from metazoo.models.conv4 import CONV4_BLOCKS, Conv4
from metazoo.models.densenet import DenseNet
from metazoo.models.graph_body import GraphBody, layer_name
from metazoo.models.lenet import LeNet5
from metazoo.models.library import build_library_network, is_library_name
from metazoo.models.mobilenet import MobileNetV2
from metazoo.models.network import Argument, Network, cannot_be_built
from metazoo.models.operator_graph import OperatorGraph
from metazoo.models.resnet import BasicBlock, BottleneckBlock, ResNet, ThinResNet
from metazoo.models.resnet12 import ResNet12
from metazoo.models.shufflenet import ShuffleNetV2
from metazoo.models.vgg import Vgg
from metazoo.models.wide_resnet import WideResNet
from metazoo.models.wrapped import UnsuitableBodyError, WrappedNetwork, wrap_module
from metazoo.plugins import Registry

_BUILT_IN: dict[str, Callable[..., Network]] = {
    "conv4": Conv4,
    "thin-resnet": ThinResNet,
    "resnet10": partial(ResNet, (1, 1, 1, 1), BasicBlock),
    "resnet18": partial(ResNet, (2, 2, 2, 2), BasicBlock),
    "resnet50": partial(ResNet, (3, 4, 6, 3), BottleneckBlock),
    "resnet12": ResNet12,
    **{f"cifar-resnet{depth}": partial(CifarResNet, depth) for depth in (20, 32, 44, 56, 110)},
    "cifar-resnet18": partial(ResNet, (2, 2, 2, 2), BasicBlock, nn.ReLU),
    "cifar-resnet34": partial(ResNet, (3, 4, 6, 3), BasicBlock, nn.ReLU),
    "cifar-resnet50": partial(ResNet, (3, 4, 6, 3), BottleneckBlock, nn.ReLU),
    "wide-resnet": WideResNet,
    "densenet-bc": DenseNet,
    **{f"vgg{depth}-bn": partial(Vgg, depth) for depth in (11, 13, 16, 19)},
    "mobilenet-v2": MobileNetV2,
    "shufflenet-v2": ShuffleNetV2,
    "lenet5": LeNet5,
}
_SHAPE = {"classes", "channels", "input_size"}
_CORRECT = "correct the package that registers it"
LARGEST_WIDTH = 4096
ONNX = "onnx"
"""Architecture of models whose specification holds their graph."""
ARCHITECTURES: Registry[Callable[..., nn.Module]] = Registry(
    "architecture",
    "metazoo.architectures",
    values=_BUILT_IN,
    also=("timm:NAME", "torchvision:NAME", "transformers:CLASS"),
)
register_architecture = ARCHITECTURES.register
"""Register an architecture: `register_architecture(name, builder)`, or the decorator `register_architecture(name)`.

The builder is called as `builder(classes=, channels=, input_size=, **arguments)` and returns a module with new weights
from torch's global generator: a `Network`, or any `nn.Module` that maps normalised images to logits and ends in one
linear layer, whose inputs become the features (see `metazoo.models.wrapped`). That layer is found by running the
module; where this fails, the builder can name it and return `WrappedNetwork(module, "name.of.the.layer")`.

Other keyword arguments of the builder need defaults. Every network is first built on torch's meta device, to find its
shapes, so a builder must not read values of tensors; the forward pass of a small module may.
"""


class NeedsValuesError(UsageError):
    """The head of a module has not been found yet, which needs a forward pass with values."""


# Name of the head, and whether its output is that of the module; see `WrappedNetwork`.
_heads: dict[tuple[object, ...], tuple[str, bool]] = {}
_MOST_NUMBERS = 64_000_000
_NAME_IT = "change it, or let its builder return a `WrappedNetwork`"


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


def default_arguments(architecture: str) -> dict[str, Argument]:
    """Arguments of a registered architecture that have defaults, with these defaults.

    Raises:
        UsageError: the architecture is unknown.
    """
    parameters = inspect.signature(ARCHITECTURES.get(architecture)).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def takes_width(architecture: str) -> bool:
    """Whether an architecture has an argument `width`; those of libraries have none."""
    if is_library_name(architecture):
        return False
    return "width" in default_arguments(architecture)


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
    check_registered(architecture)
    builder = ARCHITECTURES.get(architecture)
    try:
        _check_arguments(architecture, builder, arguments.keys())
        if is_built_in(architecture):
            check_width(architecture, arguments.get("width", 1))
    except ValueError as error:
        raise UsageError(architecture, str(error)) from None
    if is_built_in(architecture):
        return _BUILT_IN[architecture](**shape, **arguments)
    try:
        network = builder(**shape, **arguments)
    except MetazooError:
        raise
    except (Exception, SystemExit) as error:  # foreign code raises any error
        raise cannot_be_built(architecture, channels, input_size, arguments, error) from error
    if not isinstance(network, nn.Module):
        raise UsageError(architecture, f"its builder returns a {type(network).__name__}, not a module", _CORRECT)
    if not isinstance(network, Network):
        try:
            return _wrapped(network, (builder, *shape.values(), repr(sorted(arguments.items()))), **shape)
        except UnsuitableBodyError as error:
            raise UsageError(architecture, str(error), _NAME_IT) from error
        except NeedsValuesError:
            raise
        except (Exception, SystemExit) as error:  # foreign code raises any error
            raise cannot_be_built(architecture, channels, input_size, arguments, error) from error
    head = getattr(network, "head", None)
    sizes = (getattr(network, "feature_size", None), classes)
    if not isinstance(head, nn.Linear) or head.bias is None or (head.in_features, head.out_features) != sizes:
        problem = "its head is not a linear layer with bias from feature_size to the classes"
        raise UsageError(architecture, problem, _CORRECT)
    return network


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


def check_registered(architecture: str) -> None:
    """Check that an architecture, unless it is that of a library or of an ONNX file, is registered.

    Raises:
        UsageError: it is not, or its entry point cannot be loaded.
    """
    if architecture == ONNX or is_library_name(architecture) or ARCHITECTURES.find(architecture) is not None:
        return
    name = repr(architecture[:100])
    close = difflib.get_close_matches(architecture, ARCHITECTURES.names(), n=1)
    problem = f"is not registered (did you mean {close[0]}?)" if close else "is not registered"
    load = "load the package that registers it (--plugin PACKAGE, metazoo.load_plugin)"
    remedy = f"{load}, or call metazoo.register_architecture({name}, BUILDER)"
    raise UsageError(f"architecture {name}", problem, remedy)


def _wrapped(
    built: nn.Module, key: tuple[object, ...], *, classes: int, channels: int, input_size: int
) -> WrappedNetwork:
    """Wrap a module of a plug-in, whose head is looked for only once for each `key`."""
    tensors = [*built.parameters(), *built.buffers()]
    is_meta, has_lazy = any(tensor.is_meta for tensor in tensors), any(map(is_lazy, tensors))
    if key in _heads:
        name, is_last = _heads[key]
        return WrappedNetwork(built, name, is_last=is_last)
    # The first forward pass on the meta device imports torch's compiler (seconds), and reads no values.
    if is_meta and sum(tensor.numel() for tensor in tensors if not is_lazy(tensor)) <= _MOST_NUMBERS:
        raise NeedsValuesError("architecture", "its head is not known yet", "build it on the CPU first")
    images = torch.randn(2, channels, input_size, input_size, generator=torch.Generator().manual_seed(0), device="cpu")
    try:
        network = wrap_module(built, images.to("meta" if is_meta else tensors[0].device if tensors else "cpu"), classes)
    except (RuntimeError, NotImplementedError) as error:
        if not is_meta:
            raise
        raise UnsuitableBodyError(f"its head cannot be found without values ({error})") from error
    # A lazy layer gets its weights, and a computed weight its shape, from values.
    if not network.is_parametrised and not has_lazy:
        _heads[key] = network.head_name, network.is_last
    return network


def _check_arguments(architecture: str, builder: Callable[..., nn.Module], names: Iterable[str]) -> None:
    try:
        parameters = inspect.signature(builder).parameters.values()
    except (TypeError, ValueError):
        problem = f"its builder, {builder!r:.100}, is not a function or class with known arguments"
        raise UsageError(architecture, problem, _CORRECT) from None
    taken = {each.name for each in parameters if each.kind in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD)} - _SHAPE
    unknown = sorted(set(names) - taken)
    if unknown and not any(each.kind is each.VAR_KEYWORD for each in parameters):
        raise ValueError(f"{architecture} takes {', '.join(sorted(taken)) or 'no arguments'}, not {unknown[0]!r}")
