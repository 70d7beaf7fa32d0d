"""Embedded data set: characters of many scripts in many faces, shapes, colours and textures, without download.

The randomness of each image is derived from (seed, class, number), so image k of a class does not depend on the other
classes and the number of images.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from metazoo.data.glyphs.glyph_classes import Glyph, glyphs_of, scripts
from metazoo.data.glyphs.glyph_fonts import render_shape
from metazoo.data.glyphs.glyph_paint import JITTER_VALUES, PAINT_NORMALS, PAINT_VALUES, jitter, paint
from metazoo.data.images import ImageSet
from metazoo.errors import UsageError
from metazoo.execution.randomness import generator


def load_glyphs(
    script_names: Sequence[str] | None = None, *, images_per_class: int = 100, side: int = 32, seed: int = 0
) -> ImageSet:
    """Render `images_per_class` images of each class of the given scripts (None for all).

    Returns:
        Images in the order of the classes, with class names `script/UNICODE NAME`. The set is named after its scripts,
        or `glyphs` if it has all of them.

    Raises:
        UsageError: a script is unknown or given twice, no script is given, or `images_per_class` is below 1.
    """
    names = scripts() if script_names is None else tuple(script_names)
    if not names or len(set(names)) < len(names):
        problem = f"duplicate or missing script in {', '.join(names) or 'nothing'}"
        raise UsageError("glyphs", problem, f"choose from {', '.join(scripts())}, each once")
    if images_per_class < 1:
        raise UsageError("images_per_class", f"must be at least 1, not {images_per_class}")
    glyphs = [glyph for name in names for glyph in glyphs_of(name)]
    images = torch.empty(len(glyphs), images_per_class, 3, side, side, dtype=torch.uint8)
    for position, glyph in enumerate(glyphs):
        images[position] = render_glyph(glyph, images_per_class, side, seed)
    return ImageSet(
        name="glyphs" if set(names) == set(scripts()) else "-".join(names),
        images=images.flatten(0, 1),
        labels=torch.arange(len(glyphs)).repeat_interleave(images_per_class),
        class_names=tuple(glyph.name for glyph in glyphs),
    )


def render_glyph(glyph: Glyph, count: int, side: int, seed: int) -> Tensor:
    """Render the first `count` images of one class, uint8 [count, 3, side, side]."""
    # Rendered at twice the size and averaged down, so that edges stay smooth after warping.
    drawn = [render_shape(glyph.character, face, 2 * side) for face in glyph.faces]
    shapes = torch.stack([shape for shape, _ in drawn])
    extents = torch.tensor([extent for _, extent in drawn])
    pictures = []
    for start in range(0, count, 256):
        values, normals, noise = _draw(seed, glyph.name, range(start, min(start + 256, count)), side)
        faces = (values[:, 0] * len(glyph.faces)).long()
        coverage = jitter(shapes[faces], extents[faces], values[:, 1 : 1 + JITTER_VALUES])
        pictures.append(paint(coverage, values[:, 1 + JITTER_VALUES :], normals, noise))
    return (torch.cat(pictures) * 255).round().to(torch.uint8)


def _draw(seed: int, name: str, numbers: range, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Uniform values, normals of the texture and pixel noise [n, 3, side, side]; only the noise depends on the side."""
    values = torch.empty(len(numbers), 1 + JITTER_VALUES + PAINT_VALUES)
    normals = torch.empty(len(numbers), PAINT_NORMALS)
    noise = torch.empty(len(numbers), 3, side, side)
    for row, number in enumerate(numbers):
        random = generator(seed, "glyphs", name, number)
        values[row].uniform_(generator=random)
        normals[row].normal_(generator=random)
        noise[row].normal_(generator=random)
    return values, normals, noise
