"""ResNet-10, -18 and -50 for small images, as the teachers of the data-free meta-learning papers are."""

from collections.abc import Sequence

from torch import Tensor, nn

from metazoo.models.network import Network
from metazoo.models.residual_blocks import BasicBlock, BottleneckBlock, ResidualBlock


class ResNet(Network):
    """A 3x3 stem, four stages of residual blocks, global average pooling and a linear head.

    The stem keeps the size of the image and, as in the published data-free meta-learning code, has batch norm but
    neither rectification nor pooling. Stages have blocks of `width`, 2, 4 and 8 times `width`; all but the first halve
    the size. Features: [n, 8 width], with bottleneck blocks [n, 32 width], for any input size.

    With the default width 64 and 5 classes of 3-channel images, `resnet10` has 4,900,677 parameters, `resnet18`
    11,171,397 and `resnet50` 23,510,597. Weights start as torch's layers do.

    Args:
        stages: blocks of each of the four stages.
        block: their kind.
        classes: outputs of the head.
        channels: 1 or 3.
        input_size: side of the square images in pixels; any will do.
        width: of the first stage.
    """

    def __init__(
        self,
        stages: Sequence[int],
        block: type[BasicBlock] | type[BottleneckBlock],
        *,
        classes: int,
        channels: int,
        input_size: int,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
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
