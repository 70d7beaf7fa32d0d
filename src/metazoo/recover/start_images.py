"""Starting images of pixel inversion.

Inversion moves a starting image only as far as the teacher asks. What the teacher does not ask for stays as it was, so
the start decides much of the low-level statistics that the recovered images bring to the meta-model. *Dead leaves*
(Lee, Mumford & Huang 2001; as a training source in Baradad et al. 2021) have the edges, the occlusions and roughly the
spectrum of photographs, from random numbers alone; *noise* is the start of the published pixel methods. All of them,
with *fractals* and *glyphs*, also serve as they are, without inversion, for comparison.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from metazoo.data.glyphs.glyph_classes import glyphs_of, scripts
from metazoo.data.glyphs.glyphs import render_glyph

StartImages = Literal["leaves", "noise", "fractals", "glyphs"]


def start_images(start: StartImages, count: int, channels: int, side: int, generator: torch.Generator) -> Tensor:
    """Draw `count` starting images [count, channels, side, side] in [0, 1]."""
    if start == "noise":
        return torch.rand(count, channels, side, side, generator=generator)
    if start == "fractals":
        return fractals(count, channels, side, generator)
    if start == "glyphs":
        return _glyphs(count, channels, side, generator)
    return dead_leaves(count, channels, side, generator)


def _glyphs(count: int, channels: int, side: int, generator: torch.Generator) -> Tensor:
    """Pictures of characters of all embedded scripts; see `metazoo.data.glyphs.glyphs`."""
    glyphs = [glyph for script in scripts() for glyph in glyphs_of(script)]
    chosen = torch.randint(len(glyphs), (count,), generator=generator).tolist()
    seeds = torch.randint(2**62, (count,), generator=generator).tolist()
    pictures = [render_glyph(glyphs[place], 1, side, seed) for place, seed in zip(chosen, seeds, strict=True)]
    images = torch.cat(pictures).float() / 255
    return images if channels == 3 else images.mean(1, keepdim=True)


def dead_leaves(count: int, channels: int, side: int, generator: torch.Generator, shapes: int = 24) -> Tensor:
    """Draw images of `shapes` overlapping shaded discs and rectangles, largest first, with fine coloured noise.

    Returns:
        [count, channels, side, side] in [0, 1].
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
