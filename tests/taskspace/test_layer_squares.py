"""Squared gradients by layer, compared with those of torch for single samples."""

from typing import Any

import pytest
import timm
import torch
import torchvision
from error_checks import raises
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from metazoo.errors import UsageError
from metazoo.taskspace.layer_squares import SampleGradients, kept_blocks

SAMPLES, CLASSES, SIDE = 7, 4, 9


class OverRows(nn.Module):
    """A linear layer that is applied to every row of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(9, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images).flatten(1)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(self.layer(images)).mean((2, 3))


class UsesItsWeightAgain(Twice):
    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images).mean((2, 3)) @ self.layer.weight.flatten(1)


class ChangesItsInput(Twice):
    def forward(self, images: Tensor) -> Tensor:
        hidden = images + 1
        outputs = self.layer(hidden)
        return (outputs + hidden.mul_(2)).mean((2, 3))


class Unused(Twice):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


class RowsAsSamples(nn.Module):
    """A linear layer that sees every row of every image as a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(9, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(0, 2)).view(len(images), -1)


class RowsFirst(nn.Module):
    """Attention and a linear layer on rows [7, n, 9], as many as there are samples."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.layer = nn.MultiheadAttention(9, 3), nn.Linear(9, 5)

    def forward(self, images: Tensor) -> Tensor:
        rows = images.mean(1).transpose(0, 1)[:SAMPLES]
        return self.layer(self.attention(rows, rows, rows, need_weights=False)[0]).transpose(0, 1).flatten(1)


class SharesARow(nn.Module):
    """A linear layer that sees one row [1, 3, 9] for all images, as queries for attention are made."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.layer = nn.Parameter(torch.randn(1, 3, 9)), nn.Linear(9, 9)

    def forward(self, images: Tensor) -> Tensor:
        return (images.mean(1) @ self.layer(self.token).mT).flatten(1)


class CallsByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(9, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(input=images).flatten(1)


class ChoosesByValue(nn.Module):
    """A network that cannot be vectorised: it reads a value of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.ones(3, 1, 1)), nn.Conv2d(3, 2, 3)

    def forward(self, images: Tensor) -> Tensor:
        sign = 1 if float(images.detach().sum()) > 1e9 else -1
        return self.layer(images * self.scale * sign).flatten(1)


def samples_of(network: nn.Module, images: Tensor, most: int | None = None) -> SampleGradients:
    parameters = {name: value.detach() for name, value in network.named_parameters() if value.requires_grad}
    return SampleGradients(network, parameters, {} if most is None else kept_blocks(parameters, most), images[:1])


def expected_squares(network: nn.Module, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    expected = {name: torch.zeros_like(value) for name, value in network.named_parameters()}
    for image, target in zip(images, targets, strict=True):
        loss = functional.cross_entropy(network(image[None]), target[None])
        gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True, materialize_grads=True)
        for name, gradient in zip(expected, gradients, strict=True):
            expected[name] += gradient.square()
    return expected


def made(*layers: nn.Module) -> tuple[nn.Module, Tensor, Tensor]:
    """A network that ends in a linear layer, in evaluation mode, with images and targets."""
    torch.manual_seed(0)
    network = nn.Sequential(*layers, nn.LazyLinear(CLASSES)).double()
    images = torch.randn(SAMPLES, 3, SIDE, SIDE, dtype=torch.float64)
    network.train()(images)
    return network.eval(), images, torch.arange(SAMPLES) % CLASSES


def assert_equals_torch(network: nn.Module, images: Tensor, targets: Tensor) -> frozenset[str]:
    """Compare sums of squares with a loop over the samples; names of the parameters without a rule."""
    samples = samples_of(network, images)
    found, expected = samples.sum_of_squares(images, targets), expected_squares(network, images, targets)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name])
    assert not any(part._forward_hooks for part in network.modules())
    return samples.without_rules


def conv(*arguments: Any, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(*arguments, **options)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(
    "layers",
    [
        [conv(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), nn.ReLU(inplace=True), nn.Flatten()],
        [conv(3, 4, (2, 3), stride=(2, 1), padding=(2, 1), dilation=(2, 1)), nn.Flatten()],
        [conv(3, 4, 9, bias=False), nn.Flatten()],
        [conv(3, 2, 1), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.Flatten()],
        [OverRows(), nn.BatchNorm1d(3 * 9 * 5), nn.Tanh()],
        [nn.Flatten(), nn.Linear(3 * 81, 6, bias=False), nn.BatchNorm1d(6, affine=False)],
        [conv(3, 6, 3, groups=3), nn.ReLU(inplace=True), conv(6, 6, 3, groups=6, padding=1), nn.Flatten()],
        [conv(3, 8, 1), nn.ReLU(), conv(8, 4, 3, groups=2, stride=2, dilation=2), nn.Flatten()],
        [conv(3, 6, (4, 3), padding="same", groups=3, dilation=(1, 2)), conv(6, 2, 3, padding="valid"), nn.Flatten()],
        [conv(3, 2, 3, padding=(1, 2), padding_mode="reflect"), conv(2, 2, 3, padding=1, padding_mode="circular"),
         nn.Flatten()],
        [conv(3, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.LayerNorm([9, 9]), nn.LayerNorm(9), nn.Flatten()],
    ],
)  # fmt: skip
def test_layers_with_a_rule_equal_torch_sample_by_sample(layers: list[nn.Module]) -> None:
    assert assert_equals_torch(*made(*layers)) == frozenset()


@pytest.mark.parametrize(
    ("layers", "without_rules"),
    [
        ([Twice()], {"0.layer.weight", "0.layer.bias"}),
        ([UsesItsWeightAgain()], {"0.layer.weight", "0.layer.bias"}),
        ([Unused()], {"0.layer.weight", "0.layer.bias"}),
        ([RowsAsSamples()], {"0.layer.weight", "0.layer.bias"}),
        ([RowsFirst()], {f"0.{name}" for name, _ in RowsFirst().named_parameters()}),
        ([SharesARow()], {"0.token", "0.layer.weight", "0.layer.bias"}),
        ([CallsByName()], {"0.layer.weight", "0.layer.bias"}),
        ([ChoosesByValue()], {"0.scale"}),
        ([nn.ConvTranspose2d(3, 2, 3, stride=2, groups=1), nn.PReLU(), nn.Flatten()],
         {"0.weight", "0.bias", "1.weight"}),
        ([nn.Flatten(2), nn.Conv1d(3, 6, 5, groups=3, dilation=2), nn.InstanceNorm1d(6, affine=True), nn.Flatten()],
         {"1.weight", "1.bias", "2.weight", "2.bias"}),
        ([parametrizations.weight_norm(conv(3, 2, 3)), nn.Flatten()],
         {"0.bias", "0.parametrizations.weight.original0", "0.parametrizations.weight.original1"}),
    ],
)  # fmt: skip
def test_other_layers_equal_torch_sample_by_sample(layers: list[nn.Module], without_rules: set[str]) -> None:
    assert assert_equals_torch(*made(*layers)) == without_rules


def test_a_network_without_gradients_is_named() -> None:
    network, images, targets = ChangesItsInput(), torch.randn(2, 3, SIDE, SIDE), torch.tensor([0, 1])
    with raises(UsageError, subject="probe", problem="modified by an inplace operation", remedy="probe.architecture"):
        samples_of(network, images).sum_of_squares(images, targets)


def test_shared_parameters_count_once() -> None:
    network, images, targets = made(conv(3, 3, 1), nn.Tanh(), conv(3, 3, 1), nn.Flatten())
    network[2].weight = network[0].weight  # pyright: ignore[reportIndexIssue, reportAttributeAccessIssue]
    assert assert_equals_torch(network, images, targets) == {"0.weight", "0.bias"}


def test_frozen_layers_have_no_squares() -> None:
    network, images, targets = made(conv(3, 3, 3, groups=3), nn.PReLU(), nn.Flatten())
    network[:2].requires_grad_(False)  # pyright: ignore[reportIndexIssue]
    assert samples_of(network, images).sum_of_squares(images, targets).keys() == {"3.weight", "3.bias"}


def test_some_blocks_of_any_layer() -> None:
    network, images, targets = made(
        conv(3, 12, 3, groups=3), nn.ConvTranspose2d(12, 5, 3), nn.LayerNorm([9, 9]), nn.Flatten()
    )
    whole = samples_of(network, images).sum_of_squares(images, targets)
    part = samples_of(network, images, most=20).sum_of_squares(images, targets)
    blocks = kept_blocks(whole, 20)
    assert blocks.keys() == {"0.weight", "1.weight", "2.weight", "2.bias", "4.weight"}
    for name, values in whole.items():
        torch.testing.assert_close(part[name], blocks[name].of(values) if name in blocks else values)


BUILDERS = {
    "mobilenet": lambda: torchvision.models.mobilenet_v2(num_classes=CLASSES, width_mult=0.25),
    "shufflenet": lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=CLASSES),
    "convnext": lambda: timm.create_model("test_convnext", num_classes=CLASSES),
    "efficientnet": lambda: timm.create_model("test_efficientnet", num_classes=CLASSES),
    "vit": lambda: timm.create_model("test_vit", num_classes=CLASSES, img_size=32),
    "swin": lambda: torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=CLASSES),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_networks_of_libraries_equal_torch_sample_by_sample(name: str) -> None:
    torch.manual_seed(0)
    network = BUILDERS[name]().double().eval()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    without_rules = assert_equals_torch(network, images, torch.tensor([0, 2]))
    assert len(without_rules) < len(dict(network.named_parameters()))
