"""Reading of ONNX files, as untrusted data: nothing in them names code, and nothing outside the file is read.

The structure of a file is counted before it is parsed, and every tensor is compared with its bytes before it is made.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metazoo.errors import ArtefactError, UsageError, shown
from metazoo.models import import_library
from metazoo.models.operator_graph import MOST_NODES
from metazoo.storage.artefacts import read_bytes

SUFFIX = ".onnx"
_LARGEST_FILE = (2 << 30) - 1
# Bytes outside the values of tensors. Parsing can multiply them by about fifty; exporters write a few kB per node.
_LARGEST_STRUCTURE = 32 << 20
_DOMAINS = ("", "ai.onnx")
_EARLIEST_OPSET = 7
_RAW_DATA, _FLOAT_DATA = 9, 4
_GRAPH, _NODE, _INITIALISER = 7, 1, 5
_QUANTISED = "quantised weights or activations"
_EXPORT_FLOAT = "export the model in float32 before it is quantised or converted"


def read_model(path: Path) -> Any:
    """Read an ONNX file, a `ModelProto` with one graph of float32 that needs nothing else.

    Raises:
        UsageError: the file uses what is not supported, such as external data, subgraphs or functions; or the library
            onnx is not installed.
        ArtefactError: the file is missing, too large or damaged.
    """
    onnx = import_library("onnx", "onnx")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ArtefactError(path, f"cannot be read ({error.strerror})", "give an ONNX file") from error
    if size > _LARGEST_FILE:
        raise ArtefactError(path, f"has {size:,} bytes, more than the {_LARGEST_FILE:,} of any ONNX file", "check it")
    data = read_bytes(path)
    _check_structure(path, data)
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception as error:  # protobuf has an error class of its own for each of its implementations
        raise _damaged(path) from error
    if not model.graph.node:
        raise _damaged(path)
    _check_model(path, model)
    return model


def _damaged(path: Path) -> ArtefactError:
    return ArtefactError(path, "damaged, incomplete or not an ONNX file", "export or download it again")


def _check_structure(path: Path, data: bytes) -> None:
    """Count nodes, tensors and bytes of structure, without parsing."""
    view = memoryview(data)
    loose, counts = len(data), {_NODE: 0, _INITIALISER: 0}
    try:
        for number, start, end in _fields(view, 0, len(view)):
            if number != _GRAPH or start is None:
                continue
            for inner, first, last in _fields(view, start, end):
                if inner in counts:
                    counts[inner] += 1
                    if counts[inner] > MOST_NODES:
                        problem = f"more than {MOST_NODES:,} nodes or tensors"
                        raise UsageError(path, problem, "choose a smaller model")
                if inner == _INITIALISER and first is not None:
                    loose -= sum(
                        until - since
                        for field, since, until in _fields(view, first, last)
                        if field in (_RAW_DATA, _FLOAT_DATA) and since is not None
                    )
    except (IndexError, ValueError) as error:
        raise _damaged(path) from error
    if loose > _LARGEST_STRUCTURE:
        problem = f"{loose:,} bytes besides the values of its tensors, more than {_LARGEST_STRUCTURE:,}"
        raise UsageError(path, problem, "store weights as initialisers with raw_data")


def _fields(view: memoryview, start: int, end: int) -> Iterator[tuple[int, int | None, int]]:
    """Fields of a protobuf message: number, and start and end of a field that has a length (else None and its end)."""
    position = start
    while position < end:
        key, position = _varint(view, position)
        since = None
        if key & 7 == 0:
            _, position = _varint(view, position)
        elif key & 7 == 2:
            length, since = _varint(view, position)
            position = since + length
        elif key & 7 in (1, 5):
            position += 8 if key & 7 == 1 else 4
        else:
            raise ValueError("groups do not occur in ONNX")
        if position > end:
            raise ValueError("a field is longer than its message")
        yield key >> 3, since, position


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = view[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("a number is too long")


def _check_model(path: Path, model: Any) -> None:
    if model.functions or model.training_info:
        what = "functions" if model.functions else "training information"
        raise UsageError(path, f"contains {what}, which are not supported", "export it without them")
    if model.graph.sparse_initializer:
        raise UsageError(path, "contains sparse tensors, which are not supported", "store dense tensors")
    opset = opset_of(model)
    if opset < _EARLIEST_OPSET:
        problem = f"opset {opset} of ONNX is not supported" if opset else "names no version of the operators of ONNX"
        raise UsageError(path, problem, "export it with opset 18")
    for tensor in model.graph.initializer:
        _check_tensor(path, tensor)
    for node in model.graph.node:
        subject = f"{node.domain}.{node.op_type}" if node.domain not in _DOMAINS else node.op_type
        if node.domain not in _DOMAINS:
            remedy = "export it with the operators of ONNX only"
            raise UsageError(path, f"operator {shown(subject)} is not one of ONNX itself", remedy)
        for attribute in node.attribute:
            if attribute.g.node or attribute.graphs or attribute.type in (5, 10):
                problem = f"operator {shown(subject)} contains a graph, which is not supported"
                raise UsageError(path, problem, "export it without conditions and loops")
            if attribute.ref_attr_name or attribute.tensors or attribute.HasField("sparse_tensor"):
                problem = f"attribute {shown(attribute.name)} of {shown(subject)} is not supported"
                raise UsageError(path, problem, "export it again")
            if attribute.HasField("t"):
                _check_tensor(path, attribute.t)


def opset_of(model: Any) -> int:
    """Version of the operators of ONNX that a model uses; 0 if it names none."""
    return max((entry.version for entry in model.opset_import if entry.domain in _DOMAINS), default=0)


_WIDTHS = {1: 4, 6: 4, 7: 8, 9: 1}
"""Bytes of one value of the supported types: float32, int32, int64, bool."""
_NAMES = {2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 8: "text", 10: "float16", 11: "float64", 16: "bfloat16"}


def _check_tensor(path: Path, tensor: Any) -> None:
    name = f"tensor {shown(tensor.name) or 'without a name'}"
    if tensor.data_location == 1 or tensor.external_data:
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        problem = f"{name} is in another file ({shown(location)}), which is not read"
        remedy = 'store one file: onnx.save(onnx.load("model.onnx"), "whole.onnx", save_as_external_data=False)'
        raise UsageError(path, problem, remedy)
    if tensor.data_type not in _WIDTHS:
        kind = _NAMES.get(tensor.data_type, f"of type {tensor.data_type}")
        raise UsageError(path, f"{name} is {kind}, which is not supported", _EXPORT_FLOAT)
    stored = {1: tensor.float_data, 7: tensor.int64_data}.get(tensor.data_type, tensor.int32_data)
    count = len(tensor.raw_data) / _WIDTHS[tensor.data_type] if tensor.HasField("raw_data") else len(stored)
    if len(tensor.dims) > 8 or any(size < 0 for size in tensor.dims) or math.prod(tensor.dims) != count:
        shape = list(tensor.dims)[:8]
        raise ArtefactError(path, f"{name} has {count:,.0f} values for the shape {shape}", "export it again")


def tensor_of(tensor: Any) -> Tensor:
    """Values of a checked tensor of a file."""
    helper = import_library("onnx", "onnx.numpy_helper")
    return torch.tensor(helper.to_array(tensor))


def image_input(path: Path, model: Any) -> tuple[str, list[int | None]]:
    """Name and four sizes of the input of a model; None for a size that is not fixed.

    Raises:
        UsageError: there is not exactly one input, one output, or the input is not a batch of float32 images.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in stored]
    for noun, found in (("inputs", inputs), ("outputs", [*model.graph.output])):
        if len(found) != 1:
            names = ", ".join(shown(each.name) for each in found[:5])
            raise UsageError(path, f"has {len(found)} {noun} ({names}), not one", "export images in, logits out")
    kind = inputs[0].type.tensor_type
    if not inputs[0].type.HasField("tensor_type") or not kind.HasField("shape") or len(kind.shape.dim) != 4:
        problem = f"input {shown(inputs[0].name)} is not a batch of images in four dimensions"
        raise UsageError(path, problem, "export images in, logits out")
    if kind.elem_type != 1:
        name = _NAMES.get(kind.elem_type, f"of type {kind.elem_type}")
        raise UsageError(path, f"input {shown(inputs[0].name)} is {name}, not float32", _EXPORT_FLOAT)
    sizes = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in kind.shape.dim]
    return inputs[0].name, sizes


def unsupported_operator(path: Path, operator: str) -> UsageError:
    """Error for an operator that cannot be run."""
    if "Quantize" in operator or "Integer" in operator or operator.startswith("QLinear"):
        return UsageError(path, f"operator {shown(operator)} belongs to {_QUANTISED}", _EXPORT_FLOAT)
    remedy = "export it without this operator, or add the model in another format"
    return UsageError(path, f"operator {shown(operator)} is not supported", remedy)
