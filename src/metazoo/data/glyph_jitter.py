"""Geometry of the embedded data set: affine and elastic jitter of a bare shape, never out of the picture."""

import torch
from torch import Tensor
from torch.nn import functional

# Angle, shear, scale, stretch and shift along x and y, then the elastic displacement of a coarse grid of knots.
_KNOTS = 4
JITTER_VALUES = 6 + 2 * _KNOTS**2

_ANGLE = 0.3
_SHEAR = 0.25
_LOG_SCALE = 0.25
_LOG_STRETCH = 0.18
_SHIFT = 0.15
_BEND = 0.1
# Half-width of the part of the picture, itself [-1, 1], in which a bent shape must stay; a pixel's width is left over.
_INSIDE = 0.92


def jitter(shapes: Tensor, extents: Tensor, values: Tensor) -> Tensor:
    """Warp shapes at random and halve their resolution.

    Args:
        shapes: coverage [n, 2 s, 2 s] in [0, 1], centred.
        extents: width and height of the drawn part as fractions of the side [n, 2].
        values: uniform in [0, 1), [n, JITTER_VALUES].

    Returns:
        Coverage [n, 1, s, s] in [0, 1].
    """
    count, side = shapes.shape[:2]
    signed = 2 * values - 1
    # A bend moves no point further than this, so a straight shape that is wider by it has room for every bend.
    reach = extents + _BEND
    matrix = affine_matrix(signed[:, :4], reach)
    half = (matrix.abs() * reach[:, None]).sum(2)
    shift = signed[:, 4:6] * torch.minimum(torch.full_like(half, _SHIFT), (_INSIDE - half).clamp_min(0))
    # The grid says where each pixel of the result comes from, hence the inverse.
    inverse = torch.linalg.inv(matrix)
    theta = torch.cat([inverse, -inverse @ shift[:, :, None]], 2)
    grid = functional.affine_grid(theta, [count, 1, side, side], align_corners=False)
    knots = _BEND * signed[:, 6:].view(count, 2, _KNOTS, _KNOTS)
    # Cubic interpolation overshoots.
    bends = functional.interpolate(knots, size=(side, side), mode="bicubic", align_corners=False).clamp(-_BEND, _BEND)
    warped = functional.grid_sample(shapes[:, None], grid + bends.permute(0, 2, 3, 1), align_corners=False)
    return functional.avg_pool2d(warped, 2)


def affine_matrix(signed: Tensor, reach: Tensor) -> Tensor:
    """Rotation x shear x stretch [n, 2, 2] from values in [-1, 1] [n, 4], shrunk where the shape would be cropped."""
    angle, shear = _ANGLE * signed[:, 0], _SHEAR * signed[:, 1]
    scale, stretch = torch.exp(_LOG_SCALE * signed[:, 2]), torch.exp(_LOG_STRETCH * signed[:, 3])
    along, across = scale * stretch, scale / stretch
    cosine, sine = angle.cos(), angle.sin()
    first = torch.stack([cosine * along, (shear * cosine - sine) * across], 1)
    second = torch.stack([sine * along, (shear * sine + cosine) * across], 1)
    matrix = torch.stack([first, second], 1)
    half = (matrix.abs() * reach[:, None]).sum(2).amax(1)
    return matrix * (_INSIDE / half).clamp_max(1)[:, None, None]
