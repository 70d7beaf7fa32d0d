"""Any description of a model to be added gives a model or a MetazooError."""

import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from json_fuzzing import JsonFuzz
from transformers_models import ARGUMENTS, SIDE
from zoo_helpers import classifier

from metazoo.errors import MetazooError
from metazoo.models import network_without_weights
from metazoo.storage.tensor_files import write_tensors
from metazoo.zoo import Zoo, add_folder
from metazoo.zoo.importing.model_description import described
from metazoo.zoo.importing.transformers_source import transformers_fields

FUZZ = JsonFuzz(
    ["conv4", "resnet18", "transformers:ViTForImageClassification", "../x", "\ud800", "\x00", "\x1b[2J", "a" * 600],
    [0, -1, 1, 3, 2**31, 2**63, 2**70, 1e-300, 1e300, 1025],
)
SIDECAR: dict[str, Any] = {"architecture": "conv4", "arguments": {"width": 4}, "classes": ["a", "b", "c"], "name": "x"}
SIDECAR |= {"input_size": 16, "mean": [0.5], "std": [0.2], "domain": "d", "channels": 3, "accuracy": 50.5}
VIT: dict[str, Any] = ARGUMENTS["ViTForImageClassification"]
CONFIG: dict[str, Any] = VIT | {"architectures": ["ViTForImageClassification"], "image_size": SIDE, "num_channels": 3}
CONFIG |= {"id2label": {"0": "cat", "1": "dog"}, "problem_type": None, "hidden_act": "gelu", "layer_norm_eps": 1e-6}
PROCESSOR: dict[str, Any] = {"size": {"height": SIDE, "width": SIDE}, "crop_size": SIDE, "do_center_crop": True}
PROCESSOR |= {"image_mean": [0.5] * 3, "image_std": [0.2] * 3, "rescale_factor": 1 / 255, "resample": 2}
PROCESSOR |= {"do_resize": True, "do_normalize": True, "do_rescale": True, "crop_pct": 0.9}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "source"
    folder.mkdir()
    write_tensors(folder / "x.safetensors", classifier("conv4").network.state_dict())
    return folder


@settings(max_examples=100)
@given(data=some.data())
def test_files_beside_weights(source: Path, data: some.DataObject) -> None:
    (source / "x.yaml").write_text(json.dumps(FUZZ.changed(SIDECAR, data)))
    zoo = source.parent / "zoo"
    shutil.rmtree(zoo, ignore_errors=True)
    (addition,) = add_folder(zoo, source)
    assert addition.text.isprintable()
    assert len(addition.text) < 1000
    assert {path.name for path in source.parent.iterdir()} <= {"source", "zoo"}
    if addition.status == "added":
        assert len(Zoo.open(zoo).teachers()) == 1
    else:
        assert not zoo.exists()


@pytest.mark.parametrize("name", ["a" * 600, "\x00", "b"])
def test_what_no_contract_can_say_leaves_no_zoo_behind(source: Path, name: str) -> None:
    (source / "x.yaml").write_text(json.dumps(SIDECAR | {"classes": ["b", "c", name]}))
    zoo = source.parent / "none"
    (addition,) = add_folder(zoo, source)
    assert addition.status == "problem"
    assert not zoo.exists()


@settings(max_examples=100)
@given(data=some.data())
def test_configurations_of_transformers(data: some.DataObject) -> None:
    content = FUZZ.changed({"config": CONFIG, "processor": PROCESSOR}, data)
    config, processor = content.get("config", {}), content.get("processor", {})
    if not isinstance(config, dict) or not isinstance(processor, dict):
        return  # which `HubRepository.read_json` refuses
    start = time.process_time()
    with contextlib.suppress(MetazooError):
        said = transformers_fields(config, processor, "hf:owner/name")
        given_by_user = described({"classes": ("a", "b"), "mean": (0.5,), "std": (0.2,), "domain": "d"}, "the user")
        spec = given_by_user.over(described(said, "hf:owner/name")).spec("hf:owner/name")
        assert sum(parameter.numel() for parameter in network_without_weights(spec).parameters()) > 0
    assert time.process_time() - start < 10
