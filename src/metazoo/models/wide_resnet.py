"""Wide residual networks for images of 32 pixels (Zagoruyko and Komodakis 2016, arXiv:1605.07146)."""

from typing import final

from torch import Tensor, nn
from torch.nn import functional

from metazoo.models.network import Network, check_number

_NAME = "wide-resnet"
_STEM = 16


@final
class WideResNet(Network):
    """Residual network of pre-activation blocks: three stages of (depth - 4) / 6 blocks of two 3x3 convolutions.

    Stages have 16, 32 and 64 times `width` channels, and the second and third halve the image. WRN-28-10 has 36,479,194
    parameters with 10 classes. The paper's dropout is left out.

    Args:
        classes: number of outputs of the head.
        channels: number of input channels, 1 or 3.
        input_size: side of the square images in pixels; any, since features are pooled.
        depth: number of layers, 6n + 4.
        width: widening factor, from 1 to 64.
        bias: whether convolutions have a bias, as in some scripts; it has no use before a batch norm.

    Raises:
        UsageError: `depth` or `width` is out of range.
    """

    def __init__(
        self, *, classes: int, channels: int, input_size: int, depth: int = 16, width: int = 4, bias: bool = False
    ) -> None:
        super().__init__()
        check_number(_NAME, "depth", depth, range(10, 257, 6))
        check_number(_NAME, "width", width, range(1, 65))
        blocks, widths = (depth - 4) // 6, [_STEM * width * 2**stage for stage in range(3)]
        self.conv1 = nn.Conv2d(channels, _STEM, 3, padding=1, bias=bias)
        self.layer1 = _stage(blocks, _STEM, widths[0], 1, bias)
        self.layer2 = _stage(blocks, widths[0], widths[1], 2, bias)
        self.layer3 = _stage(blocks, widths[1], widths[2], 2, bias)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.feature_size = widths[2]
        self.head = nn.Linear(self.feature_size, classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)

    def features(self, images: Tensor) -> Tensor:
        """Pooled activations of the last batch norm, all at least 0."""
        hidden = self.layer3(self.layer2(self.layer1(self.conv1(images))))
        return functional.relu(self.bn1(hidden)).mean((2, 3))


class _Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, bias: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=bias)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.shortcut = nn.Sequential()
        if inputs != width:
            self.shortcut.append(nn.Conv2d(inputs, width, 1, bias=bias))
        self._stride = stride

    def forward(self, inputs: Tensor) -> Tensor:
        activated = functional.relu(self.bn1(inputs))
        residual = self.conv2(functional.relu(self.bn2(self.conv1(activated))))
        # The shortcut of a block that changes the shape starts after the activation, all others before it.
        start = activated if len(self.shortcut) else inputs
        # Equals a strided 1x1 convolution, whose gradient can crash oneDNN with several threads (torch 2.15, CPU).
        return residual + self.shortcut(start[:, :, :: self._stride, :: self._stride])


def _stage(blocks: int, inputs: int, width: int, stride: int, bias: bool) -> nn.Sequential:
    first = _Block(inputs, width, stride, bias)
    return nn.Sequential(first, *(_Block(width, width, 1, bias) for _ in range(blocks - 1)))
