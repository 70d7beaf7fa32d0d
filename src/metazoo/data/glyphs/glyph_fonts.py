"""Fonts of the embedded data set, and shapes of their characters.

The fonts are part of matplotlib (DejaVu, STIX and Computer Modern, all free to redistribute), so nothing is downloaded.
Shapes are drawn by FreeType through Pillow; another version of FreeType may shade edge pixels differently.
"""

import contextlib
import logging
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from metazoo.errors import DataError

REFERENCE_FACE = "DejaVuSans"

_UNICODE_FACES = (
    *(REFERENCE_FACE, "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
)
# Computer Modern maps all its glyphs to Latin code points; only its letters are the characters of these code points.
_LATIN_FACES = ("cmr10", "cmb10", "cmss10", "cmtt10", "cmti10")
FACES = _UNICODE_FACES + _LATIN_FACES

# Fraction of the square that the longer edge of a shape fills.
SHAPE_EXTENT = 0.7


def faces_of(character: str) -> tuple[str, ...]:
    """Faces that draw `character`, with a glyph other than `.notdef` whose outline is not empty."""
    return tuple(face for face in FACES if _draws(face, ord(character)))


def render_shape(character: str, face: str, side: int) -> tuple[Tensor, tuple[float, float]]:
    """Draw the shape of a character, centred and scaled so that its longer edge fills `SHAPE_EXTENT` of a square.

    Letters that differ only in size (c and C) have the same shape, since sizes are jittered later.

    Returns:
        Coverage, float [side, side] in [0, 1], and (width, height) of the drawn part as fractions of `side`.

    Raises:
        DataError: the face draws nothing for this character.
    """
    font = _font(face, 2 * side)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(character))
    # Oblique strokes and FreeType's rounding may exceed the announced box a little.
    margin = max(2, side // 16)
    picture = Image.new("L", (max(1, right - left) + 2 * margin, max(1, bottom - top) + 2 * margin))
    ImageDraw.Draw(picture).text((margin - left, margin - top), character, fill=255, font=font)
    box = picture.getbbox()
    if box is None:
        raise DataError(f"font {face}", f"draws nothing for {character!r} (U+{ord(character):04X})")
    picture = picture.crop(box)
    scale = SHAPE_EXTENT * side / max(picture.size)
    width, height = (max(1, round(edge * scale)) for edge in picture.size)
    canvas = Image.new("L", (side, side))
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    canvas.paste(resized, ((side - width) // 2, (side - height) // 2))
    return torch.from_numpy(np.array(canvas)).float() / 255, (width / side, height / side)


def _font_file(face: str) -> Path:
    import matplotlib  # takes half a second, which only glyphs need

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    if not path.is_file():
        raise DataError(path, "font is missing", "install matplotlib again, which contains the fonts of the glyphs")
    return path


@cache
def _font(face: str, size: int) -> ImageFont.FreeTypeFont:
    # The basic layout draws single letters identically with and without the optional shaping library.
    return ImageFont.truetype(str(_font_file(face)), size, layout_engine=ImageFont.Layout.BASIC)


@cache
def _outlines(face: str) -> tuple[TTFont, dict[int, str]]:
    with _quiet_font_tools():
        font = TTFont(_font_file(face), lazy=True)
        # Loading the outlines reads the header, which causes warnings about unusual time stamps.
        font["glyf"]
    return font, font.getBestCmap() or {}


@cache
def _draws(face: str, code: int) -> bool:
    if face in _LATIN_FACES and not (chr(code).isascii() and chr(code).isalpha()):
        return False
    font, names = _outlines(face)
    name = names.get(code, ".notdef")
    return name != ".notdef" and font["glyf"][name].numberOfContours != 0


@contextlib.contextmanager
def _quiet_font_tools() -> Iterator[None]:
    logger = logging.getLogger("fontTools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
