"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381) for images of 32 pixels."""

from typing import final

from torch import Tensor, nn

from metazoo.models.network import Network

# Expansion, channels, blocks and stride of each stage. The stem and the second stage have stride 1 instead of 2.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_STEM, _LAST = 32, 1280


@final
class MobileNetV2(Network):
    """Inverted residual blocks with depthwise convolutions; images of 32 pixels are halved three times.

    With the default width, it has the 2,236,682 parameters of torchvision's network with 10 classes, under the same
    names, as `layers.1.conv.0.0.weight`. Dropout before the head is left out.

    Args:
        classes: number of outputs of the head.
        channels: number of input channels, 1 or 3.
        input_size: side of the square images in pixels; any, since features are pooled.
        width: channels of the stem; all others are scaled by `width` / 32 and rounded to multiples of 8, except that
            there are at least 1280 features. The paper's width multipliers 0.5 and 0.75 are 16 and 24.
    """

    def __init__(self, *, classes: int, channels: int, input_size: int, width: int = _STEM) -> None:
        super().__init__()
        scale = width / _STEM
        inputs = _rounded(_STEM * scale)
        self.layers = nn.Sequential(_convolution(channels, inputs, 3))
        for expansion, outputs, blocks, stride in _STAGES:
            for block in range(blocks):
                self.layers.append(_Block(inputs, _rounded(outputs * scale), stride if block == 0 else 1, expansion))
                inputs = _rounded(outputs * scale)
        self.feature_size = _rounded(_LAST * max(1.0, scale))
        self.layers.append(_convolution(inputs, self.feature_size, 1))
        self.head = nn.Linear(self.feature_size, classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)

    def features(self, images: Tensor) -> Tensor:
        """Pooled activations of the last convolution, in [0, 6]."""
        return self.layers(images).mean((2, 3))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.conv = nn.Sequential()
        if expansion != 1:
            self.conv.append(_convolution(inputs, inner, 1))
        self.conv.append(_convolution(inner, inner, 3, stride=stride, groups=inner))
        self.conv.extend([nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)])
        self._has_shortcut = stride == 1 and inputs == outputs

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.conv(inputs) if self._has_shortcut else self.conv(inputs)


def _convolution(inputs: int, outputs: int, side: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, side, stride=stride, padding=side // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU6())


def _rounded(number: float) -> int:
    """Nearest multiple of 8, at least 8 and at least nine tenths of `number`."""
    nearest = max(8, int(number + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * number else nearest
