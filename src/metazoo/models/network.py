"""Base class of all architectures: features with a linear head."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, StringConstraints
from torch import Tensor, nn

from metazoo.errors import UsageError


class Network(nn.Module, ABC):
    """Classifier without preprocessing; a subclass sets `feature_size` and `head`.

    Attributes:
        feature_size: length of the features.
        head: linear layer with a bias from the features to the classes.
        has_usual_names: whether a file with the usual names of tensors, such as `layer1.0.conv1.weight`, that fits this
            network holds the same network.
    """

    feature_size: int
    head: nn.Linear
    has_usual_names: bool = True

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Features [n, feature_size] of normalised `images` [n, channels, side, side]."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, classes] of normalised `images` [n, channels, side, side]."""
        return self.head(self.features(images))


_Word = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{0,100}$")]
_Number = Annotated[float, Field(allow_inf_nan=False)]
Argument = bool | int | _Number | _Word | Annotated[tuple[bool | int | _Number | _Word, ...], Field(max_length=64)]
"""Number, word, truth value or tuple of these, as an argument of an architecture."""


def import_library(name: str, module: str) -> Any:
    """Import a module of an optional library.

    Raises:
        UsageError: the library is not installed; the remedy is the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(module.partition(".")[0], "not installed", f'run `pip install "metazoo[{name}]"`') from error


def check_number(architecture: str, name: str, value: object, allowed: range) -> None:
    """Check an argument that is a whole number.

    Raises:
        UsageError: it is another type or not in `allowed`.
    """
    if type(value) is not int or value not in allowed:
        step = f" in steps of {allowed.step}" if allowed.step > 1 else ""
        problem = f"{name} must be from {allowed[0]} to {allowed[-1]}{step}, not {value!r}"
        raise UsageError(architecture, problem, "choose such a number")


def check_size(architecture: str, input_size: int, least: int) -> None:
    """Check that images are large enough for the poolings of a network.

    Raises:
        UsageError: `input_size` is below `least`, so that no pixel is left after the last pooling.
    """
    if input_size < least:
        problem = f"needs images of at least {least} pixels, not {input_size}"
        raise UsageError(architecture, problem, "choose a larger input size")


def cannot_be_built(
    architecture: str, channels: int, input_size: int, arguments: Mapping[str, Argument], error: BaseException
) -> UsageError:
    """Error for a network that foreign code cannot build, with the reason that it gives."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    given = "".join(f", {key} {value}" for key, value in arguments.items())
    problem = f"cannot be built for {channels} channels and {input_size} pixels{given} ({reason})"
    return UsageError(architecture, problem, "give other values")
