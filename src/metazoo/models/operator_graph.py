"""Graphs of operators: the layers of a network as data, without its weights.

A network of an ONNX file has no builder. Its graph is kept in its specification instead, so that everything that holds
a specification (contracts, units of work, classifier folders) can build the network, and nothing else has to be
stored, hashed or removed with it. Values have numbers: 0 are the images, and every node defines new ones.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor

from metazoo.models.graph_operators import OPERATORS
from metazoo.models.network import Argument

LAYERS = ("Conv", "Linear", "BatchNormalization")
"""Operators with weights that become modules: weight, and bias if present; for batch norm also mean and variance."""
IMAGES, OMITTED = 0, -1
"""Numbers of the images and of an omitted input."""
MOST_NODES = 20_000
_MOST_CONSTANTS, _MOST_NUMBERS = 65_536, 1_000_000
_LARGEST_FLOAT = torch.finfo(torch.float32).max
_TYPES = {"int64": torch.int64, "int32": torch.int32, "bool": torch.bool, "float32": torch.float32}

Value = Annotated[int, Field(ge=0, le=1_000_000)]
Shape = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(max_length=8)]


class GraphNode(BaseModel):
    """One operator with the numbers of its inputs (-1: omitted) and outputs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    operator: str = Field(max_length=40)
    inputs: tuple[Annotated[int, Field(ge=-1, le=1_000_000)], ...] = Field(max_length=1000)
    outputs: tuple[Value, ...] = Field(min_length=1, max_length=1000)
    attributes: dict[Annotated[str, Field(max_length=40)], Argument] = Field(default={}, max_length=40)

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if key != "attributes" or value}


class GraphConstant(BaseModel):
    """Small tensor of a graph that is not a weight, such as a shape or an index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Literal["int64", "int32", "bool", "float32"]
    shape: Shape
    numbers: tuple[bool | int | float, ...] = Field(max_length=_MOST_CONSTANTS)

    @classmethod
    def of(cls, tensor: Tensor) -> "GraphConstant":
        """Constant with the type, shape and values of a tensor; the largest float32 stands for infinity.

        Raises:
            ValidationError: the tensor has another type, more than 65,536 values, or values that are not numbers.
        """
        # JSON has no infinity. As a bound or a mask, the largest number does the same.
        if tensor.is_floating_point():
            tensor = tensor.clamp(-_LARGEST_FLOAT, _LARGEST_FLOAT)
        numbers = tuple(tensor.reshape(-1).tolist())
        return cls.model_validate({"dtype": str(tensor.dtype)[6:], "shape": tuple(tensor.shape), "numbers": numbers})

    def tensor(self) -> Tensor:
        """The constant as a tensor on the CPU."""
        return torch.tensor(self.numbers, dtype=_TYPES[self.dtype], device="cpu").reshape(self.shape)

    @model_validator(mode="after")
    def _check(self) -> "GraphConstant":
        if math.prod(self.shape) != len(self.numbers):
            raise ValueError(f"a constant of shape {list(self.shape)} with {len(self.numbers)} numbers")
        if self.dtype != "float32" and any(not -(2**63) <= number < 2**63 for number in self.numbers):
            raise ValueError("a constant is out of range")
        if not all(abs(number) <= _LARGEST_FLOAT for number in self.numbers):
            raise ValueError("a constant is not a finite number of 32 bits")
        return self


class OperatorGraph(BaseModel):
    """Graph from images [n, channels, side, side] (value 0) to the logits of the last node, without weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    opset: int = Field(ge=7, le=99, description="version of the operators of ONNX")
    nodes: tuple[GraphNode, ...] = Field(min_length=1, max_length=MOST_NODES)
    constants: dict[Value, GraphConstant] = {}
    weights: dict[Value, Shape] = Field(default={}, description="shapes of the weights by their values")

    @property
    def sha256(self) -> str:
        """SHA-256 of the graph in hexadecimal."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def head(self) -> int:
        """Index of the last node, the linear layer or 1x1 convolution that gives the logits."""
        return len(self.nodes) - 1

    @property
    def batch_norm_layers(self) -> int:
        """Number of batch-norm layers."""
        return sum(node.operator == "BatchNormalization" for node in self.nodes)

    def last_uses(self) -> dict[int, int]:
        """Index of the last node that uses each value."""
        return {value: index for index, node in enumerate(self.nodes) for value in node.inputs}

    def free_weights(self) -> Iterator[int]:
        """Values of the weights that do not belong to a layer."""
        in_layers = {value for node in self.nodes if node.operator in LAYERS for value in node.inputs[1:]}
        used = {value for node in self.nodes if node.operator not in LAYERS for value in node.inputs}
        return (value for value in sorted(self.weights) if value in used or value not in in_layers)

    @model_validator(mode="after")
    def _check(self) -> "OperatorGraph":
        if sum(len(constant.numbers) for constant in self.constants.values()) > _MOST_NUMBERS:
            raise ValueError(f"the constants have more than {_MOST_NUMBERS:,} numbers")
        known = {IMAGES, *self.constants, *self.weights}
        if len(known) != 1 + len(self.constants) + len(self.weights):
            raise ValueError("a value has two definitions")
        for index, node in enumerate(self.nodes):
            if node.operator not in OPERATORS and node.operator not in LAYERS:
                raise ValueError(f"node {index} has the unknown operator {node.operator!r}")
            undefined = {*node.inputs} - known - {OMITTED}
            if undefined:
                raise ValueError(f"node {index} uses value {min(undefined)}, which is not defined before it")
            if not known.isdisjoint(node.outputs) or len({*node.outputs}) < len(node.outputs):
                raise ValueError(f"node {index} defines a value again")
            known.update(node.outputs)
            if node.operator in LAYERS:
                self._check_layer(index, node)
        last = self.nodes[self.head]
        if last.operator not in ("Linear", "Conv"):
            raise ValueError("the last node is not a linear layer")
        usual = {"pads": {0}, "strides": {1}, "group": {1}, "dilations": {1}}
        for name, value in {"kernel": self.weights[last.inputs[1]][2:], **last.attributes}.items():
            if not {*value} <= usual.get(name, {1}) if isinstance(value, tuple) else value not in (1, "VALID"):
                raise ValueError("the last node is not a linear layer or a convolution of single pixels")
        return self

    def _check_layer(self, index: int, node: GraphNode) -> None:
        rank, counts = {"Conv": (4, (2, 3)), "Linear": (2, (2, 3)), "BatchNormalization": (1, (5,))}[node.operator]
        shapes = [self.weights.get(value) for value in node.inputs[1:]]
        first = shapes[0] if shapes else None
        if len(node.inputs) not in counts or first is None or len(first) != rank or 0 in first:
            raise ValueError(f"node {index} lacks the weights of {node.operator}")
        if any(shape != first[:1] for shape in shapes[1:]):
            raise ValueError(f"node {index} has weights of different lengths")
