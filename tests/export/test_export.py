import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from error_checks import raises
from PIL import Image
from plugins.plugin_helpers import without_plugins
from torch import Tensor, nn

import metazoo
from metazoo.adapt import FewShotClassifier, adapt
from metazoo.errors import DataError, MetazooError, UsageError
from metazoo.export import export_classifier
from metazoo.features.batch_norm import store_statistics
from metazoo.features.domain_router import DomainRecogniser
from metazoo.features.embedders import JointFeatures, MultiDomainClassifier
from metazoo.models import ClassifierSpec, ImageClassifier, Network, build_classifier

NAMES = ("ant", "bee", "cat")
LABELS = [2, 0, 1, 1, 0, 2, 1]
PATHS = re.compile(rb"few_shot|site-packages|" + re.escape(str(Path.cwd()).encode()))
SIDES = ((1, 1), (2, 9), (9, 2), (16, 16), (17, 33), (301, 200))


def pictures(*sizes: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, sizes, dtype=torch.uint8, generator=random)


def network(architecture: str = "conv4", seed: int = 0, *, channels: int = 3, size: int = 16) -> ImageClassifier:
    arguments = {"width": 4} if architecture == "conv4" else {}
    mean, std = (0.4,) * channels, (0.3,) * channels
    spec = ClassifierSpec.model_validate(
        {"architecture": architecture, "arguments": arguments, "classes": 3, "input_size": size}
        | {"channels": channels, "mean": mean, "std": std}
    )
    made = build_classifier(spec, torch.Generator().manual_seed(seed)).eval()
    store_statistics(made, torch.rand(16, 3, size, size, generator=torch.Generator().manual_seed(seed)))
    return made.requires_grad_(False)


def classifier(module: Any = None, **more: Any) -> FewShotClassifier:
    return adapt(module or network(), pictures(7, 3, 20, 24), LABELS, NAMES, **more)


def run_onnx(path: Path, images: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": images.numpy()})[0])


def run_program(path: Path, images: Tensor) -> np.ndarray:
    with torch.no_grad():
        return torch.export.load(path).module()(images)[0].numpy()


def assert_agrees(
    made: FewShotClassifier, run: Callable[[Path, Tensor], np.ndarray], path: Path, least_side: int = 1
) -> None:
    for number, (height, width) in enumerate(SIDES):
        if min(height, width) >= least_side:
            images = pictures(number % 3 + 1, 3, height, width, seed=number)
            expected = made.predict(images).probabilities.numpy()
            np.testing.assert_allclose(run(path, images), expected, atol=2e-6)


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> tuple[FewShotClassifier, Path, metazoo.export.Agreement]:
    """Mirrored classifier on the networks of two domains, its ONNX file, and their agreement."""
    own = network(), network(seed=1)
    weight = torch.zeros(2 * own[0].network.feature_size + 1, 2)
    made = classifier(MultiDomainClassifier(own, DomainRecogniser(("birds", "ships"), weight)).eval(), mirrored=True)
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    return made, path, export_classifier(made, path)


def test_onnx_agrees(mirrored: tuple[FewShotClassifier, Path, metazoo.export.Agreement]) -> None:
    made, path, agreement = mirrored
    assert_agrees(made, run_onnx, path)
    assert (agreement.generated, agreement.given, agreement.differing) == (24, 0, 0)
    assert agreement.largest_difference < 1e-5


def test_onnx_is_one_file_that_describes_itself(
    mirrored: tuple[FewShotClassifier, Path, metazoo.export.Agreement],
) -> None:
    made, path, agreement = mirrored
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert not PATHS.search(path.read_bytes())
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    (given,), (output, is_unknown) = model.graph.input, model.graph.output
    assert (given.name, given.type.tensor_type.elem_type) == ("images", onnx.TensorProto.UINT8)
    sizes = [size.dim_param or size.dim_value for size in given.type.tensor_type.shape.dim]
    assert sizes == ["n", 3, "height", "width"]
    assert (output.name, output.type.tensor_type.shape.dim[1].dim_value) == ("probabilities", 3)
    assert (is_unknown.name, is_unknown.type.tensor_type.elem_type) == ("is_unknown", onnx.TensorProto.BOOL)
    values = {entry.key.removeprefix("metazoo."): entry.value for entry in model.metadata_props}
    assert json.loads(values["classes"]) == list(NAMES)
    assert json.loads(values["description"])["class_names"] == list(NAMES)
    assert json.loads(values["agreement"]) == agreement.record()
    assert made.description.mirrored


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_unknown_images_are_those_of_the_classifier(tmp_path: Path, suffix: str) -> None:
    made, path = classifier(false_rejection=0.3), tmp_path / f"model{suffix}"
    export_classifier(made, path)
    images = torch.cat([pictures(20, 3, 16, 16, seed=5), pictures(7, 3, 20, 24)[:, :, :16, :16]])
    expected = made.predict(images).unknown
    assert 0 < int(expected.sum()) < len(images)
    if suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found = session.run(["is_unknown"], {"images": images.numpy()})[0]
    else:
        found = torch.export.load(path).module()(images)[1].numpy()
    assert np.asarray(found).tolist() == expected.tolist()


def test_a_classifier_that_knows_no_threshold_exports_known_images(tmp_path: Path) -> None:
    made = adapt(network(), pictures(2, 3, 16, 16), [0, 1], ("ant", "bee"))
    assert made.description.threshold is None
    export_classifier(made, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert not np.asarray(session.run(["is_unknown"], {"images": pictures(4, 3, 9, 9).numpy()})[0]).any()


def test_a_program_of_torch_export_agrees(tmp_path: Path) -> None:
    made, path = classifier(head="nearest-mean", batch_norm="support"), tmp_path / "model.pt2"
    assert export_classifier(made, path).largest_difference < 1e-6
    assert_agrees(made, run_program, path, least_side=2)
    texts = {"metazoo.classes": ""}
    torch.export.load(path, extra_files=texts)
    assert json.loads(texts["metazoo.classes"]) == list(NAMES)
    assert not PATHS.search(path.read_bytes())


def test_features_have_length_one_and_order_images_as_the_head_does(tmp_path: Path) -> None:
    made, path = classifier(network(channels=1), head="nearest-mean"), tmp_path / "features.onnx"
    export_classifier(made, path, outputs="features")
    images = pictures(5, 3, 30, 20, seed=3)
    features = run_onnx(path, images)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
    support, labels = pictures(7, 3, 20, 24), torch.tensor(LABELS)
    means = np.stack([run_onnx(path, support[labels == number]).mean(0) for number in range(3)])
    cosines = features @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    scores = np.exp(10 * cosines / made.description.temperature)
    expected = made.predict(images).probabilities.numpy()
    np.testing.assert_allclose(scores / scores.sum(1, keepdims=True), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "share", "bound"), [("float16", 0.6, 1e-2), ("int8", 0.45, 0.1)])
def test_less_precise_files_are_smaller_and_close(
    precision: metazoo.export.Precision, share: float, bound: float, tmp_path: Path
) -> None:
    made = classifier(build_wide())
    sizes = {}
    for own in ("float32", precision):
        found = export_classifier(made, tmp_path / f"{own}.onnx", precision=own)
        sizes[own] = (tmp_path / f"{own}.onnx").stat().st_size
        assert found.largest_difference < (1e-5 if own == "float32" else bound)
    assert sizes[precision] < share * sizes["float32"]
    assert run_onnx(tmp_path / f"{precision}.onnx", pictures(1, 3, 20, 20)).dtype == np.float32


def build_wide() -> ImageClassifier:
    spec = ClassifierSpec(
        architecture="conv4", arguments={"width": 64}, classes=3, input_size=16, mean=(0.4,) * 3, std=(0.3,) * 3
    )
    return build_classifier(spec, torch.Generator().manual_seed(0)).eval().requires_grad_(False)


class DisagreeingNetwork(Network):
    """Network whose exported graph differs from what it does otherwise."""

    def __init__(self, *, classes: int, channels: int, input_size: int) -> None:
        super().__init__()
        self.feature_size = channels
        self.head = nn.Linear(channels, classes)

    def features(self, images: Tensor) -> Tensor:
        means = images.mean((2, 3))
        return means.flip(1) if torch.compiler.is_exporting() else means


def test_a_file_that_would_disagree_is_not_written(tmp_path: Path) -> None:
    with without_plugins():
        metazoo.register_architecture("honest-only-in-python", DisagreeingNetwork)
        made = classifier(network("honest-only-in-python"))
        with raises(MetazooError, subject=str(tmp_path / "model.pt2"), problem="would disagree"):
            export_classifier(made, tmp_path / "model.pt2")
    assert not [*tmp_path.iterdir()]


def test_the_images_of_a_user_are_compared_too(tmp_path: Path) -> None:
    file, bad = tmp_path / "photo.png", tmp_path / "broken.png"
    Image.fromarray(pictures(40, 30, 3).numpy()).save(file)
    bad.write_bytes(b"no image")
    made = classifier(JointFeatures([network(), network(seed=2)]).eval())
    out = tmp_path / "model.pt2"
    with raises(DataError, subject=str(bad)):
        export_classifier(made, out, check=[file, bad])
    assert not out.exists()
    found = export_classifier(made, out, check=[file])
    assert (found.given, found.is_exact) == (1, True)


def test_the_example_of_the_page_predicts_as_the_classifier_does(
    mirrored: tuple[FewShotClassifier, Path, metazoo.export.Agreement], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.+?)```", page, re.DOTALL)
    made, path, _ = mirrored
    shutil.copy(path, tmp_path / "model.onnx")
    mark = Image.Exif()
    mark[0x0112] = 6
    pixels = pictures(40, 30, 4).numpy()
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", format="PNG", exif=mark)
    monkeypatch.chdir(tmp_path)
    values: dict[str, Any] = {}
    exec(example, values)
    expected = made.predict([tmp_path / "photo.jpg"])
    np.testing.assert_allclose(values["probabilities"], expected.probabilities.numpy(), atol=1e-5)


def test_where_the_classifier_came_from_stays_private(tmp_path: Path) -> None:
    made = classifier(source="/home/alice/runs/secret")
    export_classifier(made, tmp_path / "model.pt2")
    assert b"alice" not in (tmp_path / "model.pt2").read_bytes()


def test_odd_class_names_are_kept(tmp_path: Path) -> None:
    names = ("\udce9x", 'say "é"', "a\nb")
    made = adapt(network(), pictures(7, 3, 20, 24), LABELS, names)
    export_classifier(made, tmp_path / "model.pt2")
    texts = {"metazoo.classes": "", "metazoo.description": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=texts)
    assert json.loads(texts["metazoo.classes"]) == [*names]
    assert json.loads(texts["metazoo.description"])["class_names"] == [*names]


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with raises(UsageError, subject="onnxscript", problem="not installed", remedy="metazoo[export]"):
        export_classifier(classifier(), tmp_path / "model.onnx")


def test_targets_that_cannot_be_written_are_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").mkdir()
    with raises(UsageError, subject="model.pt2", problem="is a folder"):
        export_classifier(classifier(), tmp_path / "model.pt2", overwrite=True)
    (tmp_path / "file").write_text("")
    with raises(UsageError, subject="model.onnx", problem="not a writable folder"):
        export_classifier(classifier(), tmp_path / "file" / "model.onnx")


@pytest.mark.parametrize("more", [{"head": "soft-k-means-free"}, {"batch_norm": "query"}])
def test_transductive_classifiers_are_refused(more: dict[str, str], tmp_path: Path) -> None:
    with raises(UsageError, subject="classifier", problem="all images together", remedy="adapt again"):
        export_classifier(classifier(**more), tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("name", "more", "subject"),
    [
        ("model.tflite", {}, "model.tflite"),
        ("model.pt2", {"precision": "int8"}, "precision"),
        ("model.onnx", {"precision": "int4"}, "precision"),
        ("model.onnx", {"outputs": "logits"}, "outputs"),
        ("there.onnx", {}, "there.onnx"),
    ],
)
def test_wrong_use_is_refused_before_any_work(name: str, more: dict[str, Any], subject: str, tmp_path: Path) -> None:
    (tmp_path / "there.onnx").write_text("mine")
    with pytest.raises(UsageError) as caught:
        export_classifier(classifier(), tmp_path / name, **more)
    assert caught.value.subject.endswith(subject)
    assert (tmp_path / "there.onnx").read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == ["there.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "size"),
    [("resnet18", 32), ("cifar-resnet20", 32), ("thin-resnet", 32), ("timm:vit_tiny_patch16_224", 224)],
)
def test_other_architectures_agree(architecture: str, size: int, tmp_path: Path) -> None:
    made = classifier(network(architecture, size=size))
    found = export_classifier(made, tmp_path / "model.onnx")
    assert found.is_exact
    assert_agrees(made, run_onnx, tmp_path / "model.onnx")
