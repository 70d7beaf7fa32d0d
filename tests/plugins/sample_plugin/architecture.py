"""A small patch mixer, registered as the architecture `patch-mixer`."""

import torch
from torch import Tensor, nn

import metazoo
from metazoo.models import Network


@metazoo.register_architecture("patch-mixer")
class PatchMixer(Network):
    """Mixer of 4-pixel patches by depthwise and pointwise convolutions (Trockman and Kolter 2022), without batch norm.

    Args:
        classes: number of outputs of the head.
        channels: number of image channels, 1 or 3.
        input_size: side of the square images in pixels.
        width: number of feature channels, a multiple of 4.
        depth: number of mixing blocks.
    """

    def __init__(self, *, classes: int, channels: int, input_size: int, width: int = 16, depth: int = 2) -> None:
        super().__init__()
        if width % 4:
            raise ValueError(f"width must be a multiple of 4, not {width}")
        self.patches = nn.Conv2d(channels, width, kernel_size=4, stride=4)
        # A computed table, which is not part of the weights.
        row = torch.linspace(-1, 1, input_size // 4)
        self.register_buffer("positions", row[:, None] * row, persistent=False)
        self.blocks = nn.Sequential(*(_mixing_block(width) for _ in range(depth)))
        self.feature_size = width
        self.head = nn.Linear(width, classes)

    def features(self, images: Tensor) -> Tensor:
        """Mean of the patches."""
        return self.blocks(self.patches(images) + self.positions).mean((2, 3))


def _mixing_block(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width),
        nn.GELU(),
        nn.GroupNorm(4, width),
        nn.Conv2d(width, width, kernel_size=1),
        nn.GELU(),
        nn.GroupNorm(4, width),
    )
