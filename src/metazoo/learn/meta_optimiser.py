"""The optimiser of a meta-model's parameters, and the names of tensors in checkpoints."""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from metazoo.errors import DataError
from metazoo.execution.optimisers import Adam

REGULARISER, GROUPING, VISITS = "regulariser.", "grouping.", "visits."
"""Prefixes of the tensors of regulariser, grouping and source of visits in checkpoints."""


@final
class MetaOptimiser:
    """Adam on named parameters.

    Args:
        parameters: tensors to optimise, by name.
        learning_rate: default learning rate of a step.
    """

    def __init__(self, parameters: Mapping[str, Tensor], learning_rate: float) -> None:
        self.parameters, self._learning_rate = dict(parameters), learning_rate
        self._adam = Adam([*self.parameters.values()])

    def step(self, direction: Mapping[str, Tensor], learning_rate: float | None = None) -> None:
        """Take a step against `direction`, the gradients by parameter name."""
        gradients = [direction[name].to(memory_format=_format_of(value)) for name, value in self.parameters.items()]
        self._adam.step(gradients, self._learning_rate if learning_rate is None else learning_rate)

    def state(self) -> dict[str, Tensor]:
        """Parameters and moments by name, for a checkpoint."""
        tensors = {f"parameters.{name}": value.detach() for name, value in self.parameters.items()}
        for name, state in zip(self.parameters, self._adam.state(), strict=True):
            tensors |= {f"optimiser.{key}.{name}": value for key, value in state.items()}
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Resume from `state`; other tensors are ignored.

        Raises:
            DataError: the tensors are not a state of these parameters.
        """
        names = [f".{name}" for name in self.parameters]
        try:
            for name, parameter in self.parameters.items():
                with torch.no_grad():
                    parameter.copy_(tensors[f"parameters.{name}"])
            if any(name.startswith("optimiser.") for name in tensors):  # there are none before the first step of 0.1
                keys = self._adam.state()[0]
                self._adam.restore([{key: tensors[f"optimiser.{key}{name}"] for key in keys} for name in names])
        except (KeyError, RuntimeError) as error:
            raise DataError("checkpoint", f"does not fit the meta-model: {error}", "start the run again") from error


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add `prefix` to the names of tensors."""
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def of_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose names start with `prefix`, named without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _format_of(parameter: Tensor) -> torch.memory_format:
    is_last = parameter.dim() == 4 and parameter.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format
