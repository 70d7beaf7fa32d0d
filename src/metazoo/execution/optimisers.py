"""Adam and gradient descent with momentum, by the functions of torch behind its optimisers.

The first object of a class in `torch.optim` imports the compiler of torch, which takes several seconds in every process
that trains. The functions compute the same, bit for bit.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

Gradients = Sequence[Float[Tensor, "..."] | None]


class Optimiser(ABC):
    """Optimiser of tensors, which are changed in-place."""

    @abstractmethod
    def step(self, gradients: Gradients, learning_rate: float) -> None:
        """Take a step against `gradients`, one per tensor; a tensor whose gradient is None is not changed."""


@final
class Adam(Optimiser):
    """Adam (Kingma and Ba 2015) as in `torch.optim.Adam`.

    On a GPU the steps are counted there, so that one can be recorded; see `metazoo.execution.repeat`.

    Args:
        values: float tensors of any shapes on one device.
        weight_decay: factor of the values that is added to their gradients, at least 0.
    """

    def __init__(self, values: Sequence[Float[Tensor, "..."]], *, weight_decay: float = 0.0) -> None:
        self._values, self._weight_decay = [*values], weight_decay
        self._recordable = values[0].device.type == "cuda"
        device = values[0].device if self._recordable else "cpu"
        self._states = [
            {
                "step": torch.zeros((), device=device),
                "exp_avg": torch.zeros_like(value),
                "exp_avg_sq": torch.zeros_like(value),
            }
            for value in values
        ]

    @torch.no_grad()
    def step(self, gradients: Gradients, learning_rate: float) -> None:  # noqa: D102
        given = [number for number, gradient in enumerate(gradients) if gradient is not None]
        states = [self._states[number] for number in given]
        adam(
            [self._values[number] for number in given],
            [gradient for gradient in gradients if gradient is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            capturable=self._recordable,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=learning_rate,
            weight_decay=self._weight_decay,
            eps=1e-8,
            maximize=False,
        )

    def state(self) -> list[dict[str, Tensor]]:
        """Tensors `step`, `exp_avg` and `exp_avg_sq` of each value, for a checkpoint."""
        return self._states

    def restore(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Resume from `state`.

        Raises:
            KeyError: a tensor is missing.
            RuntimeError: a tensor has another shape.
        """
        for own, stored in zip(self._states, states, strict=True):
            for name, tensor in own.items():
                tensor.copy_(stored[name])


@final
class GradientDescent(Optimiser):
    """Gradient descent with momentum as in `torch.optim.SGD`.

    Args:
        values: float tensors of any shapes on one device.
        momentum: factor of the former direction, at least 0.
        weight_decay: factor of the values that is added to their gradients, at least 0.
    """

    def __init__(
        self, values: Sequence[Float[Tensor, "..."]], *, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        self._values, self._momentum, self._weight_decay = [*values], momentum, weight_decay
        self._directions: list[Tensor | None] = [None] * len(values)

    @torch.no_grad()
    def step(self, gradients: Gradients, learning_rate: float) -> None:  # noqa: D102
        given = [number for number, gradient in enumerate(gradients) if gradient is not None]
        directions = [self._directions[number] for number in given]
        sgd(
            [self._values[number] for number in given],
            [gradient for gradient in gradients if gradient is not None],
            directions,
            weight_decay=self._weight_decay,
            momentum=self._momentum,
            lr=learning_rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        for number, direction in zip(given, directions, strict=True):
            self._directions[number] = direction
