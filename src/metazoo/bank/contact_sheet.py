"""Contact sheet of the images recovered from one teacher."""

import io
import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import torch
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from metazoo.errors import DataError
from metazoo.storage.artefacts import write_bytes

_FONT, _BOLD_FONT = "DejaVuSans.ttf", "DejaVuSans-Bold.ttf"
_BACKGROUND, _TEXT, _FAINT = (250, 250, 248), (34, 34, 34), (120, 120, 116)
_MARGIN, _GAP, _LABEL_WIDTH = 24, 6, 190
_TITLE_SIZE, _TEXT_SIZE, _LINE = 20, 14, 18
_LEAST_CELL, _LARGEST_CELL = 72, 96
_MOST_LINES = 3
# Joiner of emoji and selector of their coloured form, which have no glyphs.
_JOINERS = "\u200d\ufe0f"


def contact_sheet(
    path: Path | str,
    images: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    *,
    title: str,
    note: str = "",
    images_per_class: int = 10,
    most_classes: int = 24,
) -> None:
    """Write a PNG with one row per class: its name, then its first images, enlarged without smoothing.

    Args:
        path: file to write, atomically.
        images: images, uint8 [n, 1 or 3, side, side].
        labels: indices into `class_names`, int64 [n].
        class_names: names of the classes.
        title: heading, such as the name of the teacher.
        note: line under the heading.
        images_per_class: most images in a row.
        most_classes: most rows, which bounds the size of the sheet; a line tells the number of further classes.

    Raises:
        DataError: there are no images, or images, labels and names do not fit.
        ArtefactError: the file cannot be written.
    """
    if images.dim() != 4 or not len(images) or images.shape[1] not in (1, 3) or labels.shape != images.shape[:1]:
        problem = f"images must be [n, 1 or 3, side, side] with n labels, not {list(images.shape)}"
        raise DataError("contact sheet", problem)
    present: list[int] = labels.unique().tolist()
    if not 0 <= present[0] <= present[-1] < len(class_names):
        problem = f"labels from {present[0]} to {present[-1]} do not fit {len(class_names)} class names"
        raise DataError("contact sheet", problem)
    rows = [torch.nonzero(labels == label).flatten()[:images_per_class] for label in present[:most_classes]]
    cell = _cell_side(images.shape[-1])
    columns = max(len(row) for row in rows)
    top = _MARGIN + _TITLE_SIZE + 8 + (_LINE if note else 0) + 12
    bottom = _LINE + 8 if len(present) > most_classes else 0
    width = 2 * _MARGIN + _LABEL_WIDTH + max(columns, 4) * (cell + _GAP)
    height = top + len(rows) * (cell + _GAP) - _GAP + bottom + _MARGIN
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    inner = width - 2 * _MARGIN
    draw.text(
        (_MARGIN, _MARGIN),
        _clipped(title, _font(_BOLD_FONT, _TITLE_SIZE), inner),
        _TEXT,
        _font(_BOLD_FONT, _TITLE_SIZE),
    )
    if note:
        line = _clipped(note, _font(_FONT, _TEXT_SIZE), inner)
        draw.text((_MARGIN, _MARGIN + _TITLE_SIZE + 10), line, _FAINT, _font(_FONT, _TEXT_SIZE))
    for number, (label, row) in enumerate(zip(present, rows, strict=False)):
        y = top + number * (cell + _GAP)
        _draw_label(draw, class_names[label], y + cell / 2)
        for column, position in enumerate(row.tolist()):
            x = _MARGIN + _LABEL_WIDTH + column * (cell + _GAP)
            sheet.paste(_picture(images[position], cell), (x, y))
    if bottom:
        line = f"and {len(present) - most_classes} more"
        draw.text((_MARGIN, height - _MARGIN - _LINE + 2), line, _FAINT, _font(_FONT, _TEXT_SIZE))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def _cell_side(side: int) -> int:
    """Side of a cell: a whole multiple of the side of small images, so that all pixels are squares of one size."""
    return side * -(-_LEAST_CELL // side) if side <= _LARGEST_CELL else _LARGEST_CELL


def _picture(image: Tensor, cell: int) -> Image.Image:
    pixels = image.expand(3, -1, -1).permute(1, 2, 0).contiguous().cpu().numpy()
    smooth = image.shape[-1] > cell
    return Image.fromarray(pixels).resize(
        (cell, cell), Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    )


def _draw_label(draw: ImageDraw.ImageDraw, name: str, middle: float) -> None:
    font, width = _font(_FONT, _TEXT_SIZE), _LABEL_WIDTH - 16
    lines = _wrapped(_shown(name), font, width)
    lines[_MOST_LINES - 1 :] = ["".join(lines[_MOST_LINES - 1 :])]
    lines = [_clipped(line.strip(), font, width) for line in lines if line.strip()]
    y = middle - len(lines) * _LINE / 2
    for line in lines:
        draw.text((_MARGIN, y), line, _TEXT, font)
        y += _LINE


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for piece in re.findall(r"[^\s/_-]*(?:[\s/_-]|$)", text):
        if font.getlength((lines[-1] + piece).strip()) > width:
            lines.append("")
        lines[-1] += piece
    return lines


def _clipped(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    text = _shown(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _shown(text: str) -> str:
    """Replace emoji that the font lacks by names such as `[fox face]`, and other missing characters by escapes."""
    known = _characters()
    return "".join(c if ord(c) in known and c.isprintable() else _named(c) for c in text[:300])


def _named(character: str) -> str:
    if character in _JOINERS:
        return ""
    is_symbol = unicodedata.category(character).startswith("S")
    return f"[{unicodedata.name(character).lower()}]" if is_symbol else ascii(character)[1:-1]


@cache
def _characters() -> frozenset[int]:
    with TTFont(_font_file(_FONT), lazy=True) as font:
        return frozenset(font.getBestCmap() or {})


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_font_file(name)), size, layout_engine=ImageFont.Layout.BASIC)


def _font_file(name: str) -> Path:
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    if not path.is_file():
        raise DataError(path, "the font is missing", "reinstall matplotlib, which contains the fonts")
    return path
