"""Networks that are built from graphs of operators."""

import math
from typing import final

import torch
from torch import Tensor, nn

from metazoo.models.graph_calls import LARGEST_SHAPE_TENSOR, LARGEST_TENSOR, Call, OperatorError
from metazoo.models.graph_operators import OPERATORS, explicit_pads, padded
from metazoo.models.operator_graph import IMAGES, LAYERS, OMITTED, GraphNode, OperatorGraph

_BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


@final
class GraphBody(nn.Module):
    """Module that runs a graph. Convolutions, linear layers and batch norms are modules of torch.

    Layers have new weights from torch's global generator. Other weights are zero, and flat: conversion to torch's
    channels-last format fails for some ranks.
    """

    def __init__(self, graph: OperatorGraph) -> None:
        super().__init__()
        self.graph = graph
        self._last = graph.last_uses()
        self._constants = {value: constant.tensor() for value, constant in graph.constants.items()}
        for index, node in enumerate(graph.nodes):
            if node.operator in LAYERS:
                self.add_module(layer_name(index, node), self.layer(node))
        for value in graph.free_weights():
            self.register_parameter(weight_name(value), nn.Parameter(torch.zeros(math.prod(graph.weights[value]))))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, classes] of `images` [n, channels, side, side].

        Raises:
            OperatorError: an operator does not fit its inputs, or a tensor is too large.
        """
        values = self.first_values(images)
        for index, node in enumerate(self.graph.nodes):
            self.step(index, node, values, len(images))
        return values[self.graph.nodes[-1].outputs[0]]

    def first_values(self, images: Tensor) -> dict[int, Tensor]:
        """Values that are known before the first node runs, by their numbers."""
        shapes = self.graph.weights
        weights = {
            value: self.get_parameter(weight_name(value)).view(shapes[value]) for value in self.graph.free_weights()
        }
        return {IMAGES: images, **self._constants, **weights}

    def step(self, index: int, node: GraphNode, values: dict[int, Tensor], batch: int) -> None:
        """Run `node` at `index` for `batch` images: add its outputs to `values`, and remove what is no longer needed.

        Raises:
            OperatorError: see `forward`.
        """
        inputs = [None if value == OMITTED else values.get(value) for value in node.inputs]
        call = Call(inputs, node.attributes, self.graph.opset, LARGEST_TENSOR * max(1, batch))
        try:
            if node.operator in LAYERS:
                found = _run(self.get_submodule(layer_name(index, node)), call)
            else:
                found = OPERATORS[node.operator](call)
            outputs = (found,) if isinstance(found, Tensor) else found
            for output in outputs:
                describes_shapes = output.device.type == "cpu" and not output.is_floating_point()
                call.check(output.numel(), LARGEST_SHAPE_TENSOR if describes_shapes else None)
        except (RuntimeError, ValueError, TypeError, LookupError, ZeroDivisionError) as error:
            reason = " ".join(str(error).split())[:160]
            raise OperatorError(f"{node.operator} (node {index}): {reason}") from error
        values.update(zip(node.outputs, outputs, strict=False))
        for value in {*node.inputs, *node.outputs[1:]}:
            if self._last.get(value, -1) <= index:
                values.pop(value, None)

    def layer(self, node: GraphNode) -> nn.Module:
        """New layer for a node of `LAYERS`."""
        return _layer(node, self.graph)


def _run(layer: nn.Module, call: Call) -> Tensor:
    images = call[0]
    if isinstance(layer, nn.Conv2d):
        pads = explicit_pads(images.shape[2:], layer.kernel_size, call)
        if layer.padding == (0, 0):
            images = padded(call, images, pads)
        width, step = layer.kernel_size, layer.stride
        sizes = [
            (size + sum(pads[n::2]) - layer.dilation[n] * (width[n] - 1) - 1) // step[n] + 1  # pyright: ignore[reportArgumentType]
            for n, size in enumerate(call[0].shape[2:])
        ]
        call.check(len(images) * layer.out_channels * math.prod(sizes))
    elif isinstance(layer, nn.Linear):
        call.check(images.numel() / layer.in_features * layer.out_features)
    return layer(images)


def layer_name(index: int, node: GraphNode) -> str:
    """Name of the module of the layer at `index` of a graph."""
    return f"{node.operator.lower()}{index}"


def weight_name(value: int) -> str:
    """Name of the parameter of a weight that does not belong to a layer."""
    return f"weight{value}"


def _layer(node: GraphNode, graph: OperatorGraph) -> nn.Module:
    call, shape = Call((), node.attributes, graph.opset), graph.weights[node.inputs[1]]
    if node.operator == "Linear":
        return nn.Linear(shape[1], shape[0], bias=len(node.inputs) > 2)
    if node.operator == "BatchNormalization":
        return _BATCH_NORMS[call.get("rank", 4)](shape[0], eps=call.get("epsilon", 1e-5))
    pads, groups = tuple(call.get("pads", (0, 0, 0, 0))), call.get("group", 1)
    return nn.Conv2d(
        shape[1] * groups,
        shape[0],
        shape[2:],  # pyright: ignore[reportArgumentType]
        stride=call.get("strides", (1, 1)),
        # Unequal padding is done before the layer.
        padding=pads[:2] if pads[:2] == pads[2:] and "auto_pad" not in node.attributes else (0, 0),
        dilation=call.get("dilations", (1, 1)),
        groups=groups,
        bias=len(node.inputs) > 2,
    )
