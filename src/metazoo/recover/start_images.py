"""Starting images of pixel inversion.

Inversion changes an image only as far as the loss depends on it, so the start determines many low-level statistics of
the recovered images. *Dead leaves* (Lee, Mumford & Huang 2001; as training data in Baradad et al. 2021) have the edges,
the occlusions and roughly the spectrum of photographs, from random numbers alone. *Noise* is the start of the published
pixel methods.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float32
from torch import Tensor

StartImages = Literal["leaves", "noise"]


def start_images(
    start: StartImages, count: int, channels: int, side: int, generator: torch.Generator
) -> Float32[Tensor, "{count} {channels} {side} {side}"]:
    """Draw `count` starting images in [0, 1]."""
    if start == "noise":
        return torch.rand(count, channels, side, side, generator=generator)
    return dead_leaves(count, channels, side, generator)


def dead_leaves(
    count: int, channels: int, side: int, generator: torch.Generator, shapes: int = 24
) -> Float32[Tensor, "{count} {channels} {side} {side}"]:
    """Draw images of `shapes` overlapping shaded discs and rectangles, largest first, with fine coloured noise.

    Returns:
        Images in [0, 1].
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    axis = torch.arange(side) + 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    images = uniform(count, channels, 1, 1).expand(count, channels, side, side).clone()
    for shape in range(shapes):
        radius = side * (0.05 + 0.45 * uniform(count).square()) * (1 - 0.6 * shape / shapes)
        aspect = 0.4 + 0.6 * uniform(count)
        angle = math.pi * uniform(count)
        column, row = (x - side * uniform(count, 1, 1)), (y - side * uniform(count, 1, 1))
        cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
        along = (cosine * column + sine * row) / radius[:, None, None]
        across = (cosine * row - sine * column) / (radius * aspect)[:, None, None]
        is_disc = uniform(count, 1, 1) < 0.5
        distance = torch.where(
            is_disc, (along.square() + across.square()).sqrt(), torch.maximum(along.abs(), across.abs())
        )
        cover = ((1 - distance) * radius[:, None, None] + 0.5).clamp(0, 1)[:, None]
        colour = 0.05 + 0.9 * uniform(count, channels, 1, 1)
        colour = 0.75 * colour + 0.25 * colour.mean(1, keepdim=True)
        shading = 0.1 * along * normal(count, 1, 1)
        images = images * (1 - cover) + cover * (colour + shading[:, None])
    grain = 0.03 * normal(count, 1, side, side) + 0.01 * normal(count, channels, side, side)
    return (images + grain).clamp(0, 1)
