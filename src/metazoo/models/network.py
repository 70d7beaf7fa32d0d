"""What every architecture offers: features, and a linear head on them."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, StringConstraints
from torch import Tensor, nn

from metazoo.errors import UsageError


class Network(nn.Module, ABC):
    """A classifier without its preprocessing. A subclass sets `feature_size` and `head`.

    Attributes:
        feature_size: length of the features.
        head: linear layer with a bias from the features to the classes.
    """

    feature_size: int
    head: nn.Linear

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Features [n, feature_size] of normalised `images` [n, channels, side, side]."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, classes] of normalised `images` [n, channels, side, side]."""
        return self.head(self.features(images))


_Word = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{0,100}$")]
_Number = Annotated[float, Field(allow_inf_nan=False)]
Argument = bool | int | _Number | _Word | Annotated[tuple[bool | int | _Number | _Word, ...], Field(max_length=64)]
"""A number, a word or a yes or no, or several of them; what an architecture takes is its own affair."""


def import_library(name: str, module: str) -> Any:
    """A module of an optional library.

    Raises:
        UsageError: the library is not installed; the command that installs it is named.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(name, "not installed", f'run `pip install "metazoo[{name}]"`') from error


def cannot_be_built(
    architecture: str, channels: int, input_size: int, arguments: Mapping[str, Argument], error: Exception
) -> UsageError:
    """The error to raise where foreign code cannot build a network, with what it has said of it."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    said = "".join(f", {key} {value}" for key, value in arguments.items())
    return UsageError(
        f"{architecture} cannot be built for {channels} channels and {input_size} pixels{said} ({reason}); give others"
    )
