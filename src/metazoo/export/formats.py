"""Formats of exported files: ONNX, run by onnxruntime, and programs of `torch.export`."""

import contextlib
import io
import logging
import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from metazoo.choices import EXPORTED_PRECISIONS
from metazoo.choices import ExportedPrecision as Precision
from metazoo.errors import UsageError
from metazoo.export.agreement import Function
from metazoo.models import import_library

INPUT = "images"
_OPSET = 18
_EXAMPLE = (2, 3, 45, 50)
_CANNOT = "cannot be exported"


class ExportFormat(ABC):
    """Format of exported files, chosen by the suffix.

    Attributes:
        suffix: suffix of its files.
        precisions: precisions that it offers.
        least_side: smallest height and width of the images in pixels.
    """

    suffix: ClassVar[str]
    precisions: ClassVar[tuple[Precision, ...]]
    least_side: ClassVar[int] = 1

    @abstractmethod
    def check(self) -> None:
        """Raise a UsageError if a library is missing."""

    @abstractmethod
    def converted(self, module: nn.Module, outputs: Sequence[str], precision: Precision) -> Any:
        """Convert a module from images [n, 3, h, w], uint8, to a tuple of tensors, with dynamic n, h and w.

        Raises:
            UsageError: the format cannot express the module.
        """

    @abstractmethod
    def data(self, converted: Any, metadata: Mapping[str, str]) -> bytes:
        """Content of a file with `metadata`."""

    @abstractmethod
    def function(self, data: bytes) -> Function:
        """Function of the content of a file, as another program would run it."""


@final
class Onnx(ExportFormat):
    """One ONNX file of opset 18 without external data; int8 and float16 concern weights and convolutions only."""

    suffix = ".onnx"
    precisions = EXPORTED_PRECISIONS

    def check(self) -> None:  # noqa: D102
        for library in ("onnx", "onnxscript", "onnxruntime"):
            import_library("export", library)

    def converted(self, module: nn.Module, outputs: Sequence[str], precision: Precision) -> Any:  # noqa: D102
        example = torch.zeros(_EXAMPLE, dtype=torch.uint8)
        with _quiet(), torch.no_grad():
            try:
                program = torch.onnx.export(
                    module,
                    (example,),
                    dynamo=True,
                    dynamic_shapes=({0: "n", 2: "height", 3: "width"},),
                    external_data=False,
                    opset_version=_OPSET,
                    input_names=[INPUT],
                    output_names=list(outputs),
                    verbose=False,
                )
            except Exception as error:
                raise _refusal("ONNX", error) from error
            assert program is not None
            model = program.model_proto
            _remove_traces(model)
            try:
                return model if precision == "float32" else _REDUCTIONS[precision](model)
            except Exception as error:
                raise _refusal(f"ONNX of precision {precision}", error) from error

    def data(self, converted: Any, metadata: Mapping[str, str]) -> bytes:  # noqa: D102
        converted.producer_name, converted.producer_version = "metazoo", ""
        del converted.metadata_props[:]
        for key, value in metadata.items():
            converted.metadata_props.add(key=f"metazoo.{key}", value=value)
        try:
            return converted.SerializeToString()
        except Exception as error:  # more than 2 GB
            raise _refusal("one ONNX file", error) from error

    def function(self, data: bytes) -> Function:  # noqa: D102
        runtime = import_library("export", "onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
        try:
            session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise _refusal("ONNX that onnxruntime runs", error) from error
        return lambda images: tuple(map(torch.from_numpy, session.run(None, {INPUT: images.numpy()})))


@final
class Program(ExportFormat):
    """Program of `torch.export`, which `torch.export.load` reads. Images need at least 2 x 2 pixels."""

    suffix = ".pt2"
    precisions = ("float32",)
    least_side = 2

    def check(self) -> None:  # noqa: D102
        pass

    def converted(self, module: nn.Module, outputs: Sequence[str], precision: Precision) -> Any:  # noqa: D102
        example = torch.zeros(_EXAMPLE, dtype=torch.uint8)
        shapes = (dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC),)
        with _quiet(), torch.no_grad():
            try:
                program = torch.export.export(module, (example,), dynamic_shapes=shapes)
            except Exception as error:
                raise _refusal("a program of torch.export", error) from error
        for node in program.graph.nodes:
            for key in ("stack_trace", "source_fn_stack", "nn_module_stack", "torch_fn"):
                node.meta.pop(key, None)
        return program

    def data(self, converted: Any, metadata: Mapping[str, str]) -> bytes:  # noqa: D102
        content = io.BytesIO()
        with _quiet():
            torch.export.save(converted, content, extra_files={f"metazoo.{key}": v for key, v in metadata.items()})
        return content.getvalue()

    def function(self, data: bytes) -> Function:  # noqa: D102
        with _quiet():
            module = torch.export.load(io.BytesIO(data)).module()

        def run(images: Tensor) -> tuple[Tensor, ...]:
            with torch.no_grad():
                return module(images)

        return run


FORMATS: tuple[ExportFormat, ...] = (Onnx(), Program())
"""All formats."""


def format_of(path: Path) -> ExportFormat:
    """Format of a file, by its suffix.

    Raises:
        UsageError: no format has this suffix.
    """
    found = next((form for form in FORMATS if form.suffix == path.suffix.lower()), None)
    if found is None:
        suffixes = " or ".join(form.suffix for form in FORMATS)
        raise UsageError(path, f"suffix {path.suffix!r} names no format", f"end the name in {suffixes}")
    return found


def _refusal(name: str, error: Exception) -> UsageError:
    reason = " ".join(str(error).split())[:300]
    return UsageError("classifier", f"{_CANNOT} to {name}: {reason}", "choose another format or network")


def _half(model: Any) -> Any:
    converter = import_library("export", "onnxruntime.transformers.float16")
    # Resizing stays exact, since it decides what the network sees.
    return converter.convert_float_to_float16(model, keep_io_types=True, op_block_list=["Resize"])


def _eight_bits(model: Any) -> Any:
    quantisation = import_library("export", "onnxruntime.quantization")
    onnx = import_library("export", "onnx")
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "model.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, before)
        quantisation.quantize_dynamic(before, after, weight_type=quantisation.QuantType.QUInt8)
        return onnx.load(after)


_REDUCTIONS = {"float16": _half, "int8": _eight_bits}


def _remove_traces(model: Any) -> None:
    """Remove what the exporter notes of the program: names of its functions, and paths of its files."""
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        parts = [graph, *graph.node, *graph.value_info]
        if graph is model.graph:
            parts += [*graph.input, *graph.output, *graph.initializer]
        for part in parts:
            del part.metadata_props[:]
            part.doc_string = ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes and warnings of exporters, which concern their own code."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
