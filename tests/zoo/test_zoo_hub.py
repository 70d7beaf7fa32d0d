import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import torchvision
from error_checks import raises
from import_helpers import COMMIT, MEAN, SIDE, STD, Hub, library_model, outputs, serve, timm_config

from metazoo.errors import ArtefactError, MetazooError, UsageError
from metazoo.zoo import Zoo, add_model
from metazoo.zoo.importing.download import download

IMAGES = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that HF_ENDPOINT names, with one sound repository, owner/vit."""
    hub = Hub()
    hub.add("owner/vit", timm_config("test_vit", global_pool="token"), library_model("timm:test_vit"), tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", True)
    with serve(hub) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield hub


@pytest.mark.parametrize("revision", ["", "@main", "@v1", f"@{COMMIT}"])
def test_all_but_the_domain_comes_from_the_hub(hub: Hub, tmp_path: Path, revision: str) -> None:
    contract = add_model(tmp_path / "zoo", f"hf:owner/vit{revision}", domain="pets")
    assert contract.name == "owner-vit"
    assert contract.class_names == ("cat", "dog", "emu")
    spec = contract.spec
    assert (spec.architecture, spec.input_size, spec.mean, spec.std) == ("timm:test_vit", SIDE, MEAN, STD)
    provenance = contract.provenance
    assert provenance is not None
    assert (provenance.source, provenance.revision, provenance.licence) == ("hf:owner/vit", COMMIT, "mit")
    assert (provenance.resize, provenance.crop, provenance.interpolation) == (40, 0.8, "bicubic")
    assert provenance.source_sha256 == hashlib.sha256(hub.files["owner/vit"]["model.safetensors"]).hexdigest()
    with torch.no_grad():
        teacher = Zoo.open(tmp_path / "zoo").teacher("owner-vit")
        torch.testing.assert_close(teacher(IMAGES), outputs(library_model("timm:test_vit"), IMAGES))
    assert all(COMMIT in request for request in hub.requests if "/resolve/" in request)


def test_what_the_user_says_goes_first_and_the_licence_may_be_a_tag(hub: Hub, tmp_path: Path) -> None:
    config = timm_config("test_vit", global_pool="token")
    del config["pretrained_cfg"]["license"], config["label_names"]
    hub.files["owner/vit"]["config.json"] = json.dumps(config).encode()
    with raises(UsageError, subject="hf:owner/vit", problem="missing --classes, --domain"):
        add_model(tmp_path / "zoo", "hf:owner/vit")
    assert not any("model.safetensors" in request for request in hub.requests)
    said: dict[str, Any] = {"classes": ("x", "y", "z"), "mean": (0.1, 0.2, 0.3), "domain": "letters"}
    contract = add_model(tmp_path / "zoo", "hf:owner/vit", name="mine", **said)
    assert (contract.name, contract.spec.mean, contract.class_names) == ("mine", (0.1, 0.2, 0.3), ("x", "y", "z"))
    assert contract.provenance is not None
    assert contract.provenance.licence == "apache-2.0"


CONFIGS = {
    "transformers": ({"model_type": "vit", "id2label": {}}, "'vit'"),
    "other": ({"layers": 3}, "config.json"),
    "list": ([1], "mapping"),
    "code": (timm_config("test_vit.__class__"), "'test_vit.__class__'"),
    "import": (timm_config("os:system"), "'os:system'"),
    "unknown": (timm_config("os_system"), "'os_system'"),
    "changed": (timm_config("test_vit", model_args={"depth": 1000}), "model_args"),
    "pooling": (timm_config("test_vit", global_pool="max"), "global_pool max"),
    "another": (timm_config("test_efficientnet"), "timm:test_efficientnet"),
    "mean": (timm_config("test_vit", pretrained_cfg={"mean": "os.system"}), "impossible values: mean"),
    "names": (timm_config("test_vit", label_names=["\x1b[2J", "b", "c"]), "impossible values: classes.0"),
    "more": (timm_config("test_vit", label_names=[f"class {number}" for number in range(4)]), "4 classes"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configurations_that_are_refused(hub: Hub, tmp_path: Path, case: str) -> None:
    config, problem = CONFIGS[case]
    hub.files["owner/vit"]["config.json"] = json.dumps(config).encode()
    with raises(MetazooError, problem=problem):
        add_model(tmp_path / "zoo", "hf:owner/vit", domain="pets", input_size=SIDE, std=(1,))
    assert not (tmp_path / "zoo").exists()


def test_a_damaged_configuration_is_named(hub: Hub, tmp_path: Path) -> None:
    hub.files["owner/vit"]["config.json"] = b"{"
    with pytest.raises(ArtefactError, match="is not valid JSON"):
        add_model(tmp_path / "zoo", "hf:owner/vit", domain="pets")


def test_what_the_hub_does_not_have_is_named(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del hub.files["owner/vit"]["model.safetensors"]
    for source in ("hf:owner/none", "hf:owner/vit@none", "hf:owner/vit"):
        with raises(UsageError, subject=source.partition("@")[0], problem="hub"):
            add_model(tmp_path / "zoo", source, domain="pets")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with raises(UsageError, subject="hf:owner/vit", problem="hub"):
        add_model(tmp_path / "zoo", "hf:owner/vit", domain="pets")


def test_what_is_too_large_is_not_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.claimed_size = 1 << 50
    with raises(UsageError, subject="config.json of hf:owner/vit", problem=f"{1 << 50} bytes"):
        add_model(tmp_path / "zoo", "hf:owner/vit", domain="pets")
    assert not any(request.startswith("GET") and "/resolve/" in request for request in hub.requests)


def test_published_weights_of_timm_come_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    hub.add("timm/test_vit.r160_in1k", timm_config("test_vit"), library_model("timm:test_vit", classes=3), tmp_path)
    with raises(UsageError, subject="timm:test_vit", problem="missing --classes, --domain"):
        add_model(tmp_path / "zoo", "timm:test_vit", pretrained=True)
    said: dict[str, Any] = {"classes": ("a", "b", "c"), "domain": "photographs", "input_size": 32}
    contract = add_model(tmp_path / "zoo", "timm:test_vit", pretrained=True, **said)
    assert contract.provenance is not None
    assert contract.provenance.source == "timm:test_vit.r160_in1k"
    assert contract.provenance.revision == COMMIT
    assert contract.spec.mean == (0.5, 0.5, 0.5)


def test_published_weights_of_torchvision_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, name_of_model = tmp_path / "weights.pth", "torchvision:mobilenet_v3_small"
    torch.save(library_model(name_of_model, classes=1000).state_dict(), path)
    hub = Hub()
    hub.files["site/models"] = {"x": b""}
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    weights = torchvision.models.MobileNet_V3_Small_Weights.IMAGENET1K_V1
    with serve(hub) as address:
        for start, data in ((sha256[:8], path.read_bytes()), ("00000000", path.read_bytes())):
            name = f"mobilenet-{start}.pth"
            hub.files["site/models"][name] = data
            monkeypatch.setattr(weights.value, "url", f"{address}/site/models/resolve/{COMMIT}/{name}")
            if start == sha256[:8]:
                contract = add_model(tmp_path / "zoo", name_of_model, pretrained=True, domain="photos")
                assert contract.provenance is not None
                assert contract.provenance.source == "torchvision:mobilenet_v3_small.IMAGENET1K_V1"
                assert contract.class_names[0] == "tench"
                with raises(UsageError, subject=weights.url, problem="100 bytes"):
                    download(weights.url, tmp_path, 100)
            else:
                with raises(UsageError, subject=weights.url, problem="SHA-256"):
                    add_model(tmp_path / "new", name_of_model, pretrained=True, domain="photos")
    with raises(UsageError, subject=weights.url, remedy="--weights"):
        add_model(tmp_path / "new", name_of_model, pretrained=True, domain="photos")
