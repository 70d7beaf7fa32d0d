"""Adam on one tensor.

The update of Kingma & Ba (2015) as `torch.optim.Adam` computes it. Making one of those imports torch's compiler, which
takes four seconds of every worker process, and inversion needs none of its options.
"""

import math
from typing import final

import torch
from torch import Tensor

_EPSILON = 1e-8


@final
class PlainAdam:
    """State of Adam for `values` (any shape), which are changed in place."""

    def __init__(self, values: Tensor, betas: tuple[float, float]) -> None:
        self._values = values
        self._betas = betas
        self._mean, self._square = torch.zeros_like(values), torch.zeros_like(values)
        self._steps = 0

    @torch.no_grad()
    def step(self, gradient: Tensor, learning_rate: float) -> None:
        """Move the values against `gradient` (same shape)."""
        first, second = self._betas
        self._steps += 1
        self._mean.lerp_(gradient, 1 - first)
        self._square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        spread = self._square.sqrt().div_(math.sqrt(1 - second**self._steps)).add_(_EPSILON)
        self._values.addcdiv_(self._mean, spread, value=-learning_rate / (1 - first**self._steps))
