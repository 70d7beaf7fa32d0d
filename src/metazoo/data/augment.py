"""Augmentation by shift and flip.

The published code draws one crop and one flip for a whole batch. One draw an image costs the same (all are one gather)
and leaves no place in the batch that is never moved, so that is what metazoo does where nothing published is followed.

Drawing and applying are separate: the draws of many steps can lie on a device before the first of them.
"""

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor
from torch.nn import functional


class Augmentation(ABC):
    """A way to move images.

    Args:
        padding: largest shift in pixels.
    """

    def __init__(self, padding: int) -> None:
        self.padding = padding

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw the random numbers of one batch of `count` images: int64 on the CPU, as is `generator`."""

    @abstractmethod
    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Move `images` [n, c, h, w] (any range; differentiable) by `draws` on their device; the same shape."""


@final
class ShiftAndFlip(Augmentation):
    """See `shift_and_flip`. Draws are [count, 3]: the shift down, the shift to the right, and whether mirrored."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:  # noqa: D102
        down = torch.randint(-self.padding, self.padding + 1, (count, 1), generator=generator)
        right = torch.randint(-self.padding, self.padding + 1, (count, 1), generator=generator)
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        return torch.cat([down, right, mirrored.long()], 1)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:  # noqa: D102
        count, channels, height, width = images.shape
        down, right, mirrored = draws.split(1, 1)
        # Cutting indices off at the border repeats the border, without a padded copy.
        rows = (torch.arange(height, device=images.device) + down).clamp_(0, height - 1)
        columns = (torch.arange(width, device=images.device) + right).clamp_(0, width - 1)
        columns = torch.where(mirrored.bool(), columns.flip(1), columns)
        positions = (rows[:, :, None] * width + columns[:, None, :]).view(count, 1, height * width)
        moved = images.reshape(count, channels, height * width).gather(2, positions.expand(-1, channels, -1))
        return moved.view(count, channels, height, width)


@final
class CropAndFlipAlike(Augmentation):
    """See `crop_and_flip_alike`. Draws are [3]: where the crop begins, down and to the right, and whether mirrored."""

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


def shift_and_flip(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shift each image by up to `padding` pixels in both axes and mirror it left to right with probability 1/2.

    Args:
        images: [n, c, h, w], any range; differentiable.
        padding: largest shift in pixels; the border is repeated outwards (the published code fills it with zeros,
            which draws black frames into recovered images).
        generator: source of the 3 n draws, on the CPU.

    Returns:
        Images of the same shape.
    """
    return _moved(images, ShiftAndFlip(padding), generator)


def crop_and_flip_alike(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shift all images alike by up to `padding` pixels, black coming in at the border, and mirror all or none.

    As published (TGR, ICML 2024, official code). Arguments and result as of `shift_and_flip`; 3 draws in all.
    """
    return _moved(images, CropAndFlipAlike(padding), generator)


def _moved(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    return augmentation.apply(images, augmentation.draw(len(images), generator).to(images.device))
