import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from metazoo.errors import UsageError
from metazoo.models import Network, architectures, build_network


def network(architecture: str, size: int, channels: int = 3, classes: int = 5, width: int | None = None) -> Network:
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


@pytest.mark.parametrize("architecture", architectures())
def test_features_are_what_the_head_sees(architecture: str) -> None:
    built = network(architecture, 32).eval()
    images = torch.rand(3, 3, 32, 32)
    features: Tensor = built.features(images)
    assert bool((features >= 0).all())
    assert torch.equal(built.head(features), built(images))
    assert built.head.in_features == built.feature_size


def test_wrong_use_is_explained() -> None:
    assert architectures() == ("conv4", "thin-resnet")
    with pytest.raises(UsageError, match="unknown architecture 'resnet'; choose one of conv4, thin-resnet"):
        network("resnet", 32)
    with pytest.raises(UsageError, match="conv4 has no argument 'depth'; it takes width"):
        build_network("conv4", classes=5, channels=3, input_size=32, arguments={"depth": 4})
    for width in (0, -1, 4097):
        with pytest.raises(UsageError, match=f"width must lie between 1 and 4096, not {width}"):
            network("thin-resnet", 32, width=width)
    with pytest.raises(UsageError, match="conv4 needs images of at least 16 pixels, not 15; choose a larger"):
        network("conv4", 15)
