"""Conv4, the four-block network of few-shot learning (Vinyals et al. 2016; Snell et al. 2017)."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from metazoo.models.network import Network, check_size

CONV4_BLOCKS = 4


class Conv4(Network):
    """Four blocks of [3x3 convolution with bias, batch norm, ReLU, max pool 2], flattened, and a linear head.

    With the default width 32, it has 29,541 parameters at 32 pixels and 32,901 at 84 (3 channels, 5 classes). Initial
    weights of convolutions are normal with variance 2 / (9 width), as in the published data-free meta-learning code.

    Args:
        classes: number of outputs of the head.
        channels: number of input channels, 1 or 3.
        input_size: side of the square images in pixels.
        width: channels of the blocks, or four numbers, one for each block.

    Raises:
        UsageError: `input_size` is below 16, so that nothing is left after four poolings.
    """

    def __init__(self, *, classes: int, channels: int, input_size: int, width: int | Sequence[int] = 32) -> None:
        super().__init__()
        check_size("conv4", input_size, 16)
        widths = (width,) * CONV4_BLOCKS if isinstance(width, int) else tuple(width)
        self.blocks = nn.Sequential(*map(_block, (channels, *widths), widths))
        self.feature_size = widths[-1] * (input_size // 16) ** 2
        self.head = nn.Linear(self.feature_size, classes)

    def features(self, images: Tensor) -> Tensor:
        """Flattened activations of the last block, all at least 0."""
        return self.blocks(images).flatten(1)


def _block(channels: int, width: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, 3, padding=1)
    nn.init.normal_(convolution.weight, std=math.sqrt(2 / (9 * width)))
    # ReLU after pooling gives the same result as before it, with a quarter of the work.
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.MaxPool2d(2), nn.ReLU())
