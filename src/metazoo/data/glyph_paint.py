"""Appearance of the embedded data set: stroke and background colour, texture and noise."""

import torch
from torch import Tensor
from torch.nn import functional

# Background and stroke colour, polarity, strength of the texture and of the noise.
PAINT_VALUES = 3 + 3 + 1 + 2
# A coarse field for each channel of background and stroke.
_CELLS = 5
PAINT_NORMALS = 6 * _CELLS**2

# Least difference in luma between stroke and background before texture, of a range of 1.
CONTRAST = 0.35
# How often the stroke is the brighter one, and how much of a colour's distance from grey is kept.
_BRIGHT_STROKES = 0.9
_SATURATION = 0.4
_TEXTURE = 0.13
_NOISE = 0.05
_LUMA = (0.299, 0.587, 0.114)


def paint(coverage: Tensor, values: Tensor, normals: Tensor, noise: Tensor) -> Tensor:
    """Colour shapes.

    Args:
        coverage: [n, 1, s, s] in [0, 1].
        values: uniform in [0, 1), [n, PAINT_VALUES].
        normals: standard normal [n, PAINT_NORMALS].
        noise: standard normal [n, 3, s, s].

    Returns:
        RGB pictures [n, 3, s, s] in [0, 1].
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
    """Background and stroke colours, each [n, 3] in [0, 1], at least `CONTRAST` apart in luma, from values [n, 7]."""
    first = values[:, :3]
    second = contrasting(values[:, 3:6], first)
    first, second = (grey + _SATURATION * (c - grey) for c in (first, second) for grey in (luma(c)[:, None],))
    bright_stroke = values[:, 6] < _BRIGHT_STROKES
    swap = (luma(second) > luma(first)) != bright_stroke
    return torch.where(swap[:, None], second, first), torch.where(swap[:, None], first, second)


def contrasting(stroke: Tensor, background: Tensor) -> Tensor:
    """Stroke colours [n, 3] in [0, 1]; too faint ones mixed with white on dark, black on light, to reach `CONTRAST`."""
    ground, ink = luma(background), luma(stroke)
    dark = ground < 0.5
    target = torch.where(dark, ground + CONTRAST, ground - CONTRAST)
    end = dark.float()
    # Mixing by `part` moves the luma linearly from that of the stroke to that of the end colour.
    part = ((target - ink) / (end - ink)).clamp(0, 1)
    faint = (ground - ink).abs() < CONTRAST
    return torch.where(faint[:, None], stroke + part[:, None] * (end[:, None] - stroke), stroke)
