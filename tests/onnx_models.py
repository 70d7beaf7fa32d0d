"""ONNX models built by hand in the forms that exporters write, and what ONNX Runtime makes of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

SIDE, CLASSES = 16, ("ant", "bee", "cat", "dog")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SAID: dict[str, Any] = {"classes": CLASSES, "mean": MEAN, "std": STD, "domain": "animals"}


class Graph:
    """Model under construction; every node is named by its output."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(seed)

    def node(self, operator: str, inputs: Sequence[str], *, name: str = "", **attributes: Any) -> str:
        name = name or f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def array(self, values: Any, dtype: Any = np.int64) -> str:
        name = f"tensor{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype=dtype), name))
        return name

    def random(self, *shape: int) -> str:
        return self.array(self._random.normal(0, 1 / np.sqrt(max(1, np.prod(shape[1:]))), shape), np.float32)

    def positive(self, *shape: int) -> str:
        return self.array(self._random.uniform(0.5, 2, shape), np.float32)

    def model(self, output: str, shape: Sequence[Any], *, opset: int = 18, kind: int = TensorProto.FLOAT) -> Any:
        images = helper.make_tensor_value_info("images", kind, list(shape))
        logits = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["rows", "columns"])
        graph = helper.make_graph(self.nodes, "graph", [images], [logits], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def tensorflow_like(batch: Any = "n") -> Any:
    """Images with channels last, SAME padding of even sizes, matrix product and addition, softmax at the end."""
    graph = Graph()
    images = graph.node("Transpose", ["images"], perm=(0, 3, 1, 2))
    found = graph.node("Conv", [images, graph.random(8, 3, 3, 3)], strides=(2, 2), auto_pad="SAME_UPPER")
    statistics = [graph.positive(8), graph.random(8), graph.random(8), graph.positive(8)]
    found = graph.node("BatchNormalization", [found, *statistics], epsilon=1e-3)
    found = graph.node("Clip", [found, graph.array(0, np.float32), graph.array(6, np.float32)])
    found = graph.node("Conv", [found, graph.random(8, 1, 3, 3), graph.random(8)], group=8, pads=(1, 1, 1, 1))
    found = graph.node("LeakyRelu", [found], alpha=0.2)
    found = graph.node("ReduceMean", [found, graph.array([2, 3])], keepdims=0)
    found = graph.node("MatMul", [found, graph.random(8, 4)])
    found = graph.node("Add", [found, graph.random(4)])
    return graph.model(graph.node("Softmax", [found]), [batch, SIDE, SIDE, 3])


def convolutional(head: str, batch: Any = "n", side: Any = SIDE, opset: int = 18) -> Any:
    """Convolution, batch norm and pooling, and one of several usual heads."""
    graph = Graph(1)
    found = graph.node("Conv", ["images", graph.random(6, 3, 3, 3), graph.random(6)], pads=(1, 1, 1, 1))
    statistics = [graph.positive(6), graph.random(6), graph.random(6), graph.positive(6)]
    found = graph.node("Relu", [graph.node("BatchNormalization", [found, *statistics])])
    found = graph.node("MaxPool", [found], kernel_shape=(2, 2), strides=(2, 2))
    found = graph.node("AveragePool", [found], kernel_shape=(3, 3), strides=(2, 2), pads=(0, 0, 1, 1))
    if head == "gemm":
        found = graph.node("Flatten", [graph.node("GlobalAveragePool", [found])])
        found = graph.node("Gemm", [found, graph.random(6, 4), graph.random(4)], alpha=0.5, beta=2.0)
    elif head == "reshape":
        found = graph.node("Reshape", [found, graph.array([batch if isinstance(batch, int) else -1, 96])])
        found = graph.node("Gemm", [found, graph.random(4, 96), graph.random(4)], transB=1)
    elif head == "convolution":
        found = graph.node("GlobalAveragePool", [graph.node("Conv", [found, graph.random(4, 6, 1, 1)])])
        found = graph.node("Flatten", [found])
    elif head == "dynamic":
        shape = graph.node("Shape", [found])
        first = graph.node("Unsqueeze", [graph.node("Gather", [shape, graph.array(0)], axis=0), graph.array([0])])
        found = graph.node("Reshape", [found, graph.node("Concat", [first, graph.array([-1])], axis=0)])
        found = graph.node("MatMul", [found, graph.random(96, 4)])
        found = graph.node("LogSoftmax", [found], axis=1)
    return graph.model(found, [batch, 3, side, side], opset=opset)


def transformer(batch: Any = "n") -> Any:
    """Patches, a class token, attention of two heads and layer norm, as torch writes them for one image or any."""
    graph = Graph(2)
    patches = graph.node("Conv", ["images", graph.random(8, 3, 4, 4), graph.random(8)], strides=(4, 4))
    one = batch if isinstance(batch, int) else 0
    tokens = graph.node("Transpose", [graph.node("Reshape", [patches, graph.array([one, 8, 16])])], perm=(0, 2, 1))
    token = graph.random(1, 1, 8)
    if not isinstance(batch, int):
        count = graph.node("Slice", [graph.node("Shape", [tokens]), *(graph.array([n]) for n in (0, 1, 0))])
        token = graph.node("Expand", [token, graph.node("Concat", [count, graph.array([1, 8])], axis=0)])
    tokens = graph.node("Add", [graph.node("Concat", [token, tokens], axis=1), graph.random(1, 17, 8)])
    norm = graph.node("LayerNormalization", [tokens, graph.positive(8), graph.random(8)], axis=-1, epsilon=1e-6)
    joint = graph.node("Add", [graph.node("MatMul", [norm, graph.random(8, 24)]), graph.random(24)])
    joint = graph.node(
        "Transpose", [graph.node("Reshape", [joint, graph.array([one, 17, 3, 2, 4])])], perm=(2, 0, 3, 1, 4)
    )
    query, key, value = (
        graph.node("Squeeze", [graph.node("Slice", [joint, graph.array([n]), graph.array([n + 1]), graph.array([0])]),
                               graph.array([0])]) for n in range(3)
    )  # fmt: skip
    scores = graph.node("MatMul", [query, graph.node("Transpose", [key], perm=(0, 1, 3, 2))])
    scores = graph.node("Softmax", [graph.node("Mul", [scores, graph.array(0.5, np.float32)])], axis=-1)
    mixed = graph.node("Transpose", [graph.node("MatMul", [scores, value])], perm=(0, 2, 1, 3))
    mixed = graph.node("MatMul", [graph.node("Reshape", [mixed, graph.array([one, 17, 8])]), graph.random(8, 8)])
    tokens = graph.node("Add", [tokens, mixed])
    halves = graph.node("Div", [tokens, graph.array(1.4142135, np.float32)])
    halves = graph.node("Add", [graph.node("Erf", [halves]), graph.array(1, np.float32)])
    tokens = graph.node("Mul", [tokens, graph.node("Mul", [halves, graph.array(0.5, np.float32)])])
    first = graph.node("Gather", [tokens, graph.array(0)], axis=1)
    found = graph.node("Gemm", [first, graph.random(4, 8), graph.random(4)], transB=1)
    return graph.model(found, [batch, 3, SIDE, SIDE])


MODELS = {
    "tensorflow": tensorflow_like,
    "tensorflow one": lambda: tensorflow_like(1),
    **{head: lambda head=head: convolutional(head) for head in ("gemm", "reshape", "convolution", "dynamic")},
    "reshape one": lambda: convolutional("reshape", 1),
    "reshape two": lambda: convolutional("reshape", 2),
    "old": lambda: convolutional("gemm", opset=12),
    "transformer": transformer,
    "transformer one": lambda: transformer(1),
}


def saved(model: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def runtime_outputs(path: Path, images: Tensor) -> Tensor:
    """Outputs of ONNX Runtime for images [n, 3, h, w] in [0, 1], as many at a time as the file allows."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    normalised = (images - mean) / std
    if taken.shape[3] == 3:
        normalised = normalised.permute(0, 2, 3, 1)
    count = taken.shape[0] if isinstance(taken.shape[0], int) else len(images)
    parts = [np.asarray(session.run(None, {taken.name: part.numpy()})[0]) for part in normalised.split(count)]
    return torch.from_numpy(np.concatenate(parts)).flatten(1)
