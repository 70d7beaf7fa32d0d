"""The optimiser of a meta-model's parameters, and the names of tensors in checkpoints."""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from metazoo.errors import DataError

REGULARISER, GROUPING = "regulariser.", "grouping."
"""Prefixes of the tensors of regulariser and grouping in checkpoints."""


@final
class MetaOptimiser:
    """Adam on named parameters.

    Args:
        parameters: tensors to optimise, by name.
        learning_rate: default learning rate of a step.
    """

    def __init__(self, parameters: Mapping[str, Tensor], learning_rate: float) -> None:
        self.parameters = dict(parameters)
        self._adam = torch.optim.Adam(self.parameters.values(), lr=learning_rate)

    def step(self, direction: Mapping[str, Tensor], learning_rate: float | None = None) -> None:
        """Take a step against `direction`, the gradients by parameter name."""
        if learning_rate is not None:
            for group in self._adam.param_groups:
                group["lr"] = learning_rate
        for name, parameter in self.parameters.items():
            parameter.grad = direction[name].to(memory_format=_format_of(parameter))
        self._adam.step()
        self._adam.zero_grad()

    def state(self) -> dict[str, Tensor]:
        """Parameters and moments by name, for a checkpoint."""
        tensors = {f"parameters.{name}": value.detach() for name, value in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for key, value in self._adam.state[parameter].items():
                tensors[f"optimiser.{key}.{name}"] = value
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Resume from `state`; other tensors are ignored.

        Raises:
            DataError: the tensors are not a state of these parameters.
        """
        moment_names = {name.split(".")[1] for name in tensors if name.startswith("optimiser.")}
        try:
            for name, parameter in self.parameters.items():
                with torch.no_grad():
                    parameter.copy_(tensors[f"parameters.{name}"])
                moments = {key: tensors[f"optimiser.{key}.{name}"] for key in moment_names}
                self._adam.state[parameter] = {
                    key: torch.empty_like(parameter).copy_(moment) if moment.dim() else moment
                    for key, moment in moments.items()
                }
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
