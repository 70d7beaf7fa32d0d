"""Residual networks for images of 32 pixels (He et al. 2016, arXiv:1512.03385, section 4.2)."""

from typing import Literal, final

from torch import Tensor, nn
from torch.nn import functional

from metazoo.errors import UsageError
from metazoo.models.network import Network


@final
class CifarResNet(Network):
    """Residual network of 6n + 2 layers: a convolution, three stages of n blocks of two convolutions, and a head.

    Tensors have the names of common training scripts, such as `layer1.0.conv1.weight`; the linear layer is `head`.

    Args:
        depth: number of layers, 6n + 2.
        classes: number of outputs of the head.
        channels: number of input channels, 1 or 3.
        input_size: side of the square images in pixels; any, since features are pooled.
        width: channels of the first stage, which later stages double.
        shortcut: shortcut where the shape changes. A: every second pixel, padded with channels of zeros, half on each
            side, without parameters (He et al.); B: 1x1 convolution and batch norm.

    Raises:
        UsageError: `shortcut` is neither A nor B.
    """

    def __init__(
        self,
        depth: int,
        *,
        classes: int,
        channels: int,
        input_size: int,
        width: int = 16,
        shortcut: Literal["A", "B"] = "A",
    ) -> None:
        super().__init__()
        if shortcut not in ("A", "B"):
            raise UsageError(f"cifar-resnet{depth}", f"shortcut must be A or B, not {shortcut!r}", "choose one of them")
        blocks, rest = divmod(depth - 2, 6)
        assert rest == 0
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(blocks, width, width, 1, shortcut)
        self.layer2 = _stage(blocks, width, 2 * width, 2, shortcut)
        self.layer3 = _stage(blocks, 2 * width, 4 * width, 2, shortcut)
        self.feature_size = 4 * width
        self.head = nn.Linear(self.feature_size, classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(part.weight)

    def features(self, images: Tensor) -> Tensor:
        """Pooled activations of the last block, all at least 0."""
        hidden = functional.relu(self.bn1(self.conv1(images)))
        return self.layer3(self.layer2(self.layer1(hidden))).mean((2, 3))


class _Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, shortcut: Literal["A", "B"]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != width:
            changed = nn.Sequential(nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width))
            self.shortcut = _PaddedChannels((width - inputs) // 2) if shortcut == "A" else changed
        self._stride = stride

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = functional.relu(self.bn1(self.conv1(inputs)))
        # Equals a strided 1x1 convolution, whose gradient can crash oneDNN with several threads (torch 2.15, CPU).
        return functional.relu(
            self.bn2(self.conv2(hidden)) + self.shortcut(inputs[:, :, :: self._stride, :: self._stride])
        )


class _PaddedChannels(nn.Module):
    def __init__(self, added: int) -> None:
        super().__init__()
        self._added = added

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.pad(inputs, (0, 0, 0, 0, self._added, self._added))


def _stage(blocks: int, inputs: int, width: int, stride: int, shortcut: Literal["A", "B"]) -> nn.Sequential:
    first = _Block(inputs, width, stride, shortcut)
    return nn.Sequential(first, *(_Block(width, width, 1, shortcut) for _ in range(blocks - 1)))
