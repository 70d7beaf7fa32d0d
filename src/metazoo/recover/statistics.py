"""Reader of the batch-norm statistics in a forward pass of a frozen teacher."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

Moments = tuple[Float[Tensor, " _"], Float[Tensor, " _"]]
"""Mean and variance of one layer, by channel."""


class BatchNormStatistics(NamedTuple):
    """Moments of the inputs of batch-norm layers, each a mean and a biased variance.

    Attributes:
        observed: moments of a batch over images and positions, differentiable.
        stored: running moments of the same layers.
    """

    observed: Sequence[Moments]
    stored: Sequence[Moments]


class BatchNormReader:
    """Context manager that records input statistics of the batch-norm layers of a frozen network.

    It covers all layers in evaluation mode with running statistics. Within the context, outputs of the network are
    unchanged, and gradients reach its inputs, but not the weights of these layers. Afterwards, also after an exception,
    the network is restored. A batch may pass in several parts. Layers that have not run since `clear` are absent. For a
    layer that runs twice in one pass, both inputs count, as in its running statistics.

    Args:
        network: network with constant weights and running statistics.

    Attributes:
        largest_input: largest number of input values per image of any layer so far.
    """

    def __init__(self, network: nn.Module) -> None:
        self._layers = [layer for layer in batch_norm_layers(network) if not layer.training]
        # For a subclass with another forward, such as one with an activation, a hook computes the statistics.
        self._affine = {layer: _affine(layer) for layer in self._layers if type(layer).forward is _BatchNorm.forward}
        self._seen: dict[_BatchNorm, list[tuple[int, Tensor, Tensor, Tensor]]] = {}
        self._replaced: list[_BatchNorm] = []
        self._handles: list[RemovableHandle] = []
        self.largest_input = 0

    def __enter__(self) -> "BatchNormReader":
        for layer in self._layers:
            if layer in self._affine and "forward" not in vars(layer):
                # An instance attribute takes precedence over the method of the class.
                vars(layer)["forward"] = self._recording_forward(layer, *self._affine[layer])
                self._replaced.append(layer)
            else:
                self._handles.append(layer.register_forward_pre_hook(self._hook))
        return self

    def __exit__(self, *_: object) -> None:
        while self._replaced:
            vars(self._replaced.pop()).pop("forward", None)
        while self._handles:
            self._handles.pop().remove()

    def clear(self) -> None:
        """Delete the recorded statistics, before or after a batch."""
        self._seen.clear()

    @property
    def observed(self) -> list[Moments]:
        """Mean and biased variance of every layer's inputs over images and positions, differentiable."""
        statistics = []
        for parts in self._seen.values():
            count, centre = sum(part for part, *_ in parts), parts[0][1]
            mean = torch.stack([moment * (part / count) for part, _, moment, _ in parts]).sum(0)
            mean_square = torch.stack([moment * (part / count) for part, _, _, moment in parts]).sum(0)
            statistics.append((centre + mean, mean_square - mean.square()))
        return statistics

    @property
    def stored(self) -> list[Moments]:
        """Running mean and variance of every layer of `observed`."""
        return [(layer.running_mean, layer.running_var) for layer in self._seen]  # pyright: ignore[reportReturnType]

    def _record(self, layer: _BatchNorm, inputs: Tensor, centre: Tensor, mean: Tensor, mean_square: Tensor) -> None:
        self.largest_input = max(self.largest_input, inputs[0].numel())
        self._seen.setdefault(layer, []).append((inputs.numel() // inputs.shape[1], centre, mean, mean_square))

    def _recording_forward(self, layer: _BatchNorm, scale: Tensor, shift: Tensor) -> Callable[[Tensor], Tensor]:
        def forward(inputs: Tensor) -> Tensor:
            mean = cast(Tensor, layer.running_mean)
            centre = mean.to(inputs.dtype)
            rest = shift + (centre - mean) * scale  # corrects the rounding of the centre
            outputs, *moments = _NormaliseAndObserve.apply(inputs, centre, scale, rest)  # pyright: ignore[reportGeneralTypeIssues]
            self._record(layer, inputs, centre.to(scale.dtype), *moments)
            return outputs

        return forward

    def _hook(self, layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        inputs: Tensor = arguments[0]
        exact = torch.promote_types(inputs.dtype, torch.float32)  # mixed precision rounds the squares
        centre = cast(Tensor, layer.running_mean).to(exact)
        centred = inputs.to(exact) - _by_channel(centre, inputs)
        moments = (values.mean(_all_but_channels(inputs)) for values in (centred, centred.square()))
        self._record(cast(_BatchNorm, layer), inputs, centre, *moments)


def batch_norm_layers(network: nn.Module) -> list[_BatchNorm]:
    """Batch-norm layers of `network` with running statistics."""
    layers = [part for part in network.modules() if isinstance(part, _BatchNorm)]
    return [layer for layer in layers if layer.running_mean is not None]


def _affine(layer: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Scale and shift [channels] of the layer in evaluation mode, for inputs minus its running mean."""
    variance = cast(Tensor, layer.running_var)
    scale = torch.rsqrt(variance + layer.eps)
    shift = torch.zeros_like(scale) if layer.bias is None else layer.bias.detach()
    return scale if layer.weight is None else scale * layer.weight.detach(), shift


class _NormaliseAndObserve(torch.autograd.Function):
    """Batch norm with stored statistics, and the first two moments of its input about a centre.

    The centre is the stored mean. The variance is then no small difference of two large moments, and rounding to
    bfloat16 loses precision neither in it nor in the outputs. The gradient of all three results is affine in the input
    and takes two passes over the activations. The backward pass of torch also computes gradients of the weights, which
    a frozen layer does not need.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, centre: Tensor, scale: Tensor, shift: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs, and mean and mean square [channels] of `inputs` [n, channels, ...] minus `centre`."""
        dimensions, exact = _all_but_channels(inputs), scale.dtype
        scale = scale.to(inputs.dtype)
        centred = inputs - _by_channel(centre, inputs)
        mean = centred.mean(dimensions, dtype=exact)
        # Moments can be added over the parts of a batch, and take a tenth of the time of `torch.var_mean` on a CPU.
        if exact == inputs.dtype:
            mean_square = centred.square_().mean(dimensions)
            offset = shift - centre * scale
            outputs = torch.addcmul(_by_channel(offset, inputs), inputs, _by_channel(scale, inputs), out=centred)
        else:  # mixed precision: a norm computes its squares in the type of the sum
            count = inputs.numel() // inputs.shape[1]
            mean_square = torch.linalg.vector_norm(centred, dim=dimensions, dtype=exact).square() / count
            outputs = torch.addcmul(
                _by_channel(shift.to(inputs.dtype), inputs), centred, _by_channel(scale, inputs), out=centred
            )
        ctx.save_for_backward(inputs, centre, scale)
        ctx.set_materialize_grads(False)
        return outputs, mean, mean_square

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Compute the gradient to_outputs * scale + to_mean / m + to_mean_square * 2 * (inputs - centre) / m."""
        to_outputs, to_mean, to_mean_square = gradients
        inputs, centre, scale = ctx.saved_tensors
        count = inputs.numel() // inputs.shape[1]
        offset = torch.zeros_like(scale) if to_mean is None else to_mean / count
        slope = torch.zeros_like(scale) if to_mean_square is None else to_mean_square * (2 / count)
        values = inputs
        if slope.dtype == inputs.dtype:
            offset = offset - centre * slope
        else:  # a rounded offset would not cancel the centre
            values = inputs - _by_channel(centre, inputs)
        offset, slope = (_by_channel(factor.to(inputs.dtype), inputs) for factor in (offset, slope))
        gradient = torch.addcmul(offset, values, slope)
        if to_outputs is not None:
            gradient.addcmul_(to_outputs, _by_channel(scale, inputs))
        return gradient, None, None, None


def _all_but_channels(values: Tensor) -> list[int]:
    return [dimension for dimension in range(values.dim()) if dimension != 1]


def _by_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (like.dim() - 2))
