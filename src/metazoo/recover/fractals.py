"""Coloured fractals: images from formulas, as used to pre-train networks without any picture (Kataoka et al. 2020)."""

import math

import torch
from torch import Tensor

_MAPS, _POINTS, _STEPS, _SETTLING = 4, 256, 96, 16


def fractals(count: int, channels: int, side: int, generator: torch.Generator) -> Tensor:
    """Draw attractors of random iterated function systems, one an image, in a colour of its own on a shaded ground.

    A system has `_MAPS` contracting affine maps; its attractor is drawn by the chaos game and fitted to the image.
    Kataoka et al. search for systems that fill a given share of the image; here a sparse one is simply a sparse image.

    Returns:
        [count, channels, side, side] in [0, 1].
    """
    density = _densities(count, side, generator)
    ground = torch.rand(count, channels, 1, 1, generator=generator)
    slope = 0.3 * torch.randn(count, channels, 2, 1, 1, generator=generator)
    axis = torch.linspace(-1, 1, side)
    ground = ground + slope[:, :, 0] * axis[:, None] + slope[:, :, 1] * axis
    colour = torch.rand(count, channels, 1, 1, generator=generator)
    grain = 0.02 * torch.randn(count, channels, side, side, generator=generator)
    return (ground * (1 - density) + colour * density + grain).clamp(0, 1)


def _densities(count: int, side: int, generator: torch.Generator) -> Tensor:
    """How often each pixel is visited, on a logarithmic scale: [count, 1, side, side] in [0, 1]."""
    angles = 2 * math.pi * torch.rand(count, _MAPS, 2, generator=generator)
    scales = 0.25 + 0.6 * torch.rand(count, _MAPS, 2, generator=generator)
    # A rotation, a scaling of each axis and another rotation: any affine map whose singular values are the scales.
    matrices = _rotations(angles[..., 0]) @ torch.diag_embed(scales) @ _rotations(angles[..., 1])
    offsets = 2 * torch.rand(count, _MAPS, 2, generator=generator) - 1
    points = torch.zeros(count, _POINTS, 2)
    rows, visited = torch.arange(count)[:, None], []
    for step in range(_STEPS):
        chosen = torch.randint(_MAPS, (count, _POINTS), generator=generator)
        points = (matrices[rows, chosen] @ points.unsqueeze(-1)).squeeze(-1) + offsets[rows, chosen]
        if step >= _SETTLING:
            visited.append(points)
    cloud = torch.cat(visited, 1)
    low, high = cloud.amin(1, keepdim=True), cloud.amax(1, keepdim=True)
    places = ((cloud - low) / (high - low).clamp_min(1e-6) * (side - 1)).round().long()
    visits = torch.zeros(count, side * side)
    visits.scatter_add_(1, places[..., 0] * side + places[..., 1], torch.ones(places.shape[:2]))
    density = visits.log1p()
    return (density / density.amax(1, keepdim=True)).view(count, 1, side, side)


def _rotations(angles: Tensor) -> Tensor:
    cosine, sine = angles.cos(), angles.sin()
    return torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], -2)
