"""Calls of the operators of graphs.

Tensors that describe shapes stay on the CPU wherever the images are: they are read while the network runs, also on the
meta device and while a GPU records its steps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metazoo.models.network import Argument

LARGEST_TENSOR = 1 << 25
"""Largest number of values of one tensor per image: 64 channels of 724 x 724 pixels."""
LARGEST_SHAPE_TENSOR = 1 << 20
DTYPES = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 11: torch.float64}
"""Types by their numbers in ONNX."""


class OperatorError(ValueError):
    """An operator cannot do what its inputs or attributes ask for."""


@dataclass(frozen=True)
class Call:
    """Inputs and attributes of one operator.

    Attributes:
        inputs: input tensors; None for an omitted one.
        attributes: values by name.
        opset: version of the operators of ONNX.
        most: largest number of values of the output. Operators whose output can be larger than their inputs check it
            before they use memory.
    """

    inputs: Sequence[Tensor | None]
    attributes: Mapping[str, Argument]
    opset: int
    most: int = LARGEST_TENSOR

    def __getitem__(self, position: int) -> Tensor:
        """Required input."""
        found = self.find(position)
        if found is None:
            raise OperatorError(f"lacks input {position}")
        return found

    def find(self, position: int) -> Tensor | None:
        """Optional input."""
        return self.inputs[position] if position < len(self.inputs) else None

    def get(self, name: str, default: Any = None) -> Any:
        """Value of an attribute."""
        return self.attributes.get(name, default)

    def numbers(self, name: str, position: int) -> list[int] | None:
        """Integers in an input, or in an attribute as in earlier versions of ONNX; None if both are absent."""
        found: Any = self.find(position)
        if found is None:
            found = self.get(name)
            return None if found is None else [int(n) for n in (found if isinstance(found, tuple) else (found,))]
        return _values(found)

    def pair(self, first: int, second: int) -> tuple[Tensor, Tensor]:
        """Two inputs that are broadcast together; see `together`."""
        return self.together(self[first], self[second])

    def together(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Two tensors on one device, whose common shape is checked."""
        self.check(math.prod(common_shape(first.shape, second.shape)))
        if first.device != second.device:
            device = second.device if first.device.type == "cpu" else first.device
            first, second = (each if each.ndim == 0 else each.to(device) for each in (first, second))
        return first, second

    def check(self, count: float, most: int | None = None) -> None:
        """Raise an OperatorError if an output of `count` values is too large."""
        most = self.most if most is None else most
        if count > most:
            raise OperatorError(f"a tensor of {count:,.0f} values is more than {most:,}")

    def refuse(self, name: str, *allowed: object) -> None:
        """Raise an OperatorError if an attribute has another value than these."""
        if name in self.attributes and self.attributes[name] not in allowed:
            raise OperatorError(f"{name} {str(self.attributes[name])[:40]!r} is not supported")


def common_shape(*shapes: Sequence[int]) -> tuple[int, ...]:
    """Shape of tensors that are broadcast together; torch's own function imports a library of seconds.

    Raises:
        OperatorError: the shapes do not fit together.
    """
    rank = max(map(len, shapes), default=0)
    columns = zip(*((1,) * (rank - len(shape)) + tuple(shape) for shape in shapes), strict=True)
    sizes = [{size for size in column if size != 1} or {1} for column in columns]
    if any(len(size) > 1 for size in sizes):
        raise OperatorError(f"shapes {' and '.join(str([*shape]) for shape in shapes)} do not fit together")
    return tuple(size for (size,) in sizes)


def _values(tensor: Tensor) -> list[int]:
    if tensor.device.type != "cpu" or tensor.numel() > 64 or tensor.is_floating_point():
        raise OperatorError("a shape, an axis or an index is computed from the images")
    return tensor.reshape(-1).tolist()
