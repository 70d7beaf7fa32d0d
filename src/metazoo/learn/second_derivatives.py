"""Batch norm and max pooling with quick second derivatives, and attention that has any."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class QuickSecondDerivatives(TorchFunctionMode):
    """Context with quick second derivatives of batch norm (by batch statistics, scaled and shifted) and max pooling.

    Values and first derivatives equal those of torch, second derivatives differ by rounding, and third ones do not
    exist. Attention is computed step by step, since the fused forms of torch have no second derivatives.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if func is functional.batch_norm and len(args) == 3 and args[1] is None and options.get("weight") is not None:
            return batch_norm(args[0], options["weight"], options["bias"], options["eps"])
        if func is functional.max_pool2d and len(args) == 2 and args[0].dim() == 4:
            images, kernel = args
            stride = kernel if options["stride"] is None else options["stride"]
            return max_pool(images, kernel, stride, options["padding"], options["dilation"], options["ceil_mode"])
        # Fused attention has no second derivatives.
        if func is functional.scaled_dot_product_attention:
            return torch.ops.aten._scaled_dot_product_attention_math(*args, **options)[0]
        if func is functional.multi_head_attention_forward:
            return func(*args, **{**options, "need_weights": True})
        return func(*args, **options)


_norm_forward = torch.native_batch_norm
_norm_backward = torch.ops.aten.native_batch_norm_backward


def batch_norm(inputs: Tensor, scale: Tensor, shift: Tensor, epsilon: float) -> Tensor:
    """Inputs [n, c, ...] normalised by their own statistics, times scale plus shift [c]; no third derivatives."""
    return _BatchNorm.apply(inputs, scale, shift, epsilon)  # pyright: ignore[reportReturnType]


class _BatchNorm(Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, scale: Tensor, shift: Tensor, epsilon: float) -> Tensor:
        outputs, mean, inverse = _norm_forward(inputs, scale, shift, None, None, True, 0.0, epsilon)
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
        found = _norm_backward(gradient, inputs, scale, None, None, mean, inverse, True, epsilon, [True, True, True])
        ctx.save_for_backward(gradient, inputs, scale, mean, inverse, *found[1:])
        ctx.epsilon = epsilon
        return found

    @staticmethod
    def backward(ctx: Any, *weights: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of `<u, input gradient> + <p, scale gradient> + <q, shift gradient>` with weights u, p and q."""
        u, p, q = weights
        gradient, inputs, scale, mean, inverse, of_scale, of_shift = ctx.saved_tensors
        count = inputs.numel() // inputs.shape[1]
        mapped, u_with_inputs, u_sum = _norm_backward(
            u, inputs, scale, None, None, mean, inverse, True, ctx.epsilon, [True, True, True]
        )
        channels = [0, *range(2, inputs.dim())]

        def wide(values: Tensor) -> Tensor:
            return values.view(-1, *[1] * (inputs.dim() - 2))

        # The normalised input is inputs * inverse + shift; it is never stored.
        shift = -mean * inverse
        to_gradient = mapped.addcmul_(inputs, wide(p * inverse)).add_(wide(p * shift + q))
        # <u, input's gradient> is scale * inverse * inner, channel by channel
        inner = (u * gradient).sum(channels) - (u_sum * of_shift + u_with_inputs * of_scale) / count
        factor = scale * inverse / count
        # The gradient of the normalised input is gradient * a - u * b; sums over a channel follow from both parts.
        a, b = p - factor * u_with_inputs, factor * of_scale
        total, with_inputs = a * of_shift - b * u_sum, a * of_scale - b * u_with_inputs
        along = (inverse * with_inputs + scale * inner * inverse.square()) / count
        # In the memory format of the inputs, since mixed formats take several times as long, also in later layers.
        to_inputs = torch.empty_like(inputs)
        torch.addcmul(wide(-inverse * total / count - along * shift), gradient, wide(a * inverse), out=to_inputs)
        to_inputs = to_inputs.addcmul_(u, wide(-b * inverse)).addcmul_(inputs, wide(-along * inverse))
        return to_gradient, to_inputs, inverse * inner, None, None, None


_pool_forward = torch.ops.aten.max_pool2d_with_indices
_pool_backward = torch.ops.aten.max_pool2d_with_indices_backward


def max_pool(images: Tensor, *window: Any) -> Tensor:
    """Max pooling of images [n, c, h, w]; `window` has kernel, stride, padding, dilation and ceiling mode of torch."""
    return _MaxPool.apply(images, window)  # pyright: ignore[reportReturnType]


class _MaxPool(Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, window: tuple[Any, ...]) -> Tensor:
        outputs, indices = _pool_forward(inputs, *window)
        ctx.save_for_backward(inputs, indices)
        ctx.window = window
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _MaxPoolGradient.apply(gradients[0], *ctx.saved_tensors, ctx.window), None  # pyright: ignore[reportReturnType]


class _MaxPoolGradient(Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, inputs: Tensor, indices: Tensor, window: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(indices)
        return _pool_backward(gradient, inputs, *window, indices)

    @staticmethod
    def backward(ctx: Any, *weights: Tensor) -> tuple[Tensor | None, ...]:
        (indices,) = ctx.saved_tensors
        wanted, where = (tensor.permute(0, 2, 3, 1) for tensor in (weights[0], indices))
        gathered = wanted.flatten(1, 2).gather(1, where.flatten(1, 2))
        return gathered.view(where.shape).permute(0, 3, 1, 2), None, None, None
