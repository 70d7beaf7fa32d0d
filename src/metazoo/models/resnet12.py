"""ResNet-12 of few-shot learning (Oreshkin et al. 2018, arXiv:1805.10123; Lee et al. 2019, arXiv:1904.03758)."""

from typing import final

from torch import Tensor, nn
from torch.nn import functional

from metazoo.models.network import Network, check_size

_SLOPE = 0.1


@final
class ResNet12(Network):
    """Four residual blocks of three 3x3 convolutions, each with leaky ReLU (0.1) and max pool 2, and a linear head.

    With the default width, blocks have 64, 160, 320 and 640 channels, and 12,424,320 parameters without the head.
    DropBlock is left out. Tensors have the names of Lee et al., as `layer1.0.conv1.weight`.

    Args:
        classes: number of outputs of the head.
        channels: number of input channels, 1 or 3.
        input_size: side of the square images in pixels, at least 16.
        width: channels of the first block; blocks have 1, 2.5, 5 and 10 times as many.

    Raises:
        UsageError: `input_size` is below 16, so that nothing is left after four poolings.
    """

    def __init__(self, *, classes: int, channels: int, input_size: int, width: int = 64) -> None:
        super().__init__()
        check_size("resnet12", input_size, 16)
        widths = (width, 5 * width // 2, 5 * width, 10 * width)
        self.layer1 = nn.Sequential(_Block(channels, widths[0]))
        self.layer2 = nn.Sequential(_Block(widths[0], widths[1]))
        self.layer3 = nn.Sequential(_Block(widths[1], widths[2]))
        self.layer4 = nn.Sequential(_Block(widths[2], widths[3]))
        self.feature_size = widths[3]
        self.head = nn.Linear(self.feature_size, classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, a=_SLOPE)

    def features(self, images: Tensor) -> Tensor:
        """Pooled activations of the last block, of any sign."""
        return self.layer4(self.layer3(self.layer2(self.layer1(images)))).mean((2, 3))


class _Block(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = functional.leaky_relu(self.bn1(self.conv1(inputs)), _SLOPE)
        hidden = functional.leaky_relu(self.bn2(self.conv2(hidden)), _SLOPE)
        hidden = self.bn3(self.conv3(hidden)) + self.shortcut(inputs)
        return functional.max_pool2d(functional.leaky_relu(hidden, _SLOPE), 2)
