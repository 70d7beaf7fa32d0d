"""Reading batch-norm statistics while a frozen teacher runs, without leaving anything behind in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm


class BatchNormReader:
    """What the batch-norm layers of one network have seen since the last `clear`, and what they remember.

    A batch may go through the network in several parts. Layers that have not run are absent; of a layer that runs twice
    in one pass both inputs count, as they did for the statistics that it stores.
    """

    def __init__(self) -> None:
        self._seen: dict[_BatchNorm, list[tuple[int, Tensor, Tensor]]] = {}
        self.largest_input = 0  # values of one image in the largest layer so far

    def clear(self) -> None:
        """Forget the statistics: another batch follows."""
        self._seen.clear()

    def record(self, layer: _BatchNorm, inputs: Tensor, mean: Tensor, mean_square: Tensor) -> None:
        """Take in that `layer` saw `inputs` [n, channels, ...] with these moments, each [channels]."""
        self.largest_input = max(self.largest_input, inputs[0].numel())
        self._seen.setdefault(layer, []).append((inputs.numel() // inputs.shape[1], mean, mean_square))

    @property
    def observed(self) -> list[tuple[Tensor, Tensor]]:
        """Per layer, mean and biased variance [channels] of its inputs over batch and space, differentiable."""
        statistics = []
        for parts in self._seen.values():
            count = sum(part for part, _, _ in parts)
            mean = torch.stack([moment * (part / count) for part, moment, _ in parts]).sum(0)
            mean_square = torch.stack([moment * (part / count) for part, _, moment in parts]).sum(0)
            statistics.append((mean, mean_square - mean.square()))
        return statistics

    @property
    def stored(self) -> list[tuple[Tensor, Tensor]]:
        """Per layer of `observed`, the running mean and variance [channels]."""
        return [(layer.running_mean, layer.running_var) for layer in self._seen]  # pyright: ignore[reportReturnType]


def batch_norm_layers(network: nn.Module) -> list[_BatchNorm]:
    """The batch-norm layers of `network` that keep running statistics; without any, inversion has none to compare."""
    layers = [part for part in network.modules() if isinstance(part, _BatchNorm)]
    return [layer for layer in layers if layer.running_mean is not None]


@contextmanager
def read_batch_norm(network: nn.Module) -> Iterator[BatchNormReader]:
    """Attach a reader to every batch-norm layer that is in evaluation mode and keeps running statistics.

    The network computes what it always does and is as it was afterwards, also after an exception. Meanwhile gradients
    reach its inputs, but not the weights of these layers: it is for frozen networks.
    """
    layers = [layer for layer in batch_norm_layers(network) if not layer.training]
    # A subclass with a forward of its own, such as one with an activation in it, is only watched.
    plain = [layer for layer in layers if type(layer).forward is _BatchNorm.forward and "forward" not in vars(layer)]
    reader = BatchNormReader()
    handles = []
    try:
        for layer in layers:
            if layer in plain:
                # An attribute of the instance goes before the method of its class.
                layer.forward = _recording_forward(layer, reader)
            else:
                handles.append(layer.register_forward_pre_hook(_recording_hook(layer, reader)))
        yield reader
    finally:
        for layer in plain:
            vars(layer).pop("forward", None)
        for handle in handles:
            handle.remove()


def _recording_forward(layer: _BatchNorm, reader: BatchNormReader) -> Any:
    mean, variance = cast(tuple[Tensor, Tensor], (layer.running_mean, layer.running_var))
    scale = torch.rsqrt(variance + layer.eps)
    scale = scale if layer.weight is None else scale * layer.weight.detach()
    shift = -mean * scale if layer.bias is None else layer.bias.detach() - mean * scale

    def forward(inputs: Tensor) -> Tensor:
        outputs, *moments = _NormaliseAndObserve.apply(inputs, scale, shift)  # pyright: ignore[reportGeneralTypeIssues]
        reader.record(layer, inputs, *moments)
        return outputs

    return forward


def _recording_hook(layer: _BatchNorm, reader: BatchNormReader) -> Any:
    def hook(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        inputs: Tensor = arguments[0]
        dimensions = _all_but_channels(inputs)
        exact = torch.promote_types(inputs.dtype, torch.float32)  # not what mixed precision hands on
        moments = (values.mean(dimensions, dtype=exact) for values in (inputs, inputs.square()))
        reader.record(layer, inputs, *moments)

    return hook


class _NormaliseAndObserve(torch.autograd.Function):
    """Batch norm by stored statistics, together with the first two moments of its input.

    The gradient of all three is affine in the input, so it takes two passes over the activations; torch's own backward
    also works out gradients of the weights, which a frozen layer has no use for.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs, and mean and mean square [channels] of `inputs` [n, channels, ...]."""
        dimensions, exact = _all_but_channels(inputs), scale.dtype
        scale, shift = scale.to(inputs.dtype), shift.to(inputs.dtype)  # under mixed precision they differ
        mean = inputs.mean(dimensions, dtype=exact)
        # Moments add up over the parts of a batch, and on a CPU take a tenth of the time of `torch.var_mean`.
        outputs = inputs.square()
        mean_square = outputs.mean(dimensions, dtype=exact)
        torch.addcmul(_by_channel(shift, inputs), inputs, _by_channel(scale, inputs), out=outputs)
        ctx.save_for_backward(inputs, scale)
        ctx.set_materialize_grads(False)
        return outputs, mean, mean_square

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradient of the inputs: to_outputs * scale + to_mean / m + to_mean_square * 2 * inputs / m."""
        to_outputs, to_mean, to_mean_square = gradients
        inputs, scale = ctx.saved_tensors
        count = inputs.numel() // inputs.shape[1]
        offset = torch.zeros_like(scale) if to_mean is None else (to_mean / count).to(inputs.dtype)
        slope = torch.zeros_like(scale) if to_mean_square is None else (to_mean_square * (2 / count)).to(inputs.dtype)
        gradient = torch.addcmul(_by_channel(offset, inputs), inputs, _by_channel(slope, inputs))
        if to_outputs is not None:
            gradient.addcmul_(to_outputs, _by_channel(scale, inputs))
        return gradient, None, None


def _all_but_channels(values: Tensor) -> list[int]:
    return [dimension for dimension in range(values.dim()) if dimension != 1]


def _by_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (like.dim() - 2))
