import math

import pytest
import torch
from error_checks import raises
from torch import Tensor, nn
from torch.nn import functional

from metazoo.errors import UsageError
from metazoo.models import Network, architectures, build_network


def network(
    architecture: str, size: int, channels: int = 3, classes: int = 5, width: int | tuple[int, ...] | None = None
) -> Network:
    arguments = None if width is None else {"width": width}
    return build_network(architecture, classes=classes, channels=channels, input_size=size, arguments=arguments)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("size", "features", "parameters"), [(32, 128, 29_541), (84, 800, 32_901)])
def test_conv4_has_the_published_size(size: int, features: int, parameters: int) -> None:
    built = network("conv4", size)
    assert built.feature_size == features
    assert count(built) == parameters
    images = torch.rand(2, 3, size, size)
    assert built.features(images).shape == (2, features)
    assert built(images).shape == (2, 5)


@pytest.mark.parametrize(("size", "side"), [(16, 1), (31, 1), (33, 2), (64, 4)])
def test_conv4_at_other_sizes(size: int, side: int) -> None:
    built = network("conv4", size, channels=1, classes=7, width=8)
    assert built.features(torch.rand(2, 1, size, size)).shape == (2, 8 * side * side)
    assert built(torch.rand(2, 1, size, size)).shape == (2, 7)
    assert count(built) == (9 + 3 * 8 * 9) * 8 + 4 * 3 * 8 + 7 * (8 * side * side + 1)


def test_conv4_with_blocks_of_their_own_width() -> None:
    built = network("conv4", 33, width=(4, 6, 8, 10))
    images = torch.rand(2, 3, 33, 33)
    assert built.features(images).shape == (2, 10 * 2 * 2)
    assert built(images).shape == (2, 5)
    pairs = [(3, 4), (4, 6), (6, 8), (8, 10)]
    assert count(built) == sum((9 * inputs + 3) * outputs for inputs, outputs in pairs) + 5 * (40 + 1)
    torch.manual_seed(0)
    same = network("conv4", 32, width=(8, 8, 8, 8)).state_dict()
    torch.manual_seed(0)
    assert all(torch.equal(same[name], tensor) for name, tensor in network("conv4", 32, width=8).state_dict().items())


def test_conv4_starts_as_published() -> None:
    torch.manual_seed(0)
    built = network("conv4", 32)
    convolutions = [module for module in built.modules() if isinstance(module, nn.Conv2d)]
    assert [tuple(layer.weight.shape) for layer in convolutions] == [(32, 3, 3, 3), *[(32, 32, 3, 3)] * 3]
    std = math.sqrt(2 / (9 * 32))
    for layer in convolutions:
        draws = layer.weight.numel()
        assert layer.weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * draws))
        assert abs(layer.weight.mean().item()) < 5 * std / math.sqrt(draws)
        assert layer.weight.abs().max() > 2.5 * std  # normal, not uniform
    for layer in built.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert bool((layer.weight == 1).all())
            assert bool((layer.bias == 0).all())


def test_conv4_is_the_composition_it_says() -> None:
    built = network("conv4", 32).train()
    images = torch.rand(4, 3, 32, 32)
    state = dict(built.named_parameters())
    values = images
    for block in range(4):
        weight, bias = state[f"blocks.{block}.0.weight"], state[f"blocks.{block}.0.bias"]
        values = functional.conv2d(values, weight, bias, padding=1)
        mean, variance = values.mean((0, 2, 3), keepdim=True), values.var((0, 2, 3), correction=0, keepdim=True)
        values = functional.max_pool2d(((values - mean) / (variance + 1e-5).sqrt()).relu(), 2)
    expected = values.flatten(1) @ state["head.weight"].T + state["head.bias"]
    torch.testing.assert_close(built(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("size", "side"), [(7, 2), (16, 4), (28, 7), (31, 8), (32, 4), (33, 5), (84, 11)])
def test_thin_resnet_halves_large_images_in_its_stem(size: int, side: int) -> None:
    built = network("thin-resnet", size).eval()
    shapes: list[torch.Size] = []
    stages = built.get_submodule("stages")
    stages.register_forward_hook(lambda _module, _inputs, outputs: shapes.append(outputs.shape))
    features = built.features(torch.rand(2, 3, size, size))
    assert shapes == [(2, 64, side, side)]
    assert built.feature_size == 64
    assert features.shape == (2, 64)
    assert built(torch.rand(2, 3, size, size)).shape == (2, 5)


def test_thin_resnet_counts() -> None:
    def block(inputs: int, outputs: int) -> int:
        shortcut = 0 if inputs == outputs else inputs * outputs + 2 * outputs
        return 9 * inputs * outputs + 9 * outputs * outputs + 4 * outputs + shortcut

    for width in (4, 16):
        built = network("thin-resnet", 32, channels=1, width=width)
        stem = 9 * width + 2 * width
        stages = block(width, width) + block(width, 2 * width) + block(2 * width, 4 * width)
        assert count(built) == stem + stages + 5 * (4 * width + 1)


def test_the_shortcut_of_a_block_is_a_strided_convolution() -> None:
    block = network("thin-resnet", 16).eval().get_submodule("stages.1")
    shortcut = block.get_submodule("shortcut")
    images = torch.rand(2, 16, 9, 9)
    first, last = block.get_submodule("first"), block.get_submodule("second_norm")
    inner = block.get_submodule("first_norm")(first(images)).relu()
    weight = shortcut.get_parameter("0.weight")
    expected = last(block.get_submodule("second")(inner)) + shortcut[1](functional.conv2d(images, weight, stride=2))  # pyright: ignore[reportIndexIssue]
    torch.testing.assert_close(block(images), expected.relu())


def basic(inputs: int, outputs: int, shortcut: bool = True) -> int:
    return 9 * inputs * outputs + 9 * outputs**2 + 4 * outputs + (inputs * outputs + 2 * outputs) * shortcut


def bottleneck(inputs: int, width: int, shortcut: bool = False) -> int:
    outputs = 4 * width
    inner = inputs * width + 9 * width**2 + width * outputs + 4 * width + 2 * outputs
    return inner + (inputs * outputs + 2 * outputs) * shortcut


STEM = 27 * 64 + 2 * 64
FOUR_STAGES = basic(64, 64, shortcut=False) + basic(64, 128) + basic(128, 256) + basic(256, 512)
FOUR_MORE = sum(basic(width, width, shortcut=False) for width in (64, 128, 256, 512))
SIXTEEN_BOTTLENECKS = (
    bottleneck(64, 64, shortcut=True) + 2 * bottleneck(256, 64)
    + bottleneck(256, 128, shortcut=True) + 3 * bottleneck(512, 128)
    + bottleneck(512, 256, shortcut=True) + 5 * bottleneck(1024, 256)
    + bottleneck(1024, 512, shortcut=True) + 2 * bottleneck(2048, 512)
)  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "by_hand", "parameters"),
    [
        ("resnet10", STEM + FOUR_STAGES + 5 * 513, 4_900_677),
        ("resnet18", STEM + FOUR_STAGES + FOUR_MORE + 5 * 513, 11_171_397),
        ("resnet50", STEM + SIXTEEN_BOTTLENECKS + 5 * 2049, 23_510_597),
    ],
)
def test_resnets_have_the_published_size(architecture: str, by_hand: int, parameters: int) -> None:
    assert count(network(architecture, 32)) == by_hand == parameters
    assert count(network(architecture, 84)) == parameters


@pytest.mark.parametrize(("size", "side"), [(7, 1), (16, 2), (32, 4), (33, 5), (84, 11)])
@pytest.mark.parametrize(("architecture", "features"), [("resnet10", 64), ("resnet18", 64), ("resnet50", 256)])
def test_resnets_take_any_size(architecture: str, features: int, size: int, side: int) -> None:
    built = network(architecture, size, channels=1, classes=7, width=8).eval()
    shapes: list[torch.Size] = []
    built.get_submodule("stages").register_forward_hook(lambda _module, _inputs, outputs: shapes.append(outputs.shape))
    assert built(torch.rand(2, 1, size, size)).shape == (2, 7)
    assert shapes == [(2, features, side, side)]
    assert built.feature_size == features


def test_resnet10_is_the_composition_it_says() -> None:
    built = network("resnet10", 16, width=4).eval()
    state = built.state_dict()

    def normalised(values: Tensor, name: str) -> Tensor:
        keys = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(values, *(state[f"{name}.{key}"] for key in keys))

    for name, tensor in state.items():
        if "running" in name or name.endswith((".weight", ".bias")):
            tensor.uniform_(0.5, 1.5) if "running_var" in name else tensor.normal_(std=0.3)
    images = torch.rand(2, 3, 16, 16)
    values = normalised(functional.conv2d(images, state["stem.0.weight"], padding=1), "stem.1")
    for stage, stride in enumerate((1, 2, 2, 2)):
        block = f"stages.{stage}.0"
        hidden = functional.conv2d(values, state[f"{block}.first.weight"], stride=stride, padding=1)
        hidden = normalised(hidden, f"{block}.first_norm").relu()
        hidden = normalised(
            functional.conv2d(hidden, state[f"{block}.second.weight"], padding=1), f"{block}.second_norm"
        )
        if stage > 0:
            values = functional.conv2d(values, state[f"{block}.shortcut.0.weight"], stride=stride)
            values = normalised(values, f"{block}.shortcut.1")
        values = (values + hidden).relu()
    expected = values.mean((2, 3)) @ state["head.weight"].T + state["head.bias"]
    torch.testing.assert_close(built(images), expected, rtol=1e-4, atol=1e-4)


def test_a_bottleneck_is_the_composition_it_says() -> None:
    built = network("resnet50", 16, width=4).eval()
    block = built.get_submodule("stages.1.0")
    images = torch.rand(2, 16, 9, 9)
    hidden = block.get_submodule("first_norm")(block.get_submodule("first")(images)).relu()
    weight = block.get_parameter("second.weight")
    hidden = block.get_submodule("second_norm")(functional.conv2d(hidden, weight, stride=2, padding=1)).relu()
    residual = block.get_submodule("third_norm")(block.get_submodule("third")(hidden))
    shortcut = functional.conv2d(images, block.get_parameter("shortcut.0.weight"), stride=2)
    expected = (residual + block.get_submodule("shortcut.1")(shortcut)).relu()
    torch.testing.assert_close(block(images), expected)
    assert block(images).shape == (2, 32, 5, 5)


@pytest.mark.parametrize("architecture", architectures())
def test_gradients_reach_every_parameter_in_channels_last_with_threads(architecture: str) -> None:
    """A strided 1x1 convolution would end the process here."""
    built = network(architecture, 32, width=4).to(memory_format=torch.channels_last).train()
    images = torch.rand(8, 3, 32, 32).to(memory_format=torch.channels_last).requires_grad_()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        built(images).logsumexp(1).sum().backward()
    finally:
        torch.set_num_threads(threads)
    gradients = [images.grad, *(parameter.grad for parameter in built.parameters())]
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize("architecture", architectures())
def test_features_are_what_the_head_sees(architecture: str) -> None:
    built = network(architecture, 32, width=4).eval()
    images = torch.rand(3, 3, 32, 32)
    features: Tensor = built.features(images)
    assert bool((features >= 0).all()) is (architecture != "resnet12")  # which has leaky ReLUs
    assert torch.equal(built.head(features), built(images))
    assert built.head.in_features == built.feature_size


def test_wrong_use_is_explained() -> None:
    assert architectures()[:5] == ("conv4", "thin-resnet", "resnet10", "resnet18", "resnet50")
    with pytest.raises(UsageError, match=r"'resnet'.*did you mean resnet50"):
        network("resnet", 32)
    with raises(UsageError, subject="conv4", problem="width, not 'depth'"):
        build_network("conv4", classes=5, channels=3, input_size=32, arguments={"depth": 4})
    for width in (0, -1, 4097):
        with raises(UsageError, subject="thin-resnet", problem=f"width must be from 1 to 4096, not {width}"):
            network("thin-resnet", 32, width=width)
        with raises(UsageError, subject="conv4", problem=f"not {width}"):
            network("conv4", 32, width=(8, 8, width, 8))
    with raises(UsageError, subject="conv4", problem="not (8, 8, 8)"):
        network("conv4", 32, width=(8, 8, 8))
    with raises(UsageError, subject="resnet10", problem="not (8, 8, 8, 8)"):
        network("resnet10", 32, width=(8, 8, 8, 8))
    with raises(UsageError, subject="conv4", problem="16 pixels, not 15"):
        network("conv4", 15)
