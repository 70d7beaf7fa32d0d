"""Hostile and unsupported ONNX files give a typed error soon, before anything is written."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from error_checks import raises
from onnx import TensorProto, helper, numpy_helper
from onnx_models import SAID, SIDE, Graph, convolutional, saved, tensorflow_like, transformer

from metazoo.errors import ArtefactError, MetazooError, UsageError
from metazoo.zoo import add_model

_SECONDS = 5
"""Of processor."""


def with_node(operator: str, *more: Any, opset: int = 18, **attributes: Any) -> Any:
    """The convolutional model with one more operator at its entry."""
    model = convolutional("gemm", opset=opset)
    node = helper.make_node(operator, ["images", *more], ["odd"], **attributes)
    model.graph.node[0].input[0] = "odd"
    model.graph.node.insert(0, node)
    return model


def of_domain(domain: str) -> Any:
    model = with_node("Relu")
    model.graph.node[0].domain = domain
    model.opset_import.append(helper.make_opsetid(domain, 1))
    return model


def external(location: str) -> Any:
    model = convolutional("gemm")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return model


def claims(*dims: int) -> Any:
    model = convolutional("gemm")
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(dims)
    return model


def of_type(kind: int) -> Any:
    model = convolutional("gemm")
    model.graph.initializer[0].data_type = kind
    return model


def input_of(kind: Any) -> Any:
    model = convolutional("gemm")
    model.graph.input[0].type.CopyFrom(kind)
    return model


def two(field: str) -> Any:
    model = convolutional("gemm")
    getattr(model.graph, field).append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    return model


def conditional() -> Any:
    inner = helper.make_graph([helper.make_node("Identity", ["images"], ["inner"])], "g", [], [
        helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    ])  # fmt: skip
    return with_node("If", then_branch=inner, else_branch=inner)


def deep(levels: int = 200) -> bytes:
    """File of a node with a graph in it, whose node also has one, and so on; onnx itself cannot write it."""
    node = b""
    for _ in range(levels):
        node = _field(5, _field(6, _field(1, node)))
    return _field(7, _field(1, node))


def _field(number: int, content: bytes) -> bytes:
    length, size = b"", len(content)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def with_function() -> Any:
    model = convolutional("gemm")
    relu = helper.make_node("Relu", ["x"], ["y"])
    function = helper.make_function("own", "Own", ["x"], ["y"], [relu], [helper.make_opsetid("", 18)])
    model.functions.append(function)
    return model


def sparse() -> Any:
    model = convolutional("gemm")
    values = numpy_helper.from_array(numpy_helper.to_array(model.graph.initializer[1]), "s")
    indices = helper.make_tensor("i", TensorProto.INT64, [6], [*range(6)])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [100]))
    return model


def bomb(operator: str) -> Any:
    """A few bytes that ask for terabytes."""
    graph = Graph()
    found = "images"
    if operator == "Tile":
        found = graph.node("Tile", [found, graph.array([1, 1, 2**20, 2**20])])
    elif operator == "Expand":
        found = graph.node("Add", [found, graph.node("Expand", [found, graph.array([2**20, 3, 16, 16])])])
    elif operator == "ConstantOfShape":
        zeros = graph.node("ConstantOfShape", [graph.array([2**20, 2**20])])
        found = graph.node("Add", [found, graph.node("ReduceMean", [zeros])])
    elif operator == "Range":
        count = graph.node("Range", [graph.array(0), graph.array(2**40), graph.array(1)])
        found = graph.node("Add", [found, graph.node("Cast", [graph.node("ReduceMax", [count])], to=1)])
    elif operator == "Resize":
        found = graph.node("Resize", [found, "", "", graph.array([1, 3, 2**20, 2**20])], mode="linear")
    elif operator == "Pad":
        found = graph.node("Pad", [found, graph.array([0, 0, 2**24, 2**24, 0, 0, 2**24, 2**24])])
    elif operator == "Conv":
        weights = [graph.random(3, 3, 1, 1)]
        found = graph.node("Conv", [found, *weights], pads=(2**20, 2**20, 2**20, 2**20))
    elif operator == "MaxPool":
        found = graph.node("MaxPool", [found], kernel_shape=(2**20, 2**20), pads=(2**19,) * 4)
    elif operator == "Concat":
        for _ in range(40):
            found = graph.node("Concat", [found, found], axis=2)
    elif operator == "broadcast":
        row = graph.node("Reshape", [found, graph.array([0, 1, -1])])
        square = graph.node("Add", [row, graph.node("Transpose", [row], perm=(0, 2, 1))])
        found = graph.node("Tile", [square, graph.array([1, 1, 100])])
        found = graph.node("Reshape", [found, graph.array([0, 3, 16, -1])])
        found = graph.node("MatMul", [graph.node("Transpose", [found], perm=(0, 1, 3, 2)), found])
    found = graph.node("GlobalAveragePool", [found])
    found = graph.node("Gemm", [graph.node("Flatten", [found]), graph.random(4, 3), graph.random(4)], transB=1)
    return graph.model(found, ["n", 3, SIDE, SIDE])


def doubled() -> Any:
    """A constant of 64 bits, which no weight can be."""
    model = with_node("Mul", "double")
    one = helper.make_node("Constant", [], ["one"], value_float=1.0)
    model.graph.node.insert(0, helper.make_node("Cast", ["one"], ["double"], to=TensorProto.DOUBLE))
    model.graph.node.insert(0, one)
    return model


def many_indices() -> Any:
    model = with_node("Gather", "indices", axis=3)
    model.graph.initializer.append(helper.make_tensor("indices", TensorProto.INT64, [70_000], [0] * 70_000))
    return model


def many_constants() -> Any:
    """Eight tensors made of a few values, each nearly as large as one may be."""
    graph, found = Graph(), "images"
    for number in range(8):
        tile = graph.node("Tile", [graph.array([[float(number)]], np.float32), graph.array([2**10, 2**14])])
        found = graph.node("Add", [found, graph.node("ReduceMean", [tile], keepdims=0)])
    found = graph.node("GlobalAveragePool", [found])
    found = graph.node("Gemm", [graph.node("Flatten", [found]), graph.random(4, 3), graph.random(4)], transB=1)
    return graph.model(found, ["n", 3, SIDE, SIDE])


def many_nodes() -> Any:
    graph, found = Graph(), "images"
    for _ in range(20_001):
        found = graph.node("Relu", [found])
    return graph.model(found, ["n", 3, SIDE, SIDE])


def quantised() -> Any:
    model = with_node("QuantizeLinear", "scale")
    model.graph.initializer.append(
        numpy_helper.from_array(numpy_helper.to_array(model.graph.initializer[1])[:1], "scale")
    )
    return model


_IMAGES = [2, 3, SIDE, SIDE]
_TEXT = helper.make_tensor_type_proto(TensorProto.STRING, _IMAGES)
_HALF = helper.make_tensor_type_proto(TensorProto.FLOAT16, _IMAGES)
_FLOAT = helper.make_tensor_type_proto(TensorProto.FLOAT, _IMAGES)
# Each model, and a text of the error's problem.
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "external data": (lambda: external("weights.bin"), "tensor0 is in another file (weights.bin)"),
    "external path": (lambda: external("../../../etc/passwd"), "etc/passwd"),
    "custom domain": (lambda: of_domain("com.microsoft"), "com.microsoft.Relu"),
    "function": (with_function, "functions"),
    "condition": (conditional, "If contains a graph"),
    "sparse": (sparse, "sparse"),
    "torch function": (lambda: with_node("Save"), "Save"),
    "torch load": (lambda: with_node("Load"), "Load"),
    "own layer": (lambda: with_node("Linear"), "Linear"),
    "random": (lambda: with_node("RandomNormalLike"), "RandomNormalLike"),
    "quantised": (quantised, "quantised"),
    "huge shape": (lambda: claims(2**40, 2**20), "values for the shape"),
    "negative shape": (lambda: claims(-1, 3, 3, 3), "values for the shape"),
    "float16": (lambda: of_type(TensorProto.FLOAT16), "float16"),
    "int8": (lambda: of_type(TensorProto.INT8), "int8"),
    "text tensor": (lambda: of_type(TensorProto.STRING), "text"),
    "text input": (lambda: input_of(_TEXT), "text"),
    "half input": (lambda: input_of(_HALF), "float16"),
    "sequence": (lambda: input_of(helper.make_sequence_type_proto(_FLOAT)), "not a batch of images"),
    "optional": (lambda: input_of(helper.make_optional_type_proto(_FLOAT)), "not a batch of images"),
    "flat input": (lambda: input_of(helper.make_tensor_type_proto(TensorProto.FLOAT, [1, 3])), "not a batch"),
    "not square": (lambda: input_of(helper.make_tensor_type_proto(TensorProto.FLOAT, [1, 3, 16, 8])), "16 x 8"),
    "five channels": (lambda: input_of(helper.make_tensor_type_proto(TensorProto.FLOAT, [1, 5, 16, 16])), "5 channels"),
    "two inputs": (lambda: two("input"), "2 inputs"),
    "two outputs": (lambda: two("output"), "2 outputs"),
    "old opset": (lambda: convolutional("gemm", opset=6), "opset 6"),
    "undefined value": (lambda: with_node("Add", "nothing"), "nothing"),
    "training": (lambda: with_node("BatchNormalization", *("tensor1",) * 4, training_mode=1), "BatchNormalization"),
    "many nodes": (many_nodes, "20,000"),
    "double": (doubled, "cannot be converted"),
    "many indices": (many_indices, "cannot be converted"),
    "many constants": (many_constants, "out of weights"),
    **{f"{name} bomb": (lambda name=name: bomb(name), "") for name in (
        "Tile", "Expand", "ConstantOfShape", "Range", "Resize", "Pad", "Conv", "MaxPool", "Concat", "broadcast",
    )},
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_by_name(tmp_path: Path, name: str) -> None:
    make, problem = REFUSED[name]
    path = saved(make(), tmp_path / "model.onnx")
    start = time.process_time()
    with pytest.raises(MetazooError) as caught:
        add_model(tmp_path / "zoo", str(path), **SAID)
    assert time.process_time() - start < _SECONDS
    assert "model.onnx" in caught.value.subject
    assert problem in caught.value.problem
    assert caught.value.remedy
    assert len(str(caught.value)) < 1000
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]


def test_a_name_in_a_file_cannot_steer_the_terminal(tmp_path: Path) -> None:
    path = saved(with_node("\x1b[2J"), tmp_path / "model.onnx")
    with pytest.raises(UsageError) as caught:
        add_model(tmp_path / "zoo", str(path), **SAID)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("count", [0, 1, 100, -1, -100])
def test_a_truncated_file_is_refused(tmp_path: Path, count: int) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tensorflow_like().SerializeToString()[:count])
    with pytest.raises(MetazooError) as caught:
        add_model(tmp_path / "zoo", str(path), **SAID)
    assert "model.onnx" in caught.value.subject
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize("content", [b"\x00" * 1000, b"PK\x03\x04" + b"a" * 1000, b"\xff" * 1000, b"{}" * 1000])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with raises(ArtefactError, subject="model.onnx", problem="not an ONNX file"):
        add_model(tmp_path / "zoo", str(path), **SAID)


def test_deep_graphs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(deep())
    with raises(ArtefactError, subject="model.onnx", problem="not an ONNX file"):
        add_model(tmp_path / "zoo", str(tmp_path / "model.onnx"), **SAID)
    assert not (tmp_path / "zoo").exists()


def test_much_structure_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    model = convolutional("gemm")
    model.graph.doc_string = "x" * (33 << 20)
    saved(model, path)
    with raises(UsageError, subject="model.onnx", problem="bytes besides"):
        add_model(tmp_path / "zoo", str(path), **SAID)


def test_changed_bytes_never_escape_as_other_errors(tmp_path: Path) -> None:
    """Every error is of this package, whatever single bits of a file are changed."""
    content = transformer().SerializeToString()
    path = tmp_path / "model.onnx"
    for number in range(30):
        changed = bytearray(content)
        changed[(number * 7919) % len(content)] ^= 1 << number % 8
        path.write_bytes(changed)
        try:
            add_model(tmp_path / f"zoo{number}", str(path), **SAID)
        except MetazooError:
            assert not (tmp_path / f"zoo{number}").exists()


def test_the_models_themselves_are_valid() -> None:
    """Otherwise a test could pass for another reason than its own."""
    for make in (tensorflow_like, transformer, lambda: convolutional("gemm"), lambda: with_node("Relu")):
        onnx.checker.check_model(make(), full_check=True)
