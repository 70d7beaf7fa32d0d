"""Squared gradients by layer, compared with those of torch for single samples."""

import pytest
import torch
from error_checks import raises
from torch import Tensor, nn
from torch.nn import functional

from metazoo.errors import UsageError
from metazoo.taskspace.layer_squares import sum_of_squared_gradients


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


class ChangesItsInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        hidden = images + 1
        outputs = self.layer(hidden)
        return (outputs + hidden.mul_(2)).mean((2, 3))


class Unused(ChangesItsInput):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


def squares(network: nn.Module, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    parameters = {name: value.detach() for name, value in network.named_parameters() if value.requires_grad}
    return sum_of_squared_gradients(network, parameters, images, targets, {})


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), nn.ReLU(inplace=True), nn.Flatten()],
        [nn.Conv2d(3, 4, (2, 3), stride=(2, 1), padding=(2, 1), dilation=(2, 1)), nn.Flatten()],
        [nn.Conv2d(3, 4, 9, bias=False), nn.Flatten()],
        [nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.Flatten()],
        [OverRows(), nn.BatchNorm1d(3 * 9 * 5), nn.Tanh()],
        [nn.Flatten(), nn.Linear(3 * 81, 6, bias=False), nn.BatchNorm1d(6, affine=False)],
    ],
)
def test_equals_torch_sample_by_sample(layers: list[nn.Module]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(*layers, nn.LazyLinear(4)).double()
    images, targets = torch.randn(7, 3, 9, 9, dtype=torch.float64), torch.arange(7) % 4
    network.train()(images)
    network.eval()
    found = squares(network, images, targets)
    assert found.keys() == dict(network.named_parameters()).keys()
    expected = {name: torch.zeros_like(value) for name, value in network.named_parameters()}
    for image, target in zip(images, targets, strict=True):
        loss = functional.cross_entropy(network(image[None]), target[None])
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        for name, gradient in zip(expected, gradients, strict=True):
            expected[name] += gradient.square()
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name])


def test_what_cannot_be_known_is_refused() -> None:
    images, targets = torch.randn(2, 3, 8, 8), torch.tensor([0, 1])
    for network in (Twice(), ChangesItsInput(), Unused()):
        with raises(UsageError, subject="layer of 'layer.", problem="called exactly once"):
            squares(network, images, targets)
    head = [nn.Flatten(), nn.Linear(3 * 64, 2)]
    for layer in (nn.Conv2d(3, 3, 1, groups=3), nn.Conv2d(3, 3, 3, padding="same"), nn.PReLU()):
        with raises(UsageError, subject="'0.weight'", problem=type(layer).__name__):
            squares(nn.Sequential(layer, *head), images, targets)
        assert set(squares(nn.Sequential(layer.requires_grad_(False), *head), images, targets)) == {
            "2.weight",
            "2.bias",
        }
    tied = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), *head)
    tied[1].weight = tied[0].weight
    with raises(UsageError, subject="probe", problem="share a parameter"):
        squares(tied, images, targets)
