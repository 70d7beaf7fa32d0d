"""Max pooling whose second derivatives keep the layout of the images.

The map from the gradient of the outputs to that of the inputs scatters to where each maximum was; its own gradient
gathers from there. Torch gathers into the layout of whole channels and adds zeros in that layout to the gradient of the
inputs, which turns all that follows away from `channels_last`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

_forward = torch.ops.aten.max_pool2d_with_indices
_backward = torch.ops.aten.max_pool2d_with_indices_backward


def max_pool(images: Tensor, *window: Any) -> Tensor:
    """Maxima of images [n, c, h, w]; `window` is kernel, stride, padding, dilation and ceiling, as torch has them."""
    return _MaxPool.apply(images, window)  # pyright: ignore[reportReturnType]


class _MaxPool(Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, window: tuple[Any, ...]) -> Tensor:
        outputs, indices = _forward(inputs, *window)
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
        return _backward(gradient, inputs, *window, indices)

    @staticmethod
    def backward(ctx: Any, *weights: Tensor) -> tuple[Tensor | None, ...]:
        (indices,) = ctx.saved_tensors
        wanted, where = (tensor.permute(0, 2, 3, 1) for tensor in (weights[0], indices))
        gathered = wanted.flatten(1, 2).gather(1, where.flatten(1, 2))
        return gathered.view(where.shape).permute(0, 3, 1, 2), None, None, None
