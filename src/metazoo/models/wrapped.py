"""Networks of other origin: any module that ends in one linear layer on pooled features."""

import contextlib
import copy
from collections.abc import Callable, Mapping
from typing import Any, Self, final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrize

from metazoo.models.network import Network

_TOLERANCE, _ROUNDING = 1e-3, 1e-6


class WrappedNetwork(Network):
    """Network of another origin, whose last linear layer is the `head`.

    Features are the inputs of that layer, averaged over positions if they are spatial. Layers after it are skipped, so
    that a body that ends in a softmax gives logits. A missing bias of the layer becomes a bias of zeros, and a
    parametrised weight, such as that of a weight norm, the weight itself. In training, only batch normalisation is in
    training mode: dropout and stochastic depth stay off, so that training is reproducible.

    Args:
        body: module that maps images [n, channels, side, side] to logits [n, classes].
        head_name: name of its last linear layer or 1x1 convolution, which `wrap_module` finds.
        is_last: whether the output of that layer is the output of the body.
    """

    def __init__(self, body: nn.Module, head_name: str, *, is_last: bool = True) -> None:
        super().__init__()
        old = body.get_submodule(head_name)
        assert isinstance(old, nn.Linear | nn.Conv2d)
        parent, _, name = head_name.rpartition(".")
        setattr(body.get_submodule(parent), name, nn.Identity() if is_last else _Interruption())
        self.body = body
        classes, self.feature_size = old.weight.shape[:2]
        self.head = nn.Linear(self.feature_size, classes, device=old.weight.device)
        self._has_bias = old.bias is not None
        bias = old.bias if old.bias is not None else torch.zeros_like(self.head.bias)
        self.head.load_state_dict({"weight": old.weight.detach().flatten(1), "bias": bias.detach()}, assign=True)
        self.head_name, self.is_last, self._is_channels_last = head_name, is_last, isinstance(old, nn.Linear)
        # In a tuple, so that it is no part of this module.
        self._parametrised = (copy.deepcopy(old).to("meta"),) if parametrize.is_parametrized(old) else ()
        self.train()

    @property
    def is_parametrised(self) -> bool:
        """Whether the weight of the head was computed by a parametrisation before the body was wrapped."""
        return bool(self._parametrised)

    def features(self, images: Tensor) -> Tensor:
        """Input of the head, averaged over positions if it is spatial."""
        try:
            found = self.body(images)
        except _Reached as reached:
            found = reached.features
        found = found if isinstance(found, Tensor) else found.logits
        if found.ndim > 2:
            found = found.flatten(1, -2).mean(1) if self._is_channels_last else found.flatten(2).mean(2)
        return found

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the batch normalisation; other parts of the body stay in evaluation mode."""
        super().train(mode)
        for part in self.body.modules():
            part.training = mode and isinstance(part, _NormBase)
        return self

    def own_state(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the tensors of the body before it was wrapped to the names of this network."""
        prefix = f"{self.head_name}."
        state = {f"body.{name}": tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
        head = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        for layer in self._parametrised:
            head = _without_parametrisation(layer, head)
        if "weight" in head and head["weight"].ndim > 1:
            head["weight"] = head["weight"].flatten(1)
            if not self._has_bias:
                head.setdefault("bias", head["weight"].new_zeros(len(head["weight"])))
        return state | {f"head.{name}": tensor for name, tensor in head.items()}


class UnsuitableBodyError(ValueError):
    """A module cannot be wrapped, since it does not end in one linear layer; the message says what it does."""


class _Reached(BaseException):
    """Signal that the head has been reached; foreign code that catches all exceptions must not catch it."""

    def __init__(self, features: Tensor) -> None:
        self.features = features


@final
class _Interruption(nn.Module):
    """Stand-in for a head whose output the body processes further; it ends the body's forward pass."""

    def forward(self, features: Tensor) -> Tensor:
        raise _Reached(features)


def wrap_module(body: nn.Module, images: Tensor, classes: int) -> WrappedNetwork:
    """Wrap a module, whose last linear layer is found by running it once in evaluation mode.

    Args:
        body: module that maps images to logits, or to a tuple or mapping with them. It becomes part of the result.
        images: any images of the right shape [n, channels, side, side]. Unless they are on the meta device, the logits
            of the result are compared with the output of the body.
        classes: number of classes.

    Raises:
        UnsuitableBodyError: the body has no such layer, or something other than a mean over positions, a softmax,
            log-softmax or sigmoid follows it.
        Exception: an error of the body.
    """
    reached: dict[str, list[Tensor]] = {}

    def note(name: str, output: Any) -> None:
        reached[name] = [*reached.pop(name, []), output]

    with contextlib.ExitStack() as stack:
        for name, part in body.named_modules():
            if name and isinstance(part, nn.Linear | nn.Conv2d):
                hook = part.register_forward_hook(lambda _, __, output, name=name: note(name, output))
                stack.callback(hook.remove)
        output = output_of(body, images)
    logits = logits_in(output, len(images), classes)
    if not reached:
        raise UnsuitableBodyError("its forward pass uses no linear layer")
    name = next((name for name in reached if reached[name][-1] is logits), next(reversed(reached)))
    layer = _described_head(body, name, len(reached[name]), classes)
    plain = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    network = WrappedNetwork(body, name, is_last=plain is reached[name][-1] and logits.ndim == 2)
    if not images.is_meta:
        try:
            found = output_of(network, images)
        except Exception as error:  # foreign code raises any error
            raise UnsuitableBodyError(f"cannot be run up to {layer} ({error})") from error
        problem = difference(found, logits)
        if problem is not None:
            raise UnsuitableBodyError(f"its output {problem} of {layer}")
    return network


def _described_head(body: nn.Module, name: str, uses: int, classes: int) -> str:
    """Words for the last layer of a body, for errors, after checking that it can be a head."""
    part = body.get_submodule(name)
    assert isinstance(part, nn.Linear | nn.Conv2d)
    layer = f"its last layer, {name!r} ({' '.join(repr(part).split())[:200]})"
    is_linear = isinstance(part, nn.Linear) or (part.kernel_size == (1, 1) and part.groups == 1)
    if not is_linear or part.weight.shape[0] != classes:
        raise UnsuitableBodyError(f"{layer} is not linear with {classes} outputs")
    if uses > 1:
        raise UnsuitableBodyError(f"{layer} is used {uses} times")
    if "weight" not in part._parameters and not parametrize.is_parametrized(part, "weight"):
        raise UnsuitableBodyError(f"{layer} has a computed weight that is no parametrisation of torch")
    return layer


def output_of(module: nn.Module, images: Tensor, run: Callable[[Tensor], Any] | None = None) -> Any:
    """Output of a module in evaluation mode, without gradients; its modes do not change.

    Args:
        module: module to run.
        images: input of the module.
        run: function that runs the module; None: the module itself.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            return (run or module)(images)
    finally:
        for part, mode in modes:
            part.training = mode


def logits_in(output: Any, count: int, classes: int) -> Tensor:
    """First tensor in an output that has one number for each of `count` images and each class, of any shape.

    Raises:
        UnsuitableBodyError: there is none.
    """
    parts = [output]
    if isinstance(getattr(output, "logits", None), Tensor):
        parts = [output.logits]
    elif isinstance(output, Mapping):
        parts = [output["logits"]] if "logits" in output else [*output.values()]
    elif isinstance(output, tuple | list):
        parts = [*output]
    shapes = [[*part.shape] if isinstance(part, Tensor) else type(part).__name__ for part in parts]
    for part, shape in zip(parts, shapes, strict=True):
        if isinstance(part, Tensor) and shape[:2] == [count, classes] and part.numel() == count * classes:
            return part
    text = ", ".join(map(str, shapes))[:200]
    raise UnsuitableBodyError(f"its output for {count} images ({text}) is not one number for each of {classes} classes")


def difference(logits: Tensor, output: Tensor, tolerance: float = _TOLERANCE) -> str | None:
    """Difference of an output from logits [n, classes], their log-softmax, softmax and sigmoid; None if it is one.

    Args:
        logits: expected logits.
        output: output of the same number of elements.
        tolerance: tolerance as a fraction of the largest deviation from the mean.

    Returns:
        Words that follow `its output`, and are followed by a description of the expected output.
    """
    output = output.reshape(logits.shape).to(logits.dtype)
    if not bool(output.isfinite().all()):
        return "is not finite, unlike that"
    for expected in (logits, logits.log_softmax(1), logits.softmax(1), logits.sigmoid()):
        if _are_close(expected, output, tolerance):
            return None
    factor = float((logits * output).sum() / logits.square().sum())
    if _are_close(factor * logits, output, tolerance):
        return f"is {factor:.4g} times that"
    return "is neither that nor the softmax, log-softmax or sigmoid"


def _are_close(expected: Tensor, output: Tensor, tolerance: float) -> bool:
    spread = float((expected - expected.mean()).abs().max())
    return float((expected - output).abs().max()) <= tolerance * spread + _ROUNDING * float(expected.abs().max())


def _without_parametrisation(layer: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weight and bias of a parametrised layer with these tensors, or the tensors themselves if they do not fit it."""
    expected = layer.state_dict()
    if {name: tensor.shape for name, tensor in tensors.items()} != {
        name: each.shape for name, each in expected.items()
    }:
        return tensors
    layer = copy.deepcopy(layer)
    layer.load_state_dict(tensors, assign=True)
    return {name: value.detach() for name in ("weight", "bias") if (value := getattr(layer, name)) is not None}
