"""Batch norm by batch statistics whose second derivatives cost little more than its first ones.

With the normalised input x, batch norm maps the gradient d of its output to that of its input,
g s (d - mean(d) - x mean(d x)), where g is the scale and s the inverse deviation of a channel (Ioffe and Szegedy 2015).
That map is linear and self-adjoint in d, so most of its own gradient is the same map again; torch composes it of some
thirty passes over the data.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

_forward = torch.native_batch_norm
_backward = torch.ops.aten.native_batch_norm_backward


def batch_norm(inputs: Tensor, scale: Tensor, shift: Tensor, epsilon: float) -> Tensor:
    """Inputs [n, c, ...] normalised by their own statistics, times scale plus shift [c]; not for third derivatives."""
    return _BatchNorm.apply(inputs, scale, shift, epsilon)  # pyright: ignore[reportReturnType]


class _BatchNorm(Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, scale: Tensor, shift: Tensor, epsilon: float) -> Tensor:
        outputs, mean, inverse = _forward(inputs, scale, shift, None, None, True, 0.0, epsilon)
        ctx.save_for_backward(inputs, scale, mean, inverse)
        ctx.epsilon = epsilon
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (*_BatchNormGradient.apply(gradients[0], *ctx.saved_tensors, ctx.epsilon), None)  # pyright: ignore[reportGeneralTypeIssues]


class _BatchNormGradient(Function):
    @staticmethod
    def forward(
        ctx: Any, gradient: Tensor, inputs: Tensor, scale: Tensor, mean: Tensor, inverse: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        found = _backward(gradient, inputs, scale, None, None, mean, inverse, True, epsilon, [True, True, True])
        ctx.save_for_backward(gradient, inputs, scale, mean, inverse, *found[1:])
        ctx.epsilon = epsilon
        return found

    @staticmethod
    def backward(ctx: Any, *weights: Tensor) -> tuple[Tensor | None, ...]:
        """Of `<u, input's gradient> + <p, scale's> + <q, shift's>`, with the weights u, p and q."""
        u, p, q = weights
        gradient, inputs, scale, mean, inverse, of_scale, of_shift = ctx.saved_tensors
        count = inputs.numel() // inputs.shape[1]
        mapped, u_with_inputs, u_sum = _backward(
            u, inputs, scale, None, None, mean, inverse, True, ctx.epsilon, [True, True, True]
        )
        channels = [0, *range(2, inputs.dim())]

        def wide(values: Tensor) -> Tensor:
            return values.view(-1, *[1] * (inputs.dim() - 2))

        # The normalised input is inputs * inverse + shift; nothing of its size is made of it.
        shift = -mean * inverse
        to_gradient = mapped.addcmul_(inputs, wide(p * inverse)).add_(wide(p * shift + q))
        # <u, input's gradient> is scale * inverse * inner, channel by channel
        inner = (u * gradient).sum(channels) - (u_sum * of_shift + u_with_inputs * of_scale) / count
        factor = scale * inverse / count
        # To the normalised input goes gradient * a - u * b; its sums over a channel follow from those of its parts.
        a, b = p - factor * u_with_inputs, factor * of_scale
        total, with_inputs = a * of_shift - b * u_sum, a * of_scale - b * u_with_inputs
        along = (inverse * with_inputs + scale * inner * inverse.square()) / count
        # Laid out as the inputs are: what mixes layouts takes several times as long, here and in all that follows.
        to_inputs = torch.empty_like(inputs)
        torch.addcmul(wide(-inverse * total / count - along * shift), gradient, wide(a * inverse), out=to_inputs)
        to_inputs = to_inputs.addcmul_(u, wide(-b * inverse)).addcmul_(inputs, wide(-along * inverse))
        return to_gradient, to_inputs, inverse * inner, None, None, None
