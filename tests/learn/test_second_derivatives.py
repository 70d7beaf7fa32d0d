from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from metazoo.learn.second_derivatives import QuickSecondDerivatives

SHAPES = [(6, 3), (4, 3, 5), (3, 2, 4, 5)]


def inputs_of(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=random, dtype=torch.float64)]
    tensors += [torch.randn(shape[1], generator=random, dtype=torch.float64) for _ in range(2)]
    inputs, scale, shift = (tensor.requires_grad_() for tensor in tensors)
    return inputs, scale, shift


def quick(inputs: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    with QuickSecondDerivatives():
        return functional.batch_norm(inputs, None, None, weight=scale, bias=shift, training=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_derivatives_are_those_of_finite_differences(shape: tuple[int, ...]) -> None:
    assert torch.autograd.gradcheck(quick, inputs_of(shape))
    assert torch.autograd.gradgradcheck(quick, inputs_of(shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_layer_is_as_torch_has_it(shape: tuple[int, ...]) -> None:
    inputs, scale, shift = inputs_of(shape)
    layer = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](shape[1], track_running_stats=False)
    layer = layer.double().eval()
    with torch.no_grad():
        layer.weight.copy_(scale)
        layer.bias.copy_(shift)
    outputs = layer(inputs)
    with QuickSecondDerivatives():
        own = layer(inputs)
    assert type(own.grad_fn) is not type(outputs.grad_fn)
    assert torch.equal(own, outputs)

    def penalty(values: Tensor) -> tuple[Tensor, ...]:
        wanted = [inputs, layer.weight, layer.bias]
        gradients = torch.autograd.grad(values.sin().sum(), wanted, create_graph=True)
        return torch.autograd.grad(sum((part.cos().sum() for part in gradients), inputs.new_zeros(())), wanted)

    for mine, theirs in zip(penalty(own), penalty(outputs), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_stored_statistics_and_what_has_no_scale_are_left_to_torch() -> None:
    inputs = torch.randn(4, 3, 2, 2)
    for layer in (nn.BatchNorm2d(3).eval(), nn.BatchNorm2d(3, affine=False, track_running_stats=False)):
        expected = layer(inputs)
        with QuickSecondDerivatives():
            assert torch.equal(layer(inputs), expected)


WINDOWS = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (2, 3), "dilation": (2, 1), "ceil_mode": True},
]


@pytest.mark.parametrize("window", WINDOWS)
def test_max_pooling_is_as_torch_has_it(window: dict[str, Any]) -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 7, 8, generator=random, dtype=torch.float64)
    images = images.contiguous(memory_format=torch.channels_last).requires_grad_()
    layer = nn.MaxPool2d(**window)

    def pooled(values: Tensor) -> Tensor:
        with QuickSecondDerivatives():
            return layer(values)

    assert torch.equal(pooled(images), layer(images))
    assert type(pooled(images).grad_fn) is not type(layer(images).grad_fn)
    assert torch.autograd.gradcheck(pooled, images)
    assert torch.autograd.gradgradcheck(pooled, images)


def test_second_derivatives_keep_the_layout_of_the_images() -> None:
    images = torch.randn(4, 8, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    block = nn.Sequential(nn.BatchNorm2d(8, track_running_stats=False), nn.MaxPool2d(2), nn.ReLU())
    with QuickSecondDerivatives():
        outputs = block(images)
    (gradient,) = torch.autograd.grad(outputs.square().sum(), images, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), images)
    assert gradient.is_contiguous(memory_format=torch.channels_last)
    assert second.is_contiguous(memory_format=torch.channels_last)


def test_what_also_returns_indices_is_left_to_torch() -> None:
    images = torch.randn(1, 2, 4, 4)
    with QuickSecondDerivatives():
        outputs, indices = nn.MaxPool2d(2, return_indices=True)(images)
    assert torch.equal(images.flatten(2).gather(2, indices.flatten(2)).view_as(outputs), outputs)


class Attention(nn.Module):
    """Attention between the columns of an image, by torch's function or by its layer."""

    def __init__(self, is_layer: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.maps, self.layer = nn.Linear(6, 18), nn.MultiheadAttention(6, 2, batch_first=True)
        self.is_layer = is_layer

    def forward(self, tokens: Tensor) -> Tensor:
        if self.is_layer:
            return self.layer(tokens, tokens, tokens, need_weights=False)[0]
        return functional.scaled_dot_product_attention(*self.maps(tokens).chunk(3, -1), scale=0.3)


@pytest.mark.parametrize("is_layer", [False, True])
def test_attention_has_second_derivatives(is_layer: bool) -> None:
    module = Attention(is_layer).double()
    tokens = torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain = module(tokens)

    def attended(values: Tensor) -> Tensor:
        with QuickSecondDerivatives():
            return module(values)

    torch.testing.assert_close(attended(tokens), plain)
    assert torch.autograd.gradgradcheck(attended, (tokens.requires_grad_(),))
