import math
from pathlib import Path
from typing import Any

import pytest
import torch
from error_checks import raises
from safetensors.torch import load_file
from transformers_models import ARGUMENTS, SIDE, transformers_model

from metazoo.errors import UsageError, ZooError
from metazoo.models import (
    TRANSFORMERS_CLASSES,
    ClassifierSpec,
    LibraryNetwork,
    arguments_from_config,
    build_network,
    network_with_weights,
    network_without_weights,
)

IMAGES = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def spec_of(name: str, config: dict[str, Any], classes: int = 3) -> ClassifierSpec:
    values: dict[str, Any] = {"architecture": f"transformers:{name}", "arguments": arguments_from_config(name, config)}
    values |= {"classes": classes, "input_size": SIDE, "mean": (0.5,) * 3, "std": (0.2,) * 3}
    return ClassifierSpec.model_validate_json(ClassifierSpec.model_validate(values).model_dump_json())


def test_every_supported_class_is_tried() -> None:
    assert set(ARGUMENTS) == set(TRANSFORMERS_CLASSES)


@pytest.mark.parametrize("name", TRANSFORMERS_CLASSES)
def test_it_computes_what_the_library_computes(name: str, tmp_path: Path) -> None:
    original = transformers_model(name)
    original.save_pretrained(tmp_path)
    spec = spec_of(name, original.config.to_dict())
    empty = network_without_weights(spec)
    assert isinstance(empty, LibraryNetwork)
    state = empty.own_state(load_file(tmp_path / "model.safetensors"))
    assert {key: value.shape for key, value in state.items()} == {
        key: value.shape for key, value in empty.state_dict().items()
    }
    network = network_with_weights(spec, state).eval()
    with torch.no_grad():
        torch.testing.assert_close(network(IMAGES), original(IMAGES).logits, rtol=1e-4, atol=1e-5)
        assert network.features(IMAGES).shape == (3, network.feature_size)
        first, second = network.train()(IMAGES), network(IMAGES)
    torch.testing.assert_close(first, second)


def test_a_gradient_of_the_images_is_finite() -> None:
    for name in ("ViTForImageClassification", "ResNetForImageClassification"):
        spec = spec_of(name, ARGUMENTS[name])
        empty = network_without_weights(spec)
        assert isinstance(empty, LibraryNetwork)
        network = network_with_weights(spec, empty.own_state(transformers_model(name).state_dict())).eval()
        images = IMAGES.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(network(images).logsumexp(1).sum(), images)
        assert bool(gradient.isfinite().all())
        assert float(gradient.abs().max()) > 0


def test_tensors_of_another_network_are_named() -> None:
    network = network_without_weights(spec_of("ViTForImageClassification", ARGUMENTS["ViTForImageClassification"]))
    assert isinstance(network, LibraryNetwork)
    state = transformers_model("ViTForImageClassification").state_dict()
    extra = state | {"\x1b[2J": torch.ones(1)}
    less = {key: value for key, value in state.items() if key != "classifier.bias"}
    wide = state | {"classifier.weight": torch.ones(3, 5)}
    for tensors, problem in (
        (extra, "unexpected tensor"),
        (less, "missing tensor 'classifier.bias'"),
        (wide, "tensors do not fit"),
    ):
        with raises(ZooError, subject="ViTForImageClassification", problem=problem) as caught:
            network.own_state(tensors)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("name", "arguments", "problem"),
    [
        ("AutoModel", {}, "not supported"),
        ("CLIPForImageClassification", {}, "not supported"),
        ("DeiTForImageClassificationWithTeacher", {}, "not supported"),
        ("ViTForImageClassification", {"_attn_implementation": "kernels-community/flash-attn2"}, "'_attn_impl"),
        ("ViTForImageClassification", {"attn_implementation": "owner/kernel"}, "'attn_implementation'"),
        ("ViTForImageClassification", {"name_or_path": "/etc"}, "'name_or_path'"),
        ("ViTForImageClassification", {"width": 3}, "'width'"),
        ("ViTForImageClassification", {"image_size": 8}, "'image_size'"),
        ("ViTForImageClassification", {"num_hidden_layers": 10**6}, "more than 256"),
        ("ViTForImageClassification", {"hidden_size": 10**9}, "more than 65536"),
        ("ViTForImageClassification", {"hidden_size": 0}, "cannot be built"),
        ("ViTForImageClassification", {"hidden_size": "12"}, "cannot be built"),
        ("ViTForImageClassification", {"hidden_act": "os.system"}, "cannot be built"),
        ("ViTForImageClassification", {"hidden_size": -64}, "cannot be built"),
        ("ResNetForImageClassification", {"depths": (200, 200)}, "more than 256"),
        ("ResNetForImageClassification", {"layer_type": "x"}, "cannot be built"),
        ("MobileNetV1ForImageClassification", {"depth_multiplier": -math.inf}, "more than"),
    ],
)
def test_what_is_refused(name: str, arguments: dict[str, Any], problem: str) -> None:
    with raises(UsageError, problem=problem), torch.device("meta"):
        build_network(f"transformers:{name}", classes=3, channels=3, input_size=SIDE, arguments=arguments)


def test_values_that_cannot_be_arguments_are_refused() -> None:
    with raises(UsageError, subject="transformers:ViTForImageClassification", problem="hidden_size"):
        arguments_from_config("ViTForImageClassification", {"hidden_size": {"a": 1}})
    assert arguments_from_config("ViTForImageClassification", {"hidden_size": 768, "image_size": 64, "x": 1}) == {}
