"""Embedded data set of characters of many scripts."""

from metazoo.data.glyphs.glyph_classes import glyphs_of, scripts
from metazoo.data.glyphs.glyphs import load_glyphs, render_glyph

__all__ = ["glyphs_of", "load_glyphs", "render_glyph", "scripts"]
