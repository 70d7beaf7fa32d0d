"""Residual networks with the two blocks of He et al. 2016 (arXiv:1512.03385), figure 5."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from metazoo.models.network import Network


class ResidualBlock(nn.Module, ABC):
    """Rectified sum of a residual and a shortcut; a subclass sets `stride` and `shortcut`."""

    expansion: ClassVar[int]
    """Output channels as a multiple of the block's width."""

    stride: int
    shortcut: nn.Module

    @abstractmethod
    def residual(self, inputs: Tensor) -> Tensor:
        """Residual, which is added to the shortcut."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Activations [n, expansion width, ceil(h / stride), ceil(w / stride)], all at least 0."""
        # Equals a strided 1x1 convolution, whose gradient can crash oneDNN with several threads (torch 2.15, CPU).
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

    The 3x3 convolution has the stride, as in torchvision (in He et al., the first has it).
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
    """Identity if it fits, otherwise a 1x1 convolution and batch norm, for an already subsampled input."""
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


class ResNet(Network):
    """3x3 stem, four stages of residual blocks, global average pooling and a linear head.

    The stem keeps the size of the image and has batch norm but no pooling. Under the names `resnet18` and alike, it has
    no ReLU, as in the published data-free meta-learning code; under `cifar-resnet18` and alike, it has one, as in other
    scripts for CIFAR. Stages have blocks of `width`, 2, 4 and 8 times `width`; all but the first halve the size.
    Features: [n, 8 width], with bottleneck blocks [n, 32 width], for any input size.

    With the default width 64 and 5 classes of 3-channel images, `resnet10` has 4,900,677 parameters, `resnet18`
    11,171,397 and `resnet50` 23,510,597. Initial weights are torch's defaults.

    Args:
        stages: numbers of blocks of the four stages.
        block: type of the blocks.
        stem_activation: type of the last layer of the stem.
        classes: number of outputs of the head.
        channels: number of input channels, 1 or 3.
        input_size: side of the square images in pixels; not used.
        width: channels of the first stage.
    """

    def __init__(
        self,
        stages: Sequence[int],
        block: type[BasicBlock] | type[BottleneckBlock],
        stem_activation: type[nn.Identity] | type[nn.ReLU] = nn.Identity,
        /,
        *,
        classes: int,
        channels: int,
        input_size: int,
        width: int = 64,
    ) -> None:
        super().__init__()
        convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.stem = nn.Sequential(convolution, nn.BatchNorm2d(width), stem_activation())
        # In nearly all scripts, the stem has a ReLU, which leaves no trace among the tensors.
        self.has_usual_names = stem_activation is nn.ReLU
        self.stages, inputs = nn.Sequential(), width
        for index, count in enumerate(stages):
            blocks: list[ResidualBlock] = []
            for position in range(count):
                blocks.append(block(inputs, width * 2**index, 2 if index > 0 and position == 0 else 1))
                inputs = block.expansion * width * 2**index
            self.stages.append(nn.Sequential(*blocks))
        self.feature_size = inputs
        self.head = nn.Linear(self.feature_size, classes)

    def features(self, images: Tensor) -> Tensor:
        """Globally averaged activations of the last stage, all at least 0."""
        return self.stages(self.stem(images)).mean((2, 3))


class ThinResNet(Network):
    """3x3 stem and three stages of one residual block each, of `width`, 2 and 4 times `width` channels.

    The stem halves images of 32 pixels or more, so that the network trains in about a minute on two cores. Global
    average pooling gives features [n, 4 width] for any input size.
    """

    def __init__(self, *, classes: int, channels: int, input_size: int, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=2 if input_size >= 32 else 1, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.stages = nn.Sequential(
            BasicBlock(width, width, 1),
            BasicBlock(width, 2 * width, 2),
            BasicBlock(2 * width, 4 * width, 2),
        )
        self.feature_size = 4 * width
        self.head = nn.Linear(self.feature_size, classes)

    def features(self, images: Tensor) -> Tensor:
        """Globally averaged activations of the last stage, all at least 0."""
        return self.stages(self.stem(images)).mean((2, 3))
