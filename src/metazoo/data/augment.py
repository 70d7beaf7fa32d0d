"""Augmentation by shift and flip.

The published code draws one crop and one flip for a whole batch. One draw an image costs the same (all are one gather)
and leaves no place in the batch that is never moved, so that is what metazoo does where nothing published is followed.
"""

import torch
from torch import Tensor
from torch.nn import functional


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
    count, channels, height, width = images.shape
    down = torch.randint(-padding, padding + 1, (count, 1), generator=generator)
    right = torch.randint(-padding, padding + 1, (count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    # Cutting indices off at the border repeats the border, without a padded copy.
    rows = (torch.arange(height) + down).clamp_(0, height - 1)
    columns = (torch.arange(width) + right).clamp_(0, width - 1)
    columns = torch.where(mirrored, columns.flip(1), columns)
    positions = (rows[:, :, None] * width + columns[:, None, :]).view(count, 1, height * width).to(images.device)
    moved = images.reshape(count, channels, height * width).gather(2, positions.expand(-1, channels, -1))
    return moved.view(count, channels, height, width)


def crop_and_flip_alike(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shift all images alike by up to `padding` pixels, black coming in at the border, and mirror all or none.

    As published (TGR, ICML 2024, official code). Arguments and result as of `shift_and_flip`; 3 draws in all.
    """
    height, width = images.shape[-2:]
    down, right = torch.randint(0, 2 * padding + 1, (2,), generator=generator).tolist()
    mirrored = bool(torch.rand((), generator=generator) < 0.5)
    cropped = functional.pad(images, (padding,) * 4)[..., down : down + height, right : right + width]
    return cropped.flip(-1) if mirrored else cropped
