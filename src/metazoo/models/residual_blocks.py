"""The two residual blocks of He et al. 2016 (arXiv:1512.03385), figure 5."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional


class ResidualBlock(nn.Module, ABC):
    """A rectified sum of a residual and a shortcut; a subclass sets `stride` and `shortcut`."""

    expansion: ClassVar[int]
    """Output channels as a multiple of the block's width."""

    stride: int
    shortcut: nn.Module

    @abstractmethod
    def residual(self, inputs: Tensor) -> Tensor:
        """What is added to the shortcut."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Activations [n, expansion width, ceil(h / stride), ceil(w / stride)], all at least 0."""
        # The same as a strided 1x1 convolution, whose gradient can crash oneDNN with several threads (torch 2.15, CPU).
        shortcut = self.shortcut(inputs[:, :, :: self.stride, :: self.stride])
        return functional.relu(self.residual(inputs) + shortcut)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions of `width` channels, the first with the stride."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        self.stride = stride
        self.shortcut = _shortcut(inputs, width, stride)

    def residual(self, inputs: Tensor) -> Tensor:  # noqa: D102
        hidden = functional.relu(self.first_norm(self.first(inputs)))
        return self.second_norm(self.second(hidden))


class BottleneckBlock(ResidualBlock):
    """Convolutions of 1x1, 3x3 and 1x1 with `width`, `width` and 4 `width` channels.

    The 3x3 convolution has the stride, as in torchvision (He et al.: the first).
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.first = nn.Conv2d(inputs, width, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        self.third = nn.Conv2d(width, outputs, 1, bias=False)
        self.third_norm = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.shortcut = _shortcut(inputs, outputs, stride)

    def residual(self, inputs: Tensor) -> Tensor:  # noqa: D102
        hidden = functional.relu(self.first_norm(self.first(inputs)))
        hidden = functional.relu(self.second_norm(self.second(hidden)))
        return self.third_norm(self.third(hidden))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The identity where it fits, else a 1x1 convolution and batch norm; its input comes subsampled already."""
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
