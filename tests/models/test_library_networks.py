import subprocess
import sys
from typing import Any

import pytest
import timm
import torch
import torchvision
from error_checks import raises
from torch import nn

from metazoo.errors import UsageError
from metazoo.models import (
    ClassifierSpec,
    ImageClassifier,
    LibraryNetwork,
    build_classifier,
    build_network,
    library,
    network_with_weights,
    network_without_weights,
)

NAMES = [
    "timm:test_vit",
    "timm:test_efficientnet",
    "timm:mobilenetv3_small_050",
    "timm:convnext_atto",
    "timm:test_resnet",
    "torchvision:resnet18",
    "torchvision:mobilenet_v3_small",
]


def spec(architecture: str, **changes: object) -> ClassifierSpec:
    values = {"architecture": architecture, "classes": 4, "input_size": 32, "mean": (0.5,) * 3, "std": (0.2,) * 3}
    return ClassifierSpec.model_validate(values | changes)


def native(architecture: str, classes: int = 4) -> nn.Module:
    """The library's network with random weights, as a user would build it."""
    name = architecture.partition(":")[2]
    if architecture.startswith("torchvision:"):
        return torchvision.models.get_model(name, num_classes=classes).eval()
    size: dict[str, Any] = {"img_size": 32} if "vit" in name else {}
    return timm.create_model(name, num_classes=classes, **size).eval()


@pytest.mark.parametrize("architecture", NAMES)
def test_it_computes_what_the_library_computes(architecture: str) -> None:
    original, wanted = native(architecture), spec(architecture)
    names = network_without_weights(wanted)
    assert isinstance(names, LibraryNetwork)
    state = names.own_state(original.state_dict())
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in names.state_dict().items()
    }
    built = network_with_weights(wanted, state).eval()
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(built(images), original(images))
        assert built.features(images).shape == (3, built.feature_size)
        classifier = ImageClassifier(wanted, built)
        torch.testing.assert_close(classifier(images), original((images - 0.5) / 0.2))


@pytest.mark.parametrize("architecture", ["timm:swin_tiny_patch4_window7_224", "torchvision:swin_t"])
def test_tables_that_are_no_weights_are_there_too(architecture: str) -> None:
    wanted = spec(architecture, input_size=56 if architecture.startswith("timm") else 64)
    built = build_classifier(wanted, torch.Generator().manual_seed(1)).eval()
    again = ImageClassifier(wanted, network_with_weights(wanted, built.network.state_dict())).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(again(images), built(images))


def test_nothing_is_random_in_training() -> None:
    for architecture in ("torchvision:convnext_tiny", "torchvision:mobilenet_v3_small", "timm:test_vit"):
        built = build_classifier(spec(architecture), torch.Generator().manual_seed(0)).train()
        images = torch.rand(4, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(built(images), built(images))


def test_weights_come_from_the_generator_alone() -> None:
    state = torch.get_rng_state()
    first, second = (build_classifier(spec("timm:test_vit"), torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    pairs = zip(first.network.state_dict().values(), second.network.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_grey_is_for_timm() -> None:
    built = build_network("timm:convnext_atto", classes=3, channels=1, input_size=32)
    assert built(torch.rand(2, 1, 32, 32)).shape == (2, 3)
    with raises(UsageError, subject="torchvision:resnet18", problem="not 1"):
        build_network("torchvision:resnet18", classes=3, channels=1, input_size=32)


@pytest.mark.parametrize(
    ("architecture", "value"),
    [
        ("timm:os.system", "'timm:os.system'"),
        ("timm:hf-hub:evil/model", "'timm:hf-hub:evil/model'"),
        ("timm:local-dir:/tmp/x", "'timm:local-dir:/tmp/x'"),
        ("timm:../x", "'timm:../x'"),
        ("timm:create_model", "no model 'create_model'"),
        ("timm:vit_tiny_patch16_224\n", "timm:vit_tiny_patch16_224"),
        ("torchvision:get_model", "no image classifier 'get_model'"),
        ("torchvision:fasterrcnn_resnet50_fpn", "no image classifier"),
        ("torchvision:deeplabv3_resnet50", "no image classifier"),
        ("torchvision:squeezenet1_0", "linear layer"),
        ("torchvision:regnet_x_400mf", "`timm:NAME`"),
        ("timm:deit_tiny_distilled_patch16_224", "linear layer"),
        ("torchvision:vit_b_16", "3 channels and 8 pixels"),
        ("pickle:loads", "'pickle:loads'"),
    ],
)
def test_other_names_are_refused(architecture: str, value: str) -> None:
    with raises(UsageError) as caught:
        build_network(architecture, classes=3, channels=3, input_size=8)
    assert value in str(caught.value)


def test_arguments_of_timm_are_passed_on() -> None:
    arguments = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    built = build_classifier(spec("timm:test_vit", arguments=arguments), torch.Generator().manual_seed(0)).network
    assert isinstance(built, LibraryNetwork)
    wanted = timm.create_model("test_vit", num_classes=4, img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2)
    shapes = {name: tensor.shape for name, tensor in built.state_dict().items()}
    translated = built.own_state(wanted.state_dict())
    assert {name: tensor.shape for name, tensor in translated.items()} == shapes


@pytest.mark.parametrize(
    ("architecture", "arguments", "problem"),
    [
        ("timm:test_vit", {"width": 4}, "'width'"),
        ("timm:test_vit", {"pretrained": 1}, "'pretrained'"),
        ("timm:test_vit", {"depth": 0}, "from 1 to 256, not 0"),
        ("timm:test_vit", {"embed_dim": 10**9}, "from 1 to 4096"),
        ("timm:test_resnet", {"embed_dim": 24}, "3 channels and 32 pixels, embed_dim 24"),
        ("torchvision:resnet18", {"patch_size": 4}, "'patch_size'"),
    ],
)
def test_other_arguments_are_refused(architecture: str, arguments: dict[str, int], problem: str) -> None:
    with raises(UsageError, subject=architecture, problem=problem):
        build_network(architecture, classes=3, channels=3, input_size=32, arguments=arguments)


def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with raises(UsageError, subject="timm", remedy='pip install "metazoo[timm]"'):
        build_network("timm:test_vit", classes=3, channels=3, input_size=32)
    assert not library.is_library_name("timm:")


def test_no_library_is_imported_with_the_package() -> None:
    program = (
        "import sys, metazoo, metazoo.zoo, metazoo.cli.zoo_commands, metazoo.runs.train;"
        "print(sorted({'timm', 'torchvision', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
