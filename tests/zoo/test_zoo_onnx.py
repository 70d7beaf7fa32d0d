"""Models of ONNX files: their outputs are those of ONNX Runtime, for batches of any size."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from error_checks import raises
from import_helpers import library_model
from onnx_models import CLASSES, MODELS, SAID, SIDE, Graph, convolutional, runtime_outputs, saved, tensorflow_like
from pydantic import ValidationError
from torch import nn
from training_helpers import OPTIONS

from metazoo import train
from metazoo.cli.main import main
from metazoo.errors import ArtefactError, UsageError
from metazoo.models import ClassifierSpec, GraphConstant
from metazoo.zoo import WhiteBoxTeacher, Zoo, add_folder, add_model, verify_zoo


def added(model: Any, folder: Path, **fields: Any) -> tuple[WhiteBoxTeacher, Path]:
    path = saved(model, folder / "model.onnx")
    name = add_model(folder / "zoo", str(path), **SAID | fields).name
    return Zoo.open(folder / "zoo").teacher(name), path


def some_images(count: int = 6, side: int = SIDE) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_onnx_runtime(tmp_path: Path, name: str) -> None:
    teacher, path = added(MODELS[name](), tmp_path)
    images = some_images().requires_grad_()
    logits, expected = teacher(images), runtime_outputs(path, images.detach())
    if name.startswith("tensorflow"):
        torch.testing.assert_close(expected.sum(1), torch.ones(6))  # a softmax ends the file, but not the model
        logits = logits.softmax(1)
    torch.testing.assert_close(logits.log_softmax(1) if name == "dynamic" else logits, expected, rtol=0, atol=1e-4)
    logits[:, 0].sum().backward()
    assert images.grad is not None
    assert bool((images.grad.abs().sum((1, 2, 3)) > 0).all())
    assert teacher.features(images).shape == (6, teacher.classifier.network.feature_size)
    assert [finding.status for finding in verify_zoo(Zoo.open(tmp_path / "zoo"))] == ["sound"]


def test_the_contract_holds_the_graph_and_its_hash(tmp_path: Path) -> None:
    teacher, path = added(tensorflow_like(), tmp_path)
    spec = teacher.contract.spec
    assert (spec.architecture, spec.channels, spec.input_size) == ("onnx", 3, SIDE)
    assert spec.graph is not None
    assert spec.arguments == {"graph": spec.graph.sha256}
    assert ClassifierSpec.model_validate_json(spec.model_dump_json()) == spec
    assert {each.name for each in (tmp_path / "zoo" / "models").iterdir()} == {"model.json", "model.safetensors"}
    contract = tmp_path / "zoo" / "models" / "model.json"
    contract.write_text(contract.read_text().replace('"LeakyRelu"', '"Relu"'))
    with raises(ArtefactError, subject="model.json", problem="SHA-256"):
        Zoo.open(tmp_path / "zoo")
    with raises(UsageError, subject="name"):
        add_folder(tmp_path / "other", path.parent, name="x")


def test_batch_norm_is_a_layer_with_running_statistics(tmp_path: Path) -> None:
    teacher, _ = added(convolutional("gemm"), tmp_path)
    (layer,) = [part for part in teacher.modules() if isinstance(part, nn.BatchNorm2d)]
    assert layer.running_mean is not None
    assert float(layer.running_mean.abs().sum()) > 0


def test_removal_leaves_nothing(tmp_path: Path) -> None:
    added(convolutional("gemm"), tmp_path)
    Zoo.open(tmp_path / "zoo").remove("model")
    assert [*(tmp_path / "zoo" / "models").iterdir()] == []


def test_a_free_input_size_is_asked_for(tmp_path: Path) -> None:
    path = saved(convolutional("gemm", side="side"), tmp_path / "model.onnx")
    with raises(UsageError, subject="model.onnx", problem="--input-size"):
        add_model(tmp_path / "zoo", str(path), **SAID)
    name = add_model(tmp_path / "zoo", str(path), input_size=20, **SAID).name
    teacher = Zoo.open(tmp_path / "zoo").teacher(name)
    images = some_images(3, 20)
    torch.testing.assert_close(teacher(images), runtime_outputs(path, images), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"input_size": 20}, "--input-size is 16"),
        ({"channels": 1, "mean": 0.5, "std": 0.5}, "--channels is 3"),
        ({"classes": ("a", "b")}, "has 4 outputs"),
        ({"architecture": "conv4"}, "conv4"),
    ],
)
def test_wrong_values_are_refused(tmp_path: Path, fields: dict[str, Any], problem: str) -> None:
    with raises(UsageError, subject="model.onnx", problem=problem):
        added(convolutional("gemm"), tmp_path, **fields)
    assert not (tmp_path / "zoo").exists()


def test_a_folder_may_hold_onnx_files(tmp_path: Path) -> None:
    saved(convolutional("gemm"), tmp_path / "files" / "first.onnx")
    (tmp_path / "files" / "first.yaml").write_text(
        "classes: [a, b, c, d]\nmean: 0.5\nstd: 0.25\ndomain: letters\n", encoding="utf-8"
    )
    assert [each.status for each in add_folder(tmp_path / "zoo", tmp_path / "files")] == ["added"]
    assert [each.status for each in add_folder(tmp_path / "zoo", tmp_path / "files")] == ["present"]


@pytest.mark.parametrize(("name", "note"), [("gemm", "1 batch-norm layer"), ("transformer", "no batch-norm layer")])
def test_the_command_says_whether_there_is_batch_norm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, note: str
) -> None:
    path = saved(MODELS[name](), tmp_path / "pets.onnx")
    options = ["--classes", ",".join(CLASSES), "--mean", "0.5", "--std", "0.25", "--domain", "pets"]
    assert main(["zoo", "add", str(tmp_path / "zoo"), str(path), *options]) == 0
    said = capsys.readouterr()
    assert note in said.out + said.err
    assert "onnx" in said.out


def test_training_from_onnx_models(tmp_path: Path) -> None:
    """Images are recovered through the graph, with its batch norm or with that of a guide."""
    zoo = tmp_path / "zoo"
    for name in ("tensorflow", "gemm", "transformer one"):
        add_model(zoo, str(saved(MODELS[name](), tmp_path / f"{name}.onnx")), **SAID)
    options = {**OPTIONS, "grouping": {"groups": 1}}
    run = train(zoo, method="tgr", preset="quick", out=tmp_path / "run", config=options, workers=1)
    classifier = run.meta_model.adapt(some_images(4), ["cat", "dog", "cat", "dog"])
    assert set(classifier.predict(some_images(2)).names) <= {"cat", "dog"}


@pytest.mark.slow  # each export takes seconds
@pytest.mark.parametrize(("opset", "count"), [(18, 2), (20, 1), (23, 2)])
@pytest.mark.parametrize(
    "name", ["torchvision:resnet18", "torchvision:mobilenet_v3_small", "timm:vit_tiny_patch16_224"]
)
def test_exports_of_torch(tmp_path: Path, name: str, opset: int, count: int) -> None:
    """Exported for one image (a batch of fixed size) or for any number of them."""
    network = library_model(name, classes=4)
    shapes = ({0: torch.export.Dim("n")},) if count > 1 else None
    path, images = tmp_path / "model.onnx", torch.randn(count, 3, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter
        torch.onnx.export(
            network,
            (images,),
            path,
            dynamo=True,
            opset_version=opset,
            external_data=False,
            verbose=False,
            dynamic_shapes=shapes,
        )
    name = add_model(tmp_path / "zoo", str(path), **SAID).name
    teacher = Zoo.open(tmp_path / "zoo").teacher(name)
    images = some_images(4, 32)
    torch.testing.assert_close(teacher(images), runtime_outputs(path, images), rtol=0, atol=1e-4)
    assert teacher.contract.spec.graph is not None
    assert teacher.contract.spec.graph.batch_norm_layers == 0  # folded


@pytest.mark.slow
def test_batch_norm_kept_by_torch(tmp_path: Path) -> None:
    network, path = library_model("torchvision:mobilenet_v3_small", classes=4), tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.randn(1, 3, 32, 32),), path, dynamo=True, external_data=False, verbose=False, optimize=False
        )
    name = add_model(tmp_path / "zoo", str(path), **SAID).name
    teacher = Zoo.open(tmp_path / "zoo").teacher(name)
    layers = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    found = [part for part in teacher.modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(found) == len(layers)
    for layer, own in zip(layers, found, strict=True):
        torch.testing.assert_close(own.running_var, layer.running_var)
    images = some_images(4, 32)
    torch.testing.assert_close(teacher(images), runtime_outputs(path, images), rtol=0, atol=1e-4)


@pytest.mark.parametrize("bound", [np.inf, -np.inf])
def test_an_infinite_bound_is_kept_as_the_largest_number(tmp_path: Path, bound: float) -> None:
    graph = Graph()
    bounds = [graph.array(bound if bound < 0 else 0, np.float32), graph.array(max(bound, 1), np.float32)]
    found = graph.node("GlobalAveragePool", [graph.node("Clip", ["images", *bounds])])
    found = graph.node("Gemm", [graph.node("Flatten", [found]), graph.random(3, 4)])
    teacher, path = added(graph.model(found, ["n", 3, SIDE, SIDE]), tmp_path)
    images = some_images()
    torch.testing.assert_close(teacher(images), runtime_outputs(path, images), rtol=0, atol=1e-4)


@pytest.mark.parametrize("softmax", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("pooling", ["GlobalAveragePool", "ReduceMean"])
def test_a_mean_of_probabilities_is_not_one_of_logits(tmp_path: Path, softmax: str, pooling: str) -> None:
    graph = Graph()
    found = graph.node("Conv", ["images", graph.random(4, 3, 1, 1)])
    found = graph.node(softmax, [found], axis=1)
    axes = [graph.array([2, 3])] if pooling == "ReduceMean" else []
    found = graph.node("Flatten", [graph.node(pooling, [found, *axes])])
    path = saved(graph.model(found, ["n", 3, SIDE, SIDE]), tmp_path / "model.onnx")
    with raises(UsageError, subject="model.onnx", problem=f"ends in {softmax}"):
        add_model(tmp_path / "zoo", str(path), **SAID)


def test_a_flattening_may_count_its_axis_from_the_end(tmp_path: Path) -> None:
    graph = Graph()
    found = graph.node("Flatten", [graph.node("GlobalAveragePool", ["images"])], axis=-3)
    found = graph.node("Gemm", [found, graph.random(3, 4)])
    teacher, path = added(graph.model(found, ["n", 3, SIDE, SIDE]), tmp_path)
    images = some_images()
    torch.testing.assert_close(teacher(images), runtime_outputs(path, images), rtol=0, atol=1e-4)


def test_the_contract_refuses_what_is_no_finite_number() -> None:
    for number in (float("nan"), float("inf"), 1e39):
        with pytest.raises(ValidationError):
            GraphConstant(dtype="float32", shape=(), numbers=(number,))


def test_a_classifier_of_an_onnx_file_is_added_too(tmp_path: Path) -> None:
    teacher, _ = added(convolutional("gemm"), tmp_path)
    zoo = Zoo.create(tmp_path / "other")
    contract = zoo.add(teacher.classifier, name="again", classes=CLASSES, domain="animals")
    assert contract.spec == teacher.contract.spec
    assert torch.equal(Zoo.open(tmp_path / "other").teacher("again")(some_images()), teacher(some_images()))


@pytest.mark.parametrize("fields", [{"state_dict": "ema"}, {"arguments": {"width": 3}}])
def test_options_of_other_files_are_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    option = f"--{next(iter(fields)).replace('_', '-')}"
    with raises(UsageError, subject="model.onnx", problem=f"{option} does not apply to an ONNX file", remedy="omit"):
        added(convolutional("gemm"), tmp_path, **fields)
    assert not (tmp_path / "zoo").exists()


def test_a_file_of_a_folder_without_description_is_no_damaged_file(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    with raises(UsageError, problem=".onnx"):
        add_folder(tmp_path / "zoo", folder)
    saved(convolutional("gemm"), folder / "m.onnx")
    (found,) = add_folder(tmp_path / "zoo", folder)
    assert "no description file" in found.text
    assert "write m.yaml" in found.text
