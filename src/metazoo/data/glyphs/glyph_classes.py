"""Classes of the embedded data set: characters by script, without duplicate outlines."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from metazoo.data.glyphs.glyph_fonts import REFERENCE_FACE, faces_of, render_shape
from metazoo.errors import UsageError

FEWEST_CLASSES = 20

# A shape that several scripts share belongs to the first of them.
_BLOCKS: dict[str, tuple[range, ...]] = {
    "latin": (range(0x41, 0x5B), range(0x61, 0x7B)),
    "greek": (range(0x391, 0x3AA), range(0x3B1, 0x3CA)),
    "cyrillic": (range(0x410, 0x450), range(0x402, 0x410), range(0x460, 0x482)),
    "armenian": (range(0x531, 0x557), range(0x561, 0x587)),
    "georgian": (range(0x10D0, 0x10FB), range(0x10A0, 0x10C6)),
    "hebrew": (range(0x5D0, 0x5EB),),
    "arabic": (range(0x621, 0x64B),),
    "lao": (range(0xE81, 0xEDE),),
    "nko": (range(0x7C0, 0x7EB),),
    "tifinagh": (range(0x2D30, 0x2D68),),
    "syllabics": (range(0x1401, 0x1677),),
    "arrows": (range(0x2190, 0x2200),),
    "mathematics": (range(0x2200, 0x2300),),
    "pictograms": (range(0x2600, 0x2680),),
}

# Letters, digits and symbols; combining marks have no separate shape.
_CATEGORIES = frozenset({"Lu", "Ll", "Lo", "Nd", "Sm", "So"})

# Characters whose difference from others (a dot or a stroke) is invisible at 32 pixels, and single dots.
_TOO_FINE = {
    "syllabics": re.compile(r"(AA|II|OO|AAI|W[AEIO]?)$|FINAL"),
    "mathematics": re.compile(r"\bNOT\b|NEITHER|EQUAL|DOT OPERATOR|DIVIDES"),
}

_SIDE = 48
_TOLERANCE = 2
_COVERED = 0.985


@dataclass(frozen=True)
class Glyph:
    """Class of the data set: a character of a script, and the font faces that draw it."""

    script: str
    character: str
    faces: tuple[str, ...]

    @property
    def name(self) -> str:
        """Class name `script/UNICODE NAME`."""
        return f"{self.script}/{unicodedata.name(self.character)}"


def scripts() -> tuple[str, ...]:
    """Names of the scripts with at least `FEWEST_CLASSES` classes, each one domain."""
    return tuple(_classes())


def glyphs_of(script: str) -> tuple[Glyph, ...]:
    """Classes of one script, in a fixed order.

    Raises:
        UsageError: unknown script.
    """
    if script not in _classes():
        raise UsageError("glyphs", f"unknown script {script!r}", f"choose from {', '.join(_classes())}")
    return _classes()[script]


@cache
def _classes() -> dict[str, tuple[Glyph, ...]]:
    candidates = list(_candidates())
    shapes = torch.stack([render_shape(glyph.character, REFERENCE_FACE, _SIDE)[0] for glyph in candidates])
    alike = same_outline(shapes)
    kept: list[int] = []
    for index in range(len(candidates)):
        if not bool(alike[index, kept].any()):
            kept.append(index)
    classes = {script: tuple(candidates[i] for i in kept if candidates[i].script == script) for script in _BLOCKS}
    return {script: glyphs for script, glyphs in classes.items() if len(glyphs) >= FEWEST_CLASSES}


def _candidates() -> Iterator[Glyph]:
    for script, blocks in _BLOCKS.items():
        for character in (chr(code) for block in blocks for code in block):
            if unicodedata.category(character) not in _CATEGORIES:
                continue
            if script in _TOO_FINE and _TOO_FINE[script].search(unicodedata.name(character)):
                continue
            faces = faces_of(character)
            if REFERENCE_FACE in faces:
                yield Glyph(script, character, faces)


def same_outline(shapes: Tensor) -> Tensor:
    """Whether centred shapes [n, s, s] (coverage in [0, 1]) have the same outline: bool [n, n], symmetric.

    Two shapes are the same if nearly all ink of either is within `_TOLERANCE` pixels of the other's ink. A heavier
    small capital then equals its capital, while an additional dot or bar makes a difference.
    """
    ink = (shapes > 0.5).float()
    near = functional.max_pool2d(ink[:, None], 2 * _TOLERANCE + 1, 1, _TOLERANCE).flatten(1)
    ink = ink.flatten(1)
    covered = ink @ near.T / ink.sum(1, keepdim=True).clamp_min(1) > _COVERED
    return covered & covered.T
