"""Architectures by name; `register_architecture` adds one. For those of libraries see `metazoo.models.library`."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Annotated

from pydantic import AfterValidator
from torch import nn

from metazoo.errors import MetazooError, UsageError
from metazoo.models.conv4 import CONV4_BLOCKS, Conv4
from metazoo.models.library import build_library_network, is_library_name
from metazoo.models.network import Argument, Network, cannot_be_built
from metazoo.models.resnet import BasicBlock, BottleneckBlock, ResNet, ThinResNet
from metazoo.plugins import Registry

_BUILT_IN: dict[str, Callable[..., Network]] = {
    "conv4": Conv4,
    "thin-resnet": ThinResNet,
    "resnet10": partial(ResNet, (1, 1, 1, 1), BasicBlock),
    "resnet18": partial(ResNet, (2, 2, 2, 2), BasicBlock),
    "resnet50": partial(ResNet, (3, 4, 6, 3), BottleneckBlock),
}
_SHAPE = {"classes", "channels", "input_size"}
LARGEST_WIDTH = 4096
ARCHITECTURES: Registry[Callable[..., Network]] = Registry(
    "architecture",
    "metazoo.architectures",
    values=_BUILT_IN,
    also=("timm:NAME", "torchvision:NAME", "transformers:CLASS"),
)
register_architecture = ARCHITECTURES.register
"""Register an architecture: `register_architecture(name, builder)`, or the decorator `register_architecture(name)`.

The builder is called as `builder(classes=, channels=, input_size=, **arguments)` and returns a `Network` with fresh
weights from torch's global generator. Its other keyword arguments, which have defaults, are those of the architecture.
Every network is built on torch's meta device first, for its shapes, so a builder reads no values of tensors.
"""


def _check_name(name: str) -> str:
    return name if is_library_name(name) else ARCHITECTURES.validate(name)


ArchitectureName = Annotated[str, AfterValidator(_check_name)]
"""For options, so that a wrong name is refused when they are read and not when the network is built.

Whether a library has the name is only known when it is built."""


def architectures() -> tuple[str, ...]:
    """The names that `build_network` knows without a library."""
    return ARCHITECTURES.names()


def is_built_in(architecture: str) -> bool:
    """Whether this package itself builds `architecture`, whose networks hold nothing but their weights."""
    return architecture in _BUILT_IN


def check_width(architecture: str, width: object) -> None:
    """Check the argument `width`: a whole number; of conv4 also a tuple of one a block, of another package's any tuple.

    Raises:
        ValueError: it is none, or the architecture of another package takes no width.
    """
    is_fixed = is_built_in(architecture) or is_library_name(architecture)
    if isinstance(width, tuple) and is_fixed and (architecture != "conv4" or len(width) != CONV4_BLOCKS):
        raise ValueError(f"width must be one number, or of conv4 {CONV4_BLOCKS}, one for each block, not {width!r}")
    for number in width if isinstance(width, tuple) else (width,):
        if type(number) is not int or not 1 <= number <= LARGEST_WIDTH:
            raise ValueError(f"width must lie between 1 and {LARGEST_WIDTH}, not {number!r}")
    if not is_fixed:
        _check_arguments(architecture, ARCHITECTURES.get(architecture), {"width"})


def build_network(
    architecture: str, *, classes: int, channels: int, input_size: int, arguments: Mapping[str, Argument] | None = None
) -> Network:
    """Build a network with fresh weights from torch's global generator (seed it, or load weights afterwards).

    Args:
        architecture: one of `architectures()`, or that of a library, see `metazoo.models.library`.
        classes: outputs of the head.
        channels: 1 or 3.
        input_size: side of the square images in pixels.
        arguments: the architecture's own, such as `width`; of timm, see `metazoo.models.library.TIMM_ARGUMENTS`, of
            transformers what its configuration has, of another package what its builder takes.

    Raises:
        UsageError: unknown architecture or argument, an argument out of range, a library is not installed, or the
            builder of another package fails or returns no such network.
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
        raise UsageError(str(error)) from None
    if is_built_in(architecture):
        return builder(**shape, **arguments)
    try:
        network = builder(**shape, **arguments)
    except MetazooError:
        raise
    except Exception as error:
        raise cannot_be_built(architecture, channels, input_size, arguments, error) from error
    head = getattr(network, "head", None)
    if (
        not isinstance(network, Network)
        or not isinstance(head, nn.Linear)
        or head.bias is None
        or (head.in_features, head.out_features) != (getattr(network, "feature_size", None), classes)
    ):
        raise UsageError(
            f"{architecture} is not a metazoo.models.Network whose head is a linear layer with a bias, from "
            "feature_size to the classes; mend the package that registers it"
        )
    return network


def _check_arguments(architecture: str, builder: Callable[..., Network], names: Iterable[str]) -> None:
    parameters = inspect.signature(builder).parameters.values()
    taken = {each.name for each in parameters if each.kind in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD)} - _SHAPE
    unknown = sorted(set(names) - taken)
    if unknown and not any(each.kind is each.VAR_KEYWORD for each in parameters):
        what = ", ".join(sorted(taken)) or "none"
        raise ValueError(f"{architecture} has no argument {unknown[0]!r}; it takes {what}")
