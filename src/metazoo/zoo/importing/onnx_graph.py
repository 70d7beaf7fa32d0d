"""Conversion of ONNX models to graphs and weights of metazoo.

Layers become modules, computations on weights alone are done once, whatever follows the last linear layer (such as a
softmax) is left out, and images come in as [n, channels, side, side] in batches of any size.
"""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from metazoo.errors import UsageError, shown
from metazoo.models import GraphConstant, GraphNode, OperatorGraph
from metazoo.models.graph_body import GraphBody, layer_name, weight_name
from metazoo.models.graph_calls import LARGEST_TENSOR, Call, OperatorError
from metazoo.models.graph_operators import OPERATORS
from metazoo.models.operator_graph import IMAGES, LAYERS, OMITTED
from metazoo.storage.validation import first_problem
from metazoo.zoo.importing.onnx_file import image_input, opset_of, tensor_of, unsupported_operator

_TO_CHANNELS_LAST, _TO_CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
# What may follow the last linear layer: it changes neither the order of the logits nor what they are before a softmax.
_AFTER_HEAD = {"Softmax", "LogSoftmax", "Identity", "Dropout", "Flatten", "Reshape", "Squeeze"}
_POOLING = {"GlobalAveragePool", "ReduceMean"}
# The mean of these is not that of the logits.
_NOT_BEFORE_POOLING = {"Softmax", "LogSoftmax"}
_STATISTICS = ("weight", "bias", "running_mean", "running_var")
# Values of weights and of what is made of them, as a multiple of the weights; exporters turn and reshape them.
_COPIES = 5
# Number of images for a trial, hardly the first size of a tensor without images.
_BATCH = 5
_EXPORT_FREE = "export it with a batch of any size (torch: dynamic_shapes; tf2onnx: an input of None images)"


@dataclass(frozen=True)
class OnnxInput:
    """Input of a model.

    Attributes:
        name: name of the input.
        batch: number of images if it is fixed.
        side: side of the images in pixels if it is fixed.
        channels: number of channels if it is fixed.
        channels_last: whether images are [n, side, side, channels].
    """

    name: str
    batch: int | None
    side: int | None
    channels: int | None
    channels_last: bool


def onnx_input(path: Path, model: Any) -> OnnxInput:
    """Find the form of the images of a model.

    Raises:
        UsageError: see `image_input`, or the images are not square or have neither 1 nor 3 channels.
    """
    name, sizes = image_input(path, model)
    turned = [node for node in model.graph.node if node.op_type == "Transpose" and name in node.input]
    swaps = any(tuple(each.ints) == _TO_CHANNELS_FIRST for node in turned for each in node.attribute)
    last = sizes[1] not in (1, 3) and (sizes[3] in (1, 3) or (sizes[3] is None and sizes[1] is None and swaps))
    batch, channels, height, width = [sizes[n] for n in _TO_CHANNELS_FIRST] if last else sizes
    if channels not in (None, 1, 3):
        raise UsageError(path, f"its images have {channels} channels", "choose a model of grey or RGB images")
    if height != width and height is not None and width is not None:
        raise UsageError(path, f"its images of {height} x {width} pixels are not square", "choose another model")
    return OnnxInput(name, batch, height or width, channels, last)


def convert(path: Path, model: Any, channels: int, side: int, classes: int) -> tuple[OperatorGraph, dict[str, Tensor]]:
    """Convert a model of `read_model`.

    Args:
        path: file of the model, for errors.
        model: the model.
        channels: number of channels of the images.
        side: side of the images in pixels.
        classes: number of classes.

    Returns:
        The graph, and the tensors of its `GraphBody` by name.

    Raises:
        UsageError: the model has operators that are not supported, cannot run on such images or on any number of them,
            or does not end in one linear layer for the classes.
    """
    found = onnx_input(path, model)
    conversion = _Conversion(path, model, found)
    for node in model.graph.node:
        conversion.add(node)
    conversion.end_at_head(model.graph.output[0].name, classes)
    return conversion.result(channels, side, found.batch)


class _Conversion:
    def __init__(self, path: Path, model: Any, found: OnnxInput) -> None:
        self._path, self._opset = path, opset_of(model)
        self._values: dict[str, int] = {found.name: IMAGES, "": OMITTED}
        self._nodes: list[GraphNode] = []
        self._makers: dict[int, int] = {}
        self._known: dict[int, Tensor] = {}
        self._count = IMAGES + 1
        self._uses = Counter(name for node in model.graph.node for name in node.input)
        self._uses.update(each.name for each in model.graph.output)
        self._known_values, self._most = 0, math.inf
        for tensor in model.graph.initializer:
            self._know(tensor.name, tensor_of(tensor))
        self._most = _COPIES * self._known_values + LARGEST_TENSOR
        if found.channels_last:
            self._append("Transpose", [IMAGES], [self._new(found.name)], {"perm": _TO_CHANNELS_LAST})
        self._classes, self._is_pooled = 0, False

    def add(self, node: Any) -> None:
        """Convert one node."""
        attributes = self._attributes(node)
        if node.op_type == "Constant":
            return self._add_constant(node)
        if node.op_type == "Linear" or node.op_type not in {*OPERATORS, *LAYERS}:
            raise unsupported_operator(self._path, node.op_type)
        try:
            inputs = [self._values[name] for name in node.input]
        except KeyError as error:
            problem = f"value {shown(error.args[0])} is used but not defined before"
            raise UsageError(self._path, problem, "export it again") from error
        names = [name for name in node.output if name and self._uses[name]]
        if not names:
            return None
        outputs = list(node.output)
        while outputs and not self._uses[outputs[-1]]:
            outputs.pop()
        if node.op_type == "Split":
            attributes["outputs"] = len(node.output)
        if node.op_type == "CastLike" and inputs[0] in self._known and self._known[inputs[0]].is_floating_point():
            inputs = inputs[:1] * 2  # everything with a fraction is float32
        if self._is_computed_once(node.op_type, inputs):
            return self._compute(node.op_type, inputs, outputs, attributes)
        operator, inputs, attributes = self._layer(node, inputs, attributes)
        if operator == "Add" and self._becomes_bias(node, inputs):
            return None
        return self._append(operator, inputs, [self._new(name) for name in outputs], attributes)

    def _new(self, name: str | None = None) -> int:
        number, self._count = self._count, self._count + 1
        if name is not None:
            self._values[name] = number
        return number

    def _know(self, name: str | None, tensor: Tensor) -> int:
        self._known_values += tensor.numel()
        if self._known_values > self._most:
            problem = f"its operators make more than {self._most:,} values out of weights"
            raise UsageError(self._path, problem, "choose a smaller model")
        number = self._new(name)
        self._known[number] = tensor
        return number

    def _append(self, operator: str, inputs: list[int], outputs: list[int], attributes: dict[str, Any]) -> None:
        try:
            node = GraphNode(operator=operator, inputs=inputs, outputs=outputs, attributes=attributes)  # pyright: ignore[reportArgumentType]
        except ValidationError as error:
            problem = f"operator {shown(operator)} cannot be kept: {first_problem(error)}"
            raise UsageError(self._path, problem, "export it again") from error
        self._makers.update(dict.fromkeys(outputs, len(self._nodes)))
        self._nodes.append(node)

    def _attributes(self, node: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for attribute in node.attribute:
            kind = attribute.type
            if kind == 4:
                if node.op_type == "ConstantOfShape":
                    value = tensor_of(attribute.t)
                    found |= {
                        "value": value.reshape(-1)[0].item() if value.numel() else 0,
                        "dtype": attribute.t.data_type,
                    }
            elif kind == 3:
                found[attribute.name] = attribute.s.decode("ascii", "replace")
            elif kind in (1, 2):
                found[attribute.name] = attribute.f if kind == 1 else attribute.i
            elif kind in (6, 7):
                found[attribute.name] = tuple(attribute.floats if kind == 6 else attribute.ints)
        return found

    def _add_constant(self, node: Any) -> None:
        for attribute in node.attribute:
            if attribute.type == 4:
                self._know(node.output[0], tensor_of(attribute.t))
            elif attribute.name in ("value_float", "value_floats"):
                numbers = attribute.f if attribute.type == 1 else list(attribute.floats)
                self._know(node.output[0], torch.tensor(numbers, dtype=torch.float32))
            elif attribute.name in ("value_int", "value_ints"):
                numbers = attribute.i if attribute.type == 2 else list(attribute.ints)
                self._know(node.output[0], torch.tensor(numbers, dtype=torch.int64))
            else:
                raise UsageError(self._path, "contains a constant that is not of numbers", "export it again")

    def _is_computed_once(self, operator: str, inputs: list[int]) -> bool:
        return operator in OPERATORS and all(value == OMITTED or value in self._known for value in inputs)

    def _compute(self, operator: str, inputs: list[int], names: list[str], attributes: dict[str, Any]) -> None:
        given = [None if value == OMITTED else self._known[value] for value in inputs]
        try:
            found = OPERATORS[operator](Call(given, attributes, self._opset))
        except (RuntimeError, ValueError, TypeError, LookupError, ZeroDivisionError, MemoryError) as error:
            raise self._not_run(f"{operator}: {_reason(error)}") from error
        outputs = (found,) if isinstance(found, Tensor) else found
        for name, tensor in zip(names, outputs, strict=False):
            if tensor.numel() > LARGEST_TENSOR:
                problem = f"operator {operator} makes a tensor of {tensor.numel():,} values out of weights"
                raise UsageError(self._path, problem, "choose a smaller model")
            self._know(name, tensor.contiguous())

    def _not_run(self, reason: str) -> UsageError:
        return UsageError(
            self._path, f"cannot be run: {reason}", "check --input-size and --channels, or export it again"
        )

    def _layer(self, node: Any, inputs: list[int], attributes: dict[str, Any]) -> tuple[str, list[int], dict[str, Any]]:
        """The node as a layer with weights, if it is one."""
        known = [self._known.get(value) for value in inputs]
        weight = known[1] if len(known) > 1 else None
        if node.op_type == "Conv":
            if weight is None or weight.ndim != 4 or (len(known) > 2 and inputs[2] != OMITTED and known[2] is None):
                problem = "operator Conv is supported in two dimensions, with weights in the file"
                raise UsageError(self._path, problem, "choose another model")
            attributes.pop("kernel_shape", None)
            if attributes.get("auto_pad") == "NOTSET":
                del attributes["auto_pad"]
            return "Conv", [inputs[0], *(self._own(value) for value in inputs[1:] if value != OMITTED)], attributes
        if node.op_type == "BatchNormalization":
            if attributes.get("training_mode", 0) or attributes.get("spatial", 1) != 1 or None in known[1:5]:
                problem = "operator BatchNormalization is supported with running statistics in the file"
                raise UsageError(self._path, problem, "export the model in evaluation mode")
            kept = {"epsilon": attributes.get("epsilon", 1e-5)}
            return "BatchNormalization", [inputs[0], *(self._own(value) for value in inputs[1:5])], kept
        if node.op_type == "MatMul" and weight is not None and weight.ndim == 2:
            return "Linear", [inputs[0], self._know(None, weight.t().contiguous())], {}
        if node.op_type == "Gemm" and weight is not None and weight.ndim == 2 and not attributes.get("transA", 0):
            matrix = weight if attributes.get("transB", 0) else weight.t()
            layer = [inputs[0], self._know(None, (matrix * attributes.get("alpha", 1.0)).contiguous())]
            if len(inputs) == 2 or inputs[2] == OMITTED:
                return "Linear", layer, {}
            bias = known[2]
            if bias is not None and bias.numel() in (1, len(matrix)):
                own = (bias.reshape(-1) * attributes.get("beta", 1.0)).expand(len(matrix)).contiguous()
                return "Linear", [*layer, self._know(None, own)], {}
        return node.op_type, inputs, attributes

    def _own(self, value: int) -> int:
        """A weight of one layer only, even if several nodes of the file share it."""
        return self._know(None, self._known[value])

    def _becomes_bias(self, node: Any, inputs: list[int]) -> bool:
        """Make an addition the bias of the linear layer before it, if nothing else uses the output of that layer."""
        if len(inputs) != 2:
            return False
        for product, bias, name in ((*inputs, node.input[0]), (*inputs[::-1], node.input[1])):
            tensor, index = self._known.get(bias), self._makers.get(product)
            layer = None if index is None else self._nodes[index]
            if (
                index is None
                or layer is None
                or layer.operator != "Linear"
                or len(layer.inputs) != 2
                or tensor is None
                or self._uses[name] > 1
            ):
                continue
            length = len(self._known[layer.inputs[1]])
            if tensor.numel() != length or tuple(tensor.shape[-1:]) not in ((), (length,)):
                continue
            whole = (*layer.inputs, self._know(None, tensor.reshape(-1).clone()))
            outputs = (self._new(node.output[0]),)
            self._nodes[index] = layer.model_copy(update={"inputs": whole, "outputs": outputs})
            self._makers[outputs[0]] = index
            return True
        return False

    def end_at_head(self, name: str, classes: int) -> None:
        """Leave out what follows the last linear layer, and what no output needs."""
        value = self._values.get(name)
        makers = {made: node for node in self._nodes for made in node.outputs}
        node = makers.get(value) if value is not None else None
        while node is not None and node.operator in _AFTER_HEAD | _POOLING:
            if self._is_pooled and node.operator in _NOT_BEFORE_POOLING:
                break
            self._is_pooled = self._is_pooled or node.operator in _POOLING
            node = makers.get(node.inputs[0])
        weight = None if node is None or node.operator not in ("Linear", "Conv") else self._known[node.inputs[1]]
        if node is None or weight is None or (weight.ndim == 4 and tuple(weight.shape[2:]) != (1, 1)):
            problem = f"ends in {shown(node.operator) if node is not None else 'no operator'}, not in one linear layer"
            raise UsageError(self._path, problem, "export the model without what follows its logits")
        if len(weight) != classes:
            problem = f"has {len(weight)} outputs, but {classes} classes are given"
            raise UsageError(self._path, problem, "give one name for each output with --classes")
        self._classes = classes
        needed, kept = {node.outputs[0]}, []
        for each in reversed(self._nodes):
            if not needed.isdisjoint(each.outputs):
                kept.append(each)
                needed.update(each.inputs)
        self._nodes = kept[::-1]

    def result(self, channels: int, side: int, batch: int | None) -> tuple[OperatorGraph, dict[str, Tensor]]:
        """Graph for batches of any size, and its weights by name."""
        used = {value for node in self._nodes for value in node.inputs}
        in_layers = {value for node in self._nodes if node.operator in LAYERS for value in node.inputs[1:]}
        weights, constants = {}, {}
        for value, tensor in self._known.items():
            if value in in_layers or (value in used and tensor.is_floating_point() and tensor.ndim):
                weights[value] = tensor
            elif value in used:
                constants[value] = tensor
        try:
            graph = OperatorGraph(
                opset=self._opset,
                nodes=tuple(self._nodes),
                constants={value: GraphConstant.of(tensor) for value, tensor in constants.items()},
                weights={value: tuple(tensor.shape) for value, tensor in weights.items()},
            )
            graph = OperatorGraph.model_validate(self._run(graph, channels, side, batch))
        except ValidationError as error:
            problem = f"cannot be converted: {first_problem(error)}"
            raise UsageError(self._path, problem, "export it again") from error
        state = {weight_name(value): weights[value].flatten() for value in graph.free_weights()}
        for index, node in enumerate(graph.nodes):
            if node.operator in LAYERS:
                parts = _STATISTICS if node.operator == "BatchNormalization" else _STATISTICS[:2]
                for part, value in zip(parts, node.inputs[1:], strict=False):
                    state[f"{layer_name(index, node)}.{part}"] = weights[value]
        return graph, state

    def _run(self, graph: OperatorGraph, channels: int, side: int, batch: int | None) -> dict[str, Any]:
        """Run the graph once, to find the dimensions of batch norms and to free batches of a fixed size."""
        nodes, constants = [], dict(graph.constants)
        with torch.inference_mode():
            body = GraphBody(graph).eval()
            values = body.first_values(torch.zeros(_BATCH, channels, side, side))
            for index, node in enumerate(graph.nodes):
                if node.operator == "BatchNormalization":
                    rank = values[node.inputs[0]].ndim
                    node = node.model_copy(update={"attributes": {**node.attributes, "rank": rank}})
                    body.add_module(layer_name(index, node), body.layer(node).eval())
                if batch is not None and node.operator == "Reshape" and node.inputs[1] in graph.constants:
                    freed = _freed(graph.constants[node.inputs[1]], values[node.inputs[0]], node, batch)
                    number = self._new()
                    constants[number], values[number] = freed, freed.tensor()
                    node = node.model_copy(update={"inputs": (node.inputs[0], number)})
                try:
                    body.step(index, node, values, _BATCH)
                except OperatorError as error:
                    reason = str(error.args[0])
                    if batch is not None:
                        problem = f"was exported for batches of {batch}, which cannot be changed ({reason})"
                        raise UsageError(self._path, problem, _EXPORT_FREE) from error
                    raise self._not_run(reason) from error
                nodes.append(node)
            logits = values[graph.nodes[-1].outputs[0]]
        if len(logits) != _BATCH:
            raise UsageError(self._path, "does not give one output for each image", _EXPORT_FREE)
        several = logits.numel() > _BATCH * self._classes
        if several > self._is_pooled or (self._is_pooled and logits.ndim == 2):
            problem = "its last linear layer is not followed by what makes one logit per class"
            raise UsageError(self._path, problem, "export the model without what follows its logits")
        used = {value for node in nodes for value in node.inputs}
        kept = {value: constant for value, constant in constants.items() if value in used}
        return {**dict(graph), "nodes": tuple(nodes), "constants": kept}


def _freed(constant: GraphConstant, images: Tensor, node: GraphNode, batch: int) -> GraphConstant:
    """Shape of a reshaping for any number of images in the first dimension, if `constant` has `batch` of them there."""
    shape = [int(number) for number in constant.numbers]
    if not images.shape or images.shape[0] % _BATCH or shape.count(-1) > 1 or not shape:
        return constant
    if not node.attributes.get("allowzero", 0):
        sizes = [images.shape[0] // _BATCH * batch, *images.shape[1:]]
        shape = [sizes[n] if size == 0 and n < len(sizes) else size for n, size in enumerate(shape)]
    values = images.numel() // _BATCH * batch
    fixed = math.prod(size for size in shape if size != -1)
    if -1 in shape and fixed and values % fixed == 0:
        shape[shape.index(-1)] = values // fixed
    rest = math.prod(shape[1:])
    if math.prod(shape) != values or rest == 0 or shape[0] % batch:
        return constant
    return GraphConstant.of(torch.tensor([-1, *shape[1:]], dtype=torch.int64, device="cpu"))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
