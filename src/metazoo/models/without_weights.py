"""Networks without weights: shapes and types alone, to compare files with before anything large is built."""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from metazoo.models.classifier import ClassifierSpec
from metazoo.models.network import Network
from metazoo.models.registry import build_network


def network_without_weights(spec: ClassifierSpec) -> Network:
    """The network of `spec` on torch's meta device: shapes and types alone, whatever their size.

    Raises:
        UsageError: as `build_network`.
    """
    with torch.device("meta"), _NothingInPlace():
        return build_network(
            spec.architecture,
            classes=spec.classes,
            channels=spec.channels,
            input_size=spec.input_size,
            arguments=spec.arguments,
        )


class _NothingInPlace(TorchFunctionMode):
    """Leaves out the filling of fresh tensors, which on the meta device first imports torch's compiler (5 seconds)."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.__name__
        if name.endswith("_") and not name.endswith("__"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
