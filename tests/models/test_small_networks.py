"""Well-known networks for small images, compared with torchvision's, with their papers and with plain functions."""

from typing import Any

import pytest
import torch
import torchvision
from error_checks import raises
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.vgg import make_layers

from metazoo.errors import UsageError
from metazoo.models import ClassifierSpec, Network, architectures, build_network, network_without_weights

NEW = ("resnet12", "cifar-resnet18", "cifar-resnet34", "cifar-resnet50", "wide-resnet", "densenet-bc", "vgg11-bn",
       "vgg13-bn", "vgg16-bn", "vgg19-bn", "mobilenet-v2", "shufflenet-v2", "lenet5")  # fmt: skip


def network(architecture: str, side: int = 32, channels: int = 3, classes: int = 10, **arguments: Any) -> Network:
    return build_network(architecture, classes=classes, channels=channels, input_size=side, arguments=arguments)


def filled(module: nn.Module) -> nn.Module:
    """Module in evaluation mode whose statistics and biases are not those of a new network."""
    torch.manual_seed(3)
    for name, tensor in module.state_dict().items():
        if "running_var" in name:
            tensor.uniform_(0.5, 1.5)
        elif tensor.ndim == 1 and tensor.is_floating_point():
            tensor.normal_(1.0 if name.endswith("weight") else 0.0, 0.2)
    return module.eval()


def count(architecture: str, channels: int = 3, side: int = 32, classes: int = 10, **arguments: Any) -> int:
    values: dict[str, Any] = {"channels": channels, "mean": (0.0,) * channels, "std": (1.0,) * channels}
    values |= {"architecture": architecture, "arguments": arguments, "classes": classes, "input_size": side}
    spec = ClassifierSpec.model_validate(values)
    return sum(parameter.numel() for parameter in network_without_weights(spec).parameters())


@pytest.mark.parametrize(
    ("architecture", "arguments", "parameters"),
    [
        # Of the papers, kuangliu/pytorch-cifar and chenyaofo/pytorch-cifar-models.
        ("cifar-resnet18", {}, 11_173_962),
        ("cifar-resnet34", {}, 21_282_122),
        ("cifar-resnet50", {}, 23_520_842),
        ("vgg11-bn", {"hidden": 512}, 9_756_426),
        ("vgg13-bn", {"hidden": 512}, 9_941_322),
        ("vgg16-bn", {"hidden": 512}, 15_253_578),
        ("vgg19-bn", {"hidden": 512}, 20_565_834),
        ("vgg16-bn", {}, 14_728_266),
        ("wide-resnet", {"depth": 28, "width": 10}, 36_479_194),
        ("wide-resnet", {"depth": 16, "width": 4}, 2_748_890),
        ("wide-resnet", {"depth": 40, "width": 2}, 2_243_546),
        ("densenet-bc", {"depth": 100, "width": 12}, 769_162),
        ("densenet-bc", {"depth": 190, "width": 40}, 25_624_430),
        ("mobilenet-v2", {}, 2_236_682),
        ("mobilenet-v2", {"width": 16}, 700_490),
        ("mobilenet-v2", {"width": 24}, 1_368_234),
        ("shufflenet-v2", {}, 1_263_854),
        ("shufflenet-v2", {"width": 48}, 352_042),
        ("lenet5", {"channels": 1}, 61_706),
        ("lenet5", {"channels": 1, "side": 28, "padding": 2}, 61_706),
        ("lenet5", {}, 62_006),
        ("resnet12", {"classes": 1}, 12_424_320 + 641),
    ],
)
def test_networks_have_the_published_size(architecture: str, arguments: dict[str, Any], parameters: int) -> None:
    assert count(architecture, **arguments) == parameters


@pytest.mark.parametrize(("side", "channels"), [(16, 3), (28, 1), (33, 3), (64, 1), (224, 3)])
@pytest.mark.parametrize("architecture", NEW)
def test_networks_take_images_of_any_usual_size(architecture: str, side: int, channels: int) -> None:
    if architecture.startswith("vgg") and side < 32:
        with raises(UsageError, subject=architecture, problem="at least 32 pixels", remedy="input size"):
            network(architecture, side, channels, width=2)
        return
    built = network(architecture, side, channels, width=2).eval()
    images = torch.rand(1, channels, side, side)
    with torch.inference_mode():
        features = built.features(images)
        assert features.shape == (1, built.feature_size)
        assert torch.equal(built(images), built.head(features))
    assert built(images).shape == (1, 10)


def test_all_new_networks_are_registered() -> None:
    assert set(NEW) <= set(architectures())


def _torchvision_resnet(name: str) -> nn.Module:
    other = torchvision.models.get_model(name, num_classes=10)
    other.conv1, other.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return other


def _torchvision_vgg(depth: int, width: int) -> nn.Module:
    stages = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}[depth]
    plan: list[Any] = []
    for multiple, layers in zip((1, 2, 4, 8, 8), stages, strict=True):
        plan += [multiple * width] * layers + ["M"]
    return nn.Sequential(make_layers(plan, batch_norm=True), nn.Flatten(), nn.Linear(8 * width, 10))


def _torchvision_mobilenet(scale: float) -> nn.Module:
    other: Any = torchvision.models.MobileNetV2(num_classes=10, width_mult=scale)
    for name in ("features.0.0", "features.2.conv.1.0"):
        other.get_submodule(name).stride = (1, 1)
    return other


def _torchvision_shufflenet(widths: list[int]) -> nn.Module:
    other: Any = torchvision.models.ShuffleNetV2([4, 8, 4], widths, num_classes=10)
    other.conv1[0].stride, other.maxpool = (1, 1), nn.Identity()
    return other


def _torchvision_densenet(depth: int, growth: int) -> nn.Module:
    blocks = ((depth - 4) // 6,) * 3
    other = torchvision.models.DenseNet(growth, blocks, 2 * growth, num_classes=10)  # pyright: ignore[reportArgumentType]
    other.features.conv0 = nn.Conv2d(3, 2 * growth, 3, padding=1, bias=False)
    for name in ("norm0", "relu0", "pool0"):
        setattr(other.features, name, nn.Identity())
    return other


@pytest.mark.parametrize(
    ("architecture", "arguments", "other"),
    [
        ("cifar-resnet18", {}, lambda: _torchvision_resnet("resnet18")),
        ("cifar-resnet34", {}, lambda: _torchvision_resnet("resnet34")),
        ("cifar-resnet50", {}, lambda: _torchvision_resnet("resnet50")),
        *((f"vgg{depth}-bn", {"width": 6}, lambda depth=depth: _torchvision_vgg(depth, 6)) for depth in (11, 13, 16)),
        ("vgg19-bn", {"width": 64}, lambda: _torchvision_vgg(19, 64)),
        ("mobilenet-v2", {}, lambda: _torchvision_mobilenet(1.0)),
        ("mobilenet-v2", {"width": 24}, lambda: _torchvision_mobilenet(0.75)),
        ("mobilenet-v2", {"width": 4}, lambda: _torchvision_mobilenet(0.125)),
        ("shufflenet-v2", {}, lambda: _torchvision_shufflenet([24, 116, 232, 464, 1024])),
        ("shufflenet-v2", {"width": 244}, lambda: _torchvision_shufflenet([24, 244, 488, 976, 2048])),
        ("densenet-bc", {"depth": 40, "width": 12}, lambda: _torchvision_densenet(40, 12)),
        ("densenet-bc", {"depth": 22, "width": 7}, lambda: _torchvision_densenet(22, 7)),
    ],
)
def test_outputs_equal_those_of_torchvision(architecture: str, arguments: dict[str, Any], other: Any) -> None:
    """Weights are copied in the order of definition, which is the same in both libraries."""
    theirs, ours = filled(other()), network(architecture, **arguments).eval()
    own = ours.state_dict()
    assert len(own) == len(theirs.state_dict())
    ours.load_state_dict(dict(zip(own, theirs.state_dict().values(), strict=True)))
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        expected, found = theirs(images), ours(images)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def _normalised(values: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, variance, weight, bias = (
        state[f"{name}.{key}"].view(1, -1, 1, 1) for key in ("running_mean", "running_var", "weight", "bias")
    )
    return (values - mean) / (variance + 1e-5).sqrt() * weight + bias


@pytest.mark.parametrize("bias", [False, True])
def test_wide_resnet_is_the_network_of_the_paper(bias: bool) -> None:
    built = filled(network("wide-resnet", depth=16, width=2, bias=bias))
    state = built.state_dict()

    def convolved(values: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return functional.conv2d(values, weight, state.get(f"{name}.bias"), stride, padding=weight.shape[-1] // 2)

    assert ("conv1.bias" in state) is bias
    images = torch.rand(2, 3, 32, 32)
    hidden = convolved(images, "conv1")
    for stage, stride in ((1, 1), (2, 2), (3, 2)):
        for block in range(2):
            name, step = f"layer{stage}.{block}", stride if block == 0 else 1
            first = _normalised(hidden, state, f"{name}.bn1").clamp(min=0)
            residual = _normalised(convolved(first, f"{name}.conv1", step), state, f"{name}.bn2").clamp(min=0)
            shortcut = convolved(first, f"{name}.shortcut.0", step) if block == 0 else hidden
            hidden = shortcut + convolved(residual, f"{name}.conv2")
    features = _normalised(hidden, state, "bn1").clamp(min=0).mean((2, 3))
    torch.testing.assert_close(built(images), features @ state["head.weight"].T + state["head.bias"])


def test_resnet12_is_the_network_of_the_papers() -> None:
    built = filled(network("resnet12", 20, width=4))
    state = built.state_dict()
    assert [state[f"layer{number}.0.conv3.weight"].shape[0] for number in (1, 2, 3, 4)] == [4, 10, 20, 40]
    images = torch.rand(2, 3, 20, 20)
    hidden = images
    for block in (1, 2, 3, 4):
        name, start = f"layer{block}.0", hidden
        for number in (1, 2, 3):
            hidden = functional.conv2d(hidden, state[f"{name}.conv{number}.weight"], padding=1)
            hidden = _normalised(hidden, state, f"{name}.bn{number}")
            hidden = torch.maximum(hidden, 0.1 * hidden) if number < 3 else hidden
        shortcut = functional.conv2d(start, state[f"{name}.shortcut.0.weight"])
        hidden = hidden + _normalised(shortcut, state, f"{name}.shortcut.1")
        hidden = functional.max_pool2d(torch.maximum(hidden, 0.1 * hidden), 2)
    expected = hidden.mean((2, 3)) @ state["head.weight"].T + state["head.bias"]
    torch.testing.assert_close(built(images), expected)


@pytest.mark.parametrize(("side", "padding"), [(28, 2), (28, 0), (32, 0)])
def test_lenet5_is_the_network_of_common_scripts(side: int, padding: int) -> None:
    ours = network("lenet5", side, channels=1, padding=padding)
    flat = 16 * {(28, 2): 5, (28, 0): 4, (32, 0): 5}[side, padding] ** 2
    theirs = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(flat, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, 10),
    )  # fmt: skip
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    images = torch.rand(2, 1, side, side)
    torch.testing.assert_close(ours(images), theirs(images))


def test_hidden_layers_of_vgg_are_those_of_common_scripts() -> None:
    ours = network("vgg11-bn", width=4, hidden=24).eval()
    theirs = nn.Sequential(
        _torchvision_vgg(11, 4).get_submodule("0"), nn.Flatten(), nn.Linear(32, 24), nn.ReLU(), nn.Dropout(),
        nn.Linear(24, 24), nn.ReLU(), nn.Dropout(), nn.Linear(24, 10),
    )  # fmt: skip
    filled(theirs)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize(
    ("architecture", "arguments", "problem"),
    [
        ("wide-resnet", {"depth": 17}, "depth must be from 10 to 256 in steps of 6, not 17"),
        ("wide-resnet", {"depth": 16.0}, "not 16.0"),
        ("wide-resnet", {"width": 65}, "from 1 to 64, not 65"),
        ("wide-resnet", {"width": 0}, "not 0"),
        ("densenet-bc", {"depth": "40"}, "not '40'"),
        ("densenet-bc", {"width": 4000}, "from 1 to 256"),
        ("densenet-bc", {"growth": 12}, "not 'growth'"),
        ("shufflenet-v2", {"width": 47}, "in steps of 2, not 47"),
        ("vgg16-bn", {"hidden": -1}, "hidden must be from 0"),
        ("vgg16-bn", {"depth": 19}, "not 'depth'"),
        ("lenet5", {"padding": 3}, "padding must be from 0 to 2, not 3"),
        ("cifar-resnet20", {"shortcut": "C"}, "A or B, not 'C'"),
        ("cifar-resnet18", {"stem_activation": 1}, "not 'stem_activation'"),
    ],
)
def test_impossible_arguments_are_refused(architecture: str, arguments: dict[str, Any], problem: str) -> None:
    with raises(UsageError, subject=architecture, problem=problem):
        network(architecture, **arguments)
