"""Adam with identical operations at every step, so that a step can be recorded.

The update of Kingma & Ba (2015), as in `torch.optim.Adam`. The latter imports the compiler of torch, which costs four
seconds in every worker process, and inversion needs none of its options. Steps are counted on the device, and their
factors are read there, so that one step can be recorded and played back; see `metazoo.execution.repeat`.
"""

import math
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

_EPSILON = 1e-8


@final
class PlainAdam:
    """Adam with learning rates that are known in advance.

    Args:
        values: float tensors of any shapes on one device, updated in-place.
        betas: decay rates of both moments, in [0, 1); see Kingma & Ba.
        learning_rates: learning rates of all steps.

    Attributes:
        steps_done: number of finished steps, int64 [1] on the device.
    """

    def __init__(
        self, values: Sequence[Float[Tensor, "..."]], betas: tuple[float, float], learning_rates: Sequence[float]
    ) -> None:
        self._values, self._betas = values, betas
        self._means = [torch.zeros_like(value) for value in values]
        self._squares = [torch.zeros_like(value) for value in values]
        device, (first, second) = values[0].device, betas
        rates = [-rate / (1 - first**step) for step, rate in enumerate(learning_rates, 1)]
        corrections = [math.sqrt(1 - second**step) for step in range(1, len(rates) + 1)]
        self._rates = torch.tensor(rates, dtype=torch.float32).to(device)
        self._corrections = torch.tensor(corrections, dtype=torch.float32).to(device)
        self.steps_done = torch.zeros(1, dtype=torch.int64).to(device)

    @torch.no_grad()
    def step(self, gradients: Sequence[Float[Tensor, "..."]]) -> None:
        """Move the values against `gradients` (of the same shapes) by the next learning rate."""
        first, second = self._betas
        rate = self._rates.index_select(0, self.steps_done)
        correction = self._corrections.index_select(0, self.steps_done)
        state = zip(self._values, self._means, self._squares, gradients, strict=True)
        for value, mean, square, gradient in state:
            mean.lerp_(gradient, 1 - first)
            square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
            value.addcdiv_(mean * rate, square.sqrt().div_(correction).add_(_EPSILON))
        self.steps_done.add_(1)
