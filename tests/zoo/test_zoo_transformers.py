"""Models of transformers come in through the hub; nothing that stands in a repository is run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers
from error_checks import raises
from import_helpers import COMMIT, Hub, serve
from transformers_models import SIDE, transformers_model

from metazoo.errors import ArtefactError, UsageError, ZooError
from metazoo.zoo import Zoo, add_model, verify_zoo

BYTES = torch.randint(0, 256, (2, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
VIT, RESNET, CONVNEXT = (f"{kind}ForImageClassification" for kind in ("ViT", "ResNet", "ConvNext"))


def stored(model: Any, processor: Any, folder: Path) -> dict[str, bytes]:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return {
        name: (folder / name).read_bytes() for name in ("config.json", "preprocessor_config.json", "model.safetensors")
    }


def vit_processor(**changes: Any) -> Any:
    square = {"height": SIDE, "width": SIDE}
    return transformers.ViTImageProcessor(
        size=square, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3], **changes
    )


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub with owner/vit."""
    hub = Hub()
    hub.files["owner/vit"] = stored(transformers_model(VIT), vit_processor(), tmp_path / "saved")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", True)
    with serve(hub) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield hub


@pytest.mark.parametrize(
    ("name", "processor"),
    [
        (VIT, vit_processor()),
        (VIT, vit_processor(rescale_factor=1 / 127.5)),
        (VIT, vit_processor(do_normalize=False)),
        (VIT, vit_processor(do_rescale=False)),
        (RESNET, transformers.ConvNextImageProcessor(size={"shortest_edge": SIDE}, crop_pct=0.875)),
        (
            CONVNEXT,
            transformers.BitImageProcessor(
                size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, do_center_crop=True
            ),
        ),
    ],
)
def test_all_but_the_domain_comes_from_the_repository(hub: Hub, tmp_path: Path, name: str, processor: Any) -> None:
    model = transformers_model(name)
    hub.files["owner/model"] = stored(model, processor, tmp_path / "own")
    contract = add_model(tmp_path / "zoo", "hf:owner/model@main", domain="pets")
    assert contract.class_names == ("cat", "dog", "emu")
    assert contract.spec.architecture == f"transformers:{name}"
    assert contract.spec.input_size == SIDE
    assert contract.provenance is not None
    assert contract.provenance.revision == COMMIT
    assert contract.provenance.library == f"transformers {transformers.__version__}"
    assert contract.provenance.interpolation in ("bilinear", "bicubic")
    teacher = Zoo.open(tmp_path / "zoo").teacher("owner-model")
    # Resizing first changes nothing for images of the right size, except for the cropped margin.
    plain = {"do_resize": False, "do_center_crop": False}
    seen = processor(list(BYTES), return_tensors="pt", **plain)["pixel_values"]
    with torch.no_grad():
        torch.testing.assert_close(teacher.classifier.preprocess(BYTES.float() / 255), seen, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(teacher(BYTES.float() / 255), model(seen).logits, rtol=1e-3, atol=1e-3)
    assert [finding.status for finding in verify_zoo(Zoo.open(tmp_path / "zoo"))] == ["sound"]
    assert all(COMMIT in request for request in hub.requests if "/resolve/" in request)


def test_what_the_repository_does_not_say_is_asked_for(hub: Hub, tmp_path: Path) -> None:
    nameless = transformers_model(VIT, labels=["LABEL_0", "LABEL_1", "LABEL_2"])
    hub.files["owner/vit"] = stored(nameless, vit_processor(), tmp_path / "own")
    del hub.files["owner/vit"]["preprocessor_config.json"]
    with raises(UsageError, subject="hf:owner/vit", problem="missing --classes, --mean, --std, --domain"):
        add_model(tmp_path / "zoo", "hf:owner/vit")
    assert not any("model.safetensors" in request for request in hub.requests)
    said: dict[str, Any] = {"classes": ("x", "y", "z"), "mean": (0.5,), "std": (0.2,), "domain": "letters"}
    assert add_model(tmp_path / "zoo", "hf:owner/vit", **said).spec.input_size == SIDE


def test_a_grey_model(hub: Hub, tmp_path: Path) -> None:
    processor = vit_processor()
    processor.image_mean, processor.image_std = [0.5], [0.25]
    hub.files["owner/grey"] = stored(transformers_model(VIT, num_channels=1), processor, tmp_path / "own")
    spec = add_model(tmp_path / "zoo", "hf:owner/grey", domain="digits").spec
    assert (spec.channels, spec.mean, spec.std) == (1, (0.5,), (0.25,))


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "another class": (
        {"architectures": ["ViTForMaskedImageModeling"]},
        "'ViTForMaskedImageModeling' is not supported",
    ),
    "no class": ({"architectures": None}, "'vit' is not supported"),
    "two classes": ({"architectures": [VIT, RESNET]}, "is not supported"),
    "a class of code": ({"architectures": ["os.system"]}, "'os.system' is not supported"),
    "code": ({"auto_map": {"AutoModelForImageClassification": "evil.Model"}}, r"\(auto_map\)"),
    "several at once": ({"problem_type": "multi_label_classification"}, "multi_label_classification"),
    "many layers": ({"num_hidden_layers": 10**9}, "more than 256"),
    "wide layers": ({"hidden_size": 4096, "intermediate_size": 16384}, "do(es)? not fit"),
    "a word": ({"hidden_size": "64"}, "cannot be built"),
    "a mapping": ({"hidden_act": {"a": 1}}, "hidden_act"),
    "an act": ({"hidden_act": "../../etc"}, "cannot be built"),
    "channels": ({"num_channels": "three"}, "impossible values: channels"),
    "names": ({"id2label": {"0": "\x1b[2J", "1": "b", "2": "c"}}, r"impossible values: classes\.0"),
    "more names": ({"id2label": {str(number): f"class {number}" for number in range(4)}}, "do(es)? not fit"),
    "fewer layers": ({"num_hidden_layers": 1}, "unexpected tensor"),
    "more layers": ({"num_hidden_layers": 3}, "missing tensor"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_configurations_that_are_refused(hub: Hub, tmp_path: Path, case: str) -> None:
    changes, message = CHANGES[case]
    config = json.loads(hub.files["owner/vit"]["config.json"]) | changes
    hub.files["owner/vit"]["config.json"] = json.dumps(config).encode()
    with pytest.raises((UsageError, ArtefactError, ZooError), match=message) as caught:
        add_model(tmp_path / "zoo", "hf:owner/vit", domain="pets")
    assert str(caught.value).isprintable()
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"attn_implementation": "owner/kernel", "_attn_implementation": "owner/kernel"},
        {"use_kernels": True},
        {"x": [{}]},
    ],
)
def test_settings_that_are_no_numbers_of_the_class_are_left_alone(
    hub: Hub, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = json.loads(hub.files["owner/vit"]["config.json"]) | changes
    hub.files["owner/vit"]["config.json"] = json.dumps(config).encode()
    spec = add_model(tmp_path / "zoo", "hf:owner/vit", domain="pets").spec
    assert not spec.arguments.keys() & changes.keys()
    assert not any("kernel" in request for request in hub.requests)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"rescale_offset": True}, "rescale_offset"),
        ({"rescale_factor": 0}, "rescale_factor"),
        ({"auto_map": {"AutoImageProcessor": "evil.Processor"}}, "auto_map"),
        ({"image_mean": "x"}, "missing --mean"),
        ({"image_std": [0, 0, 0]}, "std must be positive"),
        ({"size": {"height": 24, "width": SIDE}}, "missing --input-size"),
        ({"size": [[1], [1]]}, "missing --input-size"),
    ],
)
def test_preprocessing_that_is_refused(hub: Hub, tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    content = json.loads(hub.files["owner/vit"]["preprocessor_config.json"]) | changes
    hub.files["owner/vit"]["preprocessor_config.json"] = json.dumps(content).encode()
    with raises(UsageError, problem=problem):
        add_model(tmp_path / "zoo", "hf:owner/vit", domain="pets")


def test_only_safetensors_are_read(hub: Hub, tmp_path: Path) -> None:
    files = hub.files["owner/vit"]
    files["pytorch_model.bin"] = files.pop("model.safetensors")
    with raises(UsageError, subject="hf:owner/vit", problem="hub"):
        add_model(tmp_path / "zoo", "hf:owner/vit", domain="pets")
    assert not any("pytorch_model" in request for request in hub.requests)
