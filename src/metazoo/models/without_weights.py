"""Networks without weights, to compare files with before anything large is built."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from metazoo.models.architectures import NeedsValuesError, is_built_in
from metazoo.models.classifier import ClassifierSpec, build_classifier, network_of
from metazoo.models.network import Network


def network_without_weights(spec: ClassifierSpec) -> Network:
    """Build the network of `spec` on torch's meta device, which stores only shapes and types.

    A registered module whose head is not known yet is first built and run on the CPU, unless it is large.

    Raises:
        UsageError: see `build_network`.
    """
    try:
        with torch.device("meta"), _NothingInPlace():
            return network_of(spec)
    except NeedsValuesError:
        pass
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        return network_of(spec).to("meta")


def network_with_weights(spec: ClassifierSpec, state: Mapping[str, Tensor]) -> Network:
    """Build the network of `spec` with the tensors `state`, which must fit `network_without_weights`.

    Raises:
        UsageError: see `build_network`.
    """
    if is_built_in(spec.architecture):
        network = network_without_weights(spec)
        network.load_state_dict(state, assign=True)
    else:
        # Such a network may also hold tables that are computed when it is built and are not part of its weights.
        network = build_classifier(spec, torch.Generator().manual_seed(0)).network
        network.load_state_dict(state)
    return network


class _NothingInPlace(TorchFunctionMode):
    """Mode that skips mutating operations, which on the meta device first import torch's compiler (5 seconds)."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.__name__
        if name.endswith("_") and not name.endswith("__"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
