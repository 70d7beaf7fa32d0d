"""Densely connected networks for images of 32 pixels (Huang et al. 2017, arXiv:1608.06993)."""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from metazoo.models.network import Network, check_number, check_size

_NAME = "densenet-bc"
_BOTTLENECK = 4


@final
class DenseNet(Network):
    """DenseNet-BC: three blocks of (depth - 4) / 6 layers, whose outputs are appended to their inputs.

    A layer is a 1x1 convolution to 4 `width` channels and a 3x3 convolution to `width` channels, each after batch norm
    and ReLU. Transitions between blocks halve the channels and the image. DenseNet-BC (L=100, k=12) has 769,162
    parameters with 10 classes. Tensors have the names of torchvision.

    Args:
        classes: number of outputs of the head.
        channels: number of input channels, 1 or 3.
        input_size: side of the square images in pixels, at least 4.
        depth: number of layers, 6n + 4.
        width: growth rate, the channels that each layer adds, from 1 to 256.

    Raises:
        UsageError: `input_size`, `depth` or `width` is out of range.
    """

    def __init__(self, *, classes: int, channels: int, input_size: int, depth: int = 40, width: int = 12) -> None:
        super().__init__()
        check_size(_NAME, input_size, 4)
        check_number(_NAME, "depth", depth, range(10, 257, 6))
        check_number(_NAME, "width", width, range(1, 257))
        held = 2 * width
        self.conv0 = nn.Conv2d(channels, held, 3, padding=1, bias=False)
        self._parts: list[str] = []
        for block in (1, 2, 3):
            layers = nn.Sequential()
            for layer in range((depth - 4) // 6):
                layers.add_module(f"denselayer{layer + 1}", _Layer(held, width))
                held += width
            self._add(f"denseblock{block}", layers)
            if block < 3:
                self._add(f"transition{block}", _Transition(held))
                held //= 2
        self.norm_final = nn.BatchNorm2d(held)
        self.feature_size = held
        self.head = nn.Linear(self.feature_size, classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)

    def _add(self, name: str, part: nn.Module) -> None:
        self.add_module(name, part)
        self._parts.append(name)

    def features(self, images: Tensor) -> Tensor:
        """Pooled activations of the last batch norm, all at least 0."""
        hidden = self.conv0(images)
        for name in self._parts:
            hidden = self.get_submodule(name)(hidden)
        return functional.relu(self.norm_final(hidden)).mean((2, 3))


class _Layer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        inner = _BOTTLENECK * growth
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, growth, 3, padding=1, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.conv1(functional.relu(self.norm1(inputs)))
        return torch.cat([inputs, self.conv2(functional.relu(self.norm2(hidden)))], 1)


class _Transition(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, inputs // 2, 1, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.avg_pool2d(self.conv(functional.relu(self.norm(inputs))), 2)
