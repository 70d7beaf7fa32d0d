"""Networks of other origin: any module that ends in one linear layer on pooled features."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from metazoo.models.network import Network

# Layers that drop something at random in training, and the attribute of their probability.
_CHANCES = {"Dropout": "p", "StochasticDepth": "p", "DropPath": "drop_prob"}


class WrappedNetwork(Network):
    """Network of another origin, whose last linear layer is the `head`.

    Features are the inputs of that layer, averaged over positions if they are spatial. Layers after it are skipped, so
    that a body that ends in a softmax gives logits. A missing bias of the layer becomes a bias of zeros. Dropout and
    stochastic depth are switched off, so that training is reproducible.

    Args:
        body: module that maps images [n, channels, side, side] to logits [n, classes].
        head_name: name of its last linear layer, or of a 1x1 convolution in its place; see `find_head`.
        is_last: whether the output of that layer is the output of the body.
    """

    def __init__(self, body: nn.Module, head_name: str, *, is_last: bool = True) -> None:
        super().__init__()
        old = body.get_submodule(head_name)
        assert isinstance(old, nn.Linear | nn.Conv2d)
        parent, _, name = head_name.rpartition(".")
        setattr(body.get_submodule(parent), name, nn.Identity() if is_last else _Interruption())
        for part in body.modules():
            kind = "Dropout" if isinstance(part, _DropoutNd) else type(part).__name__
            if kind in _CHANCES:
                setattr(part, _CHANCES[kind], 0.0)
        self.body = body
        classes, self.feature_size = old.weight.shape[:2]
        self.head = nn.Linear(self.feature_size, classes, device=old.weight.device)
        self._has_bias = old.bias is not None
        bias = old.bias if old.bias is not None else torch.zeros_like(self.head.bias)
        self.head.load_state_dict({"weight": old.weight.detach().flatten(1), "bias": bias.detach()}, assign=True)
        self._head_name, self._is_last, self._is_channels_last = head_name, is_last, isinstance(old, nn.Linear)

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

    def own_state(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the tensors of the body before it was wrapped to the names of this network."""
        state = {self._own_name(name): tensor for name, tensor in tensors.items()}
        if "head.weight" in state and state["head.weight"].ndim > 1:
            state["head.weight"] = state["head.weight"].flatten(1)
            if not self._has_bias:
                state.setdefault("head.bias", state["head.weight"].new_zeros(len(state["head.weight"])))
        return state

    def _own_name(self, name: str) -> str:
        layer, _, kind = name.rpartition(".")
        return f"head.{kind}" if layer == self._head_name else f"body.{name}"


class _Reached(BaseException):
    """Signal that the head has been reached; foreign code that catches all exceptions must not catch it."""

    def __init__(self, features: Tensor) -> None:
        self.features = features


@final
class _Interruption(nn.Module):
    """Stand-in for a head whose output the body processes further; it ends the body's forward pass."""

    def forward(self, features: Tensor) -> Tensor:
        raise _Reached(features)


def find_head(body: nn.Module, images: Tensor, classes: int) -> tuple[str, bool] | None:
    """Find the last linear layer with `classes` outputs that a forward pass reaches.

    Args:
        body: module that maps images to logits. It is run once in evaluation mode.
        images: any images of the right shape [n, channels, side, side], also on the meta device.
        classes: number of classes.

    Returns:
        Name of the layer, which is an `nn.Linear` or a 1x1 `nn.Conv2d`, and whether its output is the output of the
        body; None if there is no such layer.
    """
    reached: list[tuple[str, Tensor]] = []
    with contextlib.ExitStack() as stack:
        for name, part in body.named_modules():
            if name and isinstance(part, nn.Linear | nn.Conv2d):
                handle = part.register_forward_hook(lambda _, __, output, name=name: reached.append((name, output)))
                stack.callback(handle.remove)
        stack.enter_context(_evaluation(body))
        stack.enter_context(torch.no_grad())
        output = body(images)
    if not reached:
        return None
    name, last = reached[-1]
    part = body.get_submodule(name)
    is_head = isinstance(part, nn.Linear) or (isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1))
    if not is_head or part.weight.shape[0] != classes:
        return None
    return name, getattr(output, "logits", output) is last


@contextlib.contextmanager
def _evaluation(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
