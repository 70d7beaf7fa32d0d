"""Architectures by name. A new one is a line here; nothing in a file can name code to import.

Beside those listed here, there are those of optional libraries, see `metazoo.models.library`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated

from pydantic import AfterValidator

from metazoo.errors import UsageError
from metazoo.models.conv4 import CONV4_BLOCKS, Conv4
from metazoo.models.library import build_library_network, is_library_name
from metazoo.models.network import Argument, Network
from metazoo.models.resnet import BasicBlock, BottleneckBlock, ResNet, ThinResNet

_ARCHITECTURES: dict[str, Callable[..., Network]] = {
    "conv4": Conv4,
    "thin-resnet": ThinResNet,
    "resnet10": partial(ResNet, (1, 1, 1, 1), BasicBlock),
    "resnet18": partial(ResNet, (2, 2, 2, 2), BasicBlock),
    "resnet50": partial(ResNet, (3, 4, 6, 3), BottleneckBlock),
}
LARGEST_WIDTH = 4096
_LIBRARY_HELP = "timm:NAME, torchvision:NAME or transformers:CLASS"


def _check_name(name: str) -> str:
    if name not in _ARCHITECTURES and not is_library_name(name):
        raise ValueError(f"the architecture must be one of {', '.join(_ARCHITECTURES)}, {_LIBRARY_HELP}")
    return name


ArchitectureName = Annotated[str, AfterValidator(_check_name)]
"""For settings, so that a wrong name is refused when they are read and not when the network is built.

Whether a library has the name is only known when it is built."""


def architectures() -> tuple[str, ...]:
    """The names that `build_network` knows without a library."""
    return tuple(_ARCHITECTURES)


def check_width(architecture: str, width: object) -> None:
    """Check the argument `width` of an architecture of ours: a whole number, of conv4 also a tuple of one a block.

    Raises:
        ValueError: it is none.
    """
    if isinstance(width, tuple) and (architecture != "conv4" or len(width) != CONV4_BLOCKS):
        raise ValueError(f"width must be one number, or of conv4 {CONV4_BLOCKS}, one for each block, not {width!r}")
    for number in width if isinstance(width, tuple) else (width,):
        if type(number) is not int or not 1 <= number <= LARGEST_WIDTH:
            raise ValueError(f"width must lie between 1 and {LARGEST_WIDTH}, not {number!r}")


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
            transformers what its configuration has.

    Raises:
        UsageError: unknown architecture or argument, an argument out of range, or a library is not installed.
    """
    arguments = dict(arguments or {})
    if is_library_name(architecture):
        return build_library_network(
            architecture, classes=classes, channels=channels, input_size=input_size, arguments=arguments
        )
    if architecture not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise UsageError(f"unknown architecture {architecture!r}; choose one of {known}, {_LIBRARY_HELP}")
    unknown = set(arguments) - {"width"}
    if unknown:
        raise UsageError(f"{architecture} has no argument {sorted(unknown)[0]!r}; it takes width")
    try:
        check_width(architecture, arguments.get("width", 1))
    except ValueError as error:
        raise UsageError(str(error)) from None
    return _ARCHITECTURES[architecture](classes=classes, channels=channels, input_size=input_size, **arguments)
