"""ShuffleNetV2 (Ma et al. 2018, arXiv:1807.11164) for images of 32 pixels."""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from metazoo.models.network import Network, check_number

_NAME = "shufflenet-v2"
_STEM, _BLOCKS = 24, (4, 8, 4)
# First stage from which the published networks have 2048 features instead of 1024.
_WIDE = 200


@final
class ShuffleNetV2(Network):
    """Three stages of blocks that transform half of the channels and shuffle them; images are halved three times.

    The stem has stride 1 and no pooling. The published networks have widths 48 (x0.5), 116 (x1.0, the default), 176
    (x1.5) and 244 (x2.0). Tensors have the names of torchvision, whose network has the same 1,263,854 parameters with
    10 classes.

    Args:
        classes: number of outputs of the head.
        channels: number of input channels, 1 or 3.
        input_size: side of the square images in pixels; any, since features are pooled.
        width: channels of the first stage, which later stages double: an even number.

    Raises:
        UsageError: `width` is odd.
    """

    def __init__(self, *, classes: int, channels: int, input_size: int, width: int = 116) -> None:
        super().__init__()
        check_number(_NAME, "width", width, range(2, 4097, 2))
        self.conv1 = nn.Sequential(nn.Conv2d(channels, _STEM, 3, padding=1, bias=False), nn.BatchNorm2d(_STEM))
        self.stage2 = _stage(_BLOCKS[0], _STEM, width)
        self.stage3 = _stage(_BLOCKS[1], width, 2 * width)
        self.stage4 = _stage(_BLOCKS[2], 2 * width, 4 * width)
        self.feature_size = 2048 if width >= _WIDE else 1024
        self.conv5 = nn.Sequential(
            nn.Conv2d(4 * width, self.feature_size, 1, bias=False), nn.BatchNorm2d(self.feature_size)
        )
        self.head = nn.Linear(self.feature_size, classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)

    def features(self, images: Tensor) -> Tensor:
        """Pooled activations of the last convolution, all at least 0."""
        hidden = functional.relu(self.conv1(images))
        hidden = self.stage4(self.stage3(self.stage2(hidden)))
        return functional.relu(self.conv5(hidden)).mean((2, 3))


class _Block(nn.Module):
    """Block that keeps the shape: one half of the channels is transformed, the other is passed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch2 = _branch(width // 2, width // 2, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        passed, transformed = inputs.chunk(2, 1)
        return _shuffled(torch.cat([passed, self.branch2(transformed)], 1))


class _HalvingBlock(nn.Module):
    """Block that halves the image: both branches transform all channels."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.branch1 = nn.Sequential(
            *_depthwise(inputs, 2), nn.Conv2d(inputs, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU()
        )
        self.branch2 = _branch(inputs, half, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return _shuffled(torch.cat([self.branch1(inputs), self.branch2(inputs)], 1))


def _branch(inputs: int, width: int, stride: int) -> nn.Sequential:
    first = (nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    last = (nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    return nn.Sequential(*first, *_depthwise(width, stride), *last)


def _depthwise(width: int, stride: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=False), nn.BatchNorm2d(width)


def _shuffled(values: Tensor) -> Tensor:
    """Channels of two halves, interleaved."""
    return values.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def _stage(blocks: int, inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(_HalvingBlock(inputs, width), *(_Block(width) for _ in range(blocks - 1)))
