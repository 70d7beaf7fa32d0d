"""Augmentation by shift and flip.

The published code draws one crop and one flip for a whole batch. `ShiftAndFlip` draws them for each image, at the same
cost, and is used wherever published code need not be followed.

Drawing and applying are separate, so that the draws of many steps can be moved to a device in advance.
"""

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor
from torch.nn import functional


class Augmentation(ABC):
    """Random augmentation of a batch of images.

    Args:
        padding: largest shift in pixels.
    """

    def __init__(self, padding: int) -> None:
        self.padding = padding

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw the random numbers for a batch of `count` images, int64, with `generator`; both are on the CPU."""

    @abstractmethod
    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Augment `images` [n, c, h, w] (any range; differentiable) by `draws` on their device."""


@final
class ShiftAndFlip(Augmentation):
    """Independent shift and flip of each image; see `shift_and_flip`.

    Draws are [count, 3]: shift down, shift to the right, and whether mirrored.
    """

    def draw(self, count: int, generator: torch.Generator) -> Tensor:  # noqa: D102
        down = torch.randint(-self.padding, self.padding + 1, (count, 1), generator=generator)
        right = torch.randint(-self.padding, self.padding + 1, (count, 1), generator=generator)
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        return torch.cat([down, right, mirrored.long()], 1)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:  # noqa: D102
        count, channels, height, width = images.shape
        down, right, mirrored = draws.split(1, 1)
        # Clamping indices repeats the border without a padded copy.
        rows = (torch.arange(height, device=images.device) + down).clamp_(0, height - 1)
        columns = (torch.arange(width, device=images.device) + right).clamp_(0, width - 1)
        columns = torch.where(mirrored.bool(), columns.flip(1), columns)
        positions = (rows[:, :, None] * width + columns[:, None, :]).view(count, 1, height * width)
        moved = images.reshape(count, channels, height * width).gather(2, positions.expand(-1, channels, -1))
        return moved.view(count, channels, height, width)


@final
class CropAndFlipAlike(Augmentation):
    """Common crop and flip of all images; see `crop_and_flip_alike`.

    Draws are [3]: top row of the crop, left column, and whether mirrored.
    """

    def draw(self, count: int, generator: torch.Generator) -> Tensor:  # noqa: D102
        corner = torch.randint(0, 2 * self.padding + 1, (2,), generator=generator)
        mirrored = torch.rand(1, generator=generator) < 0.5
        return torch.cat([corner, mirrored.long()])

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:  # noqa: D102
        height, width = images.shape[-2:]
        down, right, mirrored = draws.split(1)
        rows = torch.arange(height, device=images.device) + down
        columns = torch.arange(width, device=images.device) + right
        columns = torch.where(mirrored.bool(), columns.flip(0), columns)
        return functional.pad(images, (self.padding,) * 4).index_select(2, rows).index_select(3, columns)


@final
class RollAlike(Augmentation):
    """Common circular shift of all images: what leaves on one side enters on the other.

    Draws are [2]: shift down, and shift to the right. This is the augmentation of inversion in PURER (CVPR 2023).
    """

    def draw(self, count: int, generator: torch.Generator) -> Tensor:  # noqa: D102
        return torch.randint(-self.padding, self.padding + 1, (2,), generator=generator)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:  # noqa: D102
        height, width = images.shape[-2:]
        rows = (torch.arange(height, device=images.device) - draws[0]) % height
        columns = (torch.arange(width, device=images.device) - draws[1]) % width
        return images.index_select(2, rows).index_select(3, columns)


def shift_and_flip(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shift each image by up to `padding` pixels in both axes and mirror it left to right with probability 1/2.

    Args:
        images: images [n, c, h, w] of any range; differentiable.
        padding: largest shift in pixels; the border is repeated outwards (the published code fills it with zeros,
            which draws black frames into recovered images).
        generator: source of the 3 n draws, on the CPU.

    Returns:
        Images of the same shape.
    """
    return _moved(images, ShiftAndFlip(padding), generator)


def crop_and_flip_alike(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shift all images by the same number of pixels, up to `padding`, with black borders, and mirror all or none.

    This follows the published code (TGR, ICML 2024). For arguments and result see `shift_and_flip`; there are 3 draws.
    """
    return _moved(images, CropAndFlipAlike(padding), generator)


def _moved(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    return augmentation.apply(images, augmentation.draw(len(images), generator).to(images.device))
