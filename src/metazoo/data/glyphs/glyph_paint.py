"""Appearance of the embedded data set: shape jitter, stroke and background colour, texture and noise."""

import torch
from torch import Tensor
from torch.nn import functional

# Background and stroke colour, polarity, strength of the texture and of the noise.
PAINT_VALUES = 3 + 3 + 1 + 2
# Side of a coarse field for each channel of background and stroke.
_CELLS = 5
PAINT_NORMALS = 6 * _CELLS**2

# Smallest difference in luma (range 0 to 1) between stroke and background, before texture.
CONTRAST = 0.35
# Probability that the stroke is brighter, and factor on the distance of a colour from grey.
_BRIGHT_STROKES = 0.9
_SATURATION = 0.4
_TEXTURE = 0.13
_NOISE = 0.05
_LUMA = (0.299, 0.587, 0.114)


def paint(coverage: Tensor, values: Tensor, normals: Tensor, noise: Tensor) -> Tensor:
    """Colour shapes.

    Args:
        coverage: shapes [n, 1, s, s] in [0, 1].
        values: uniform random numbers in [0, 1), [n, PAINT_VALUES].
        normals: standard normal random numbers [n, PAINT_NORMALS].
        noise: standard normal random numbers [n, 3, s, s].

    Returns:
        RGB images [n, 3, s, s] in [0, 1].
    """
    count, _, side, _ = coverage.shape
    background, stroke = choose_colours(values[:, :7])
    strengths = values[:, 7:, None, None, None] * torch.tensor([_TEXTURE, _NOISE]).view(2, 1, 1, 1)
    fields = normals.view(count, 6, _CELLS, _CELLS)
    texture = strengths[:, 0] * functional.interpolate(fields, size=(side, side), mode="bicubic", align_corners=False)
    ground = background[:, :, None, None] + texture[:, :3]
    ink = stroke[:, :, None, None] + texture[:, 3:]
    return (ground + (ink - ground) * coverage + strengths[:, 1] * noise).clamp(0, 1)


def luma(colours: Tensor) -> Tensor:
    """Brightness (ITU-R BT.601) [n] of RGB colours [n, 3]."""
    return colours @ torch.tensor(_LUMA)


def choose_colours(values: Tensor) -> tuple[Tensor, Tensor]:
    """Background and stroke colours, each [n, 3] in [0, 1], that differ by `CONTRAST` in luma, from values [n, 7]."""
    first = values[:, :3]
    second = contrasting(values[:, 3:6], first)
    first, second = (grey + _SATURATION * (c - grey) for c in (first, second) for grey in (luma(c)[:, None],))
    bright_stroke = values[:, 6] < _BRIGHT_STROKES
    swap = (luma(second) > luma(first)) != bright_stroke
    return torch.where(swap[:, None], second, first), torch.where(swap[:, None], first, second)


def contrasting(stroke: Tensor, background: Tensor) -> Tensor:
    """Mix faint stroke colours [n, 3] in [0, 1] with white (on dark) or black (on light) to reach `CONTRAST`."""
    ground, ink = luma(background), luma(stroke)
    dark = ground < 0.5
    target = torch.where(dark, ground + CONTRAST, ground - CONTRAST)
    end = dark.float()
    # Luma changes linearly with `part`, from the stroke to the end colour.
    part = ((target - ink) / (end - ink)).clamp(0, 1)
    faint = (ground - ink).abs() < CONTRAST
    return torch.where(faint[:, None], stroke + part[:, None] * (end[:, None] - stroke), stroke)


# Angle, shear, scale, stretch and shift along x and y, then the elastic displacement of a coarse grid of knots.
_KNOTS = 4
JITTER_VALUES = 6 + 2 * _KNOTS**2

_ANGLE = 0.3
_SHEAR = 0.25
_LOG_SCALE = 0.25
_LOG_STRETCH = 0.18
_SHIFT = 0.15
_BEND = 0.1
# Half-width of the part of the image, whose coordinates are in [-1, 1], that bent shapes stay in; leaves one pixel.
_INSIDE = 0.92


def jitter(shapes: Tensor, extents: Tensor, values: Tensor) -> Tensor:
    """Warp shapes at random and halve their resolution.

    Args:
        shapes: centred shapes [n, 2 s, 2 s], coverage in [0, 1].
        extents: width and height of the drawn part as fractions of the side [n, 2].
        values: uniform random numbers in [0, 1), [n, JITTER_VALUES].

    Returns:
        Coverage [n, 1, s, s] in [0, 1].
    """
    count, side = shapes.shape[:2]
    signed = 2 * values - 1
    # Bends move points by at most `_BEND`, so extents enlarged by it leave room for every bend.
    reach = extents + _BEND
    matrix = affine_matrix(signed[:, :4], reach)
    half = (matrix.abs() * reach[:, None]).sum(2)
    shift = signed[:, 4:6] * torch.minimum(torch.full_like(half, _SHIFT), (_INSIDE - half).clamp_min(0))
    # The grid gives the source of each pixel of the result, hence the inverse.
    inverse = torch.linalg.inv(matrix)
    theta = torch.cat([inverse, -inverse @ shift[:, :, None]], 2)
    grid = functional.affine_grid(theta, [count, 1, side, side], align_corners=False)
    knots = _BEND * signed[:, 6:].view(count, 2, _KNOTS, _KNOTS)
    # Cubic interpolation overshoots, hence the clamp.
    bends = functional.interpolate(knots, size=(side, side), mode="bicubic", align_corners=False).clamp(-_BEND, _BEND)
    warped = functional.grid_sample(shapes[:, None], grid + bends.permute(0, 2, 3, 1), align_corners=False)
    return functional.avg_pool2d(warped, 2)


def affine_matrix(signed: Tensor, reach: Tensor) -> Tensor:
    """Rotation x shear x stretch [n, 2, 2] from values in [-1, 1] [n, 4], shrunk if the shape would be cropped."""
    angle, shear = _ANGLE * signed[:, 0], _SHEAR * signed[:, 1]
    scale, stretch = torch.exp(_LOG_SCALE * signed[:, 2]), torch.exp(_LOG_STRETCH * signed[:, 3])
    along, across = scale * stretch, scale / stretch
    cosine, sine = angle.cos(), angle.sin()
    first = torch.stack([cosine * along, (shear * cosine - sine) * across], 1)
    second = torch.stack([sine * along, (shear * sine + cosine) * across], 1)
    matrix = torch.stack([first, second], 1)
    half = (matrix.abs() * reach[:, None]).sum(2).amax(1)
    return matrix * (_INSIDE / half).clamp_max(1)[:, None, None]
