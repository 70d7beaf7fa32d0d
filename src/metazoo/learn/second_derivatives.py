"""Layers of convolutional networks whose second derivatives cost little more than their first ones."""

from typing import Any

from torch.nn import functional
from torch.overrides import TorchFunctionMode

from metazoo.learn.batch_norm_gradients import batch_norm
from metazoo.learn.max_pool_gradients import max_pool


class QuickSecondDerivatives(TorchFunctionMode):
    """Within it, batch norm by batch statistics with scale and shift, and max pooling of images, have quick ones.

    Values and first derivatives are torch's own; those of second order differ by rounding, and none are of third.
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
        return func(*args, **options)
