import unicodedata

import pytest
import torch
from error_checks import raises
from torch import Tensor
from torch.nn import functional

from metazoo.data import EpisodeList, load_images
from metazoo.data.glyphs.glyph_classes import FEWEST_CLASSES, glyphs_of, same_outline, scripts
from metazoo.data.glyphs.glyph_fonts import FACES, REFERENCE_FACE, SHAPE_EXTENT, faces_of, render_shape
from metazoo.data.glyphs.glyph_paint import CONTRAST, JITTER_VALUES, choose_colours, contrasting, jitter, luma
from metazoo.errors import UsageError


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_hundreds_of_classes_in_many_scripts() -> None:
    counts = {script: len(glyphs_of(script)) for script in scripts()}
    assert len(counts) >= 6
    assert min(counts.values()) >= FEWEST_CLASSES
    assert sum(counts.values()) >= 300
    names = [glyph.name for script in counts for glyph in glyphs_of(script)]
    assert len(set(names)) == len(names)
    assert "greek/GREEK SMALL LETTER ALPHA" in names


def test_a_shape_is_one_class_and_belongs_to_the_first_script() -> None:
    characters = {script: {glyph.character for glyph in glyphs_of(script)} for script in scripts()}
    assert {"A", "B", "O", "C"} <= characters["latin"]
    assert not characters["latin"] & {"c", "o", "x", "z"}
    assert not characters["greek"] & {"Α", "Β", "Ο", "Τ", "ο"}
    assert not characters["cyrillic"] & {"А", "В", "О", "С", "а", "Г", "Ф"}
    assert {"Γ", "Φ"} <= characters["greek"]
    assert {"Ж", "Я"} <= characters["cyrillic"]
    shapes = torch.stack([render_shape(g.character, REFERENCE_FACE, 48)[0] for s in characters for g in glyphs_of(s)])
    assert torch.equal(same_outline(shapes), torch.eye(len(shapes), dtype=torch.bool))


def test_outlines_are_compared_with_a_little_tolerance() -> None:
    ring = torch.zeros(48, 48)
    ring[8:40, 8:40] = 1
    ring[12:36, 12:36] = 0
    moved, dotted = ring.roll(1, 0), ring.clone()
    dotted[21:26, 21:26] = 1
    bold = functional.max_pool2d(ring[None, None], 3, 1, 1)[0, 0]
    alike = same_outline(torch.stack([ring, moved, bold, dotted]))
    assert alike[0].tolist() == [True, True, True, False]
    assert torch.equal(alike, alike.T)


def test_only_faces_that_really_draw_a_character_are_used() -> None:
    assert faces_of("A") == FACES
    assert faces_of(" ") == ()
    assert faces_of("\u4e2d") == ()
    assert all(face.startswith("DejaVuSans") for face in faces_of("\u0631"))
    # Computer Modern has this sign's code point, and another sign under it.
    assert not [face for face in faces_of("×") if face.startswith("cm")]
    for script in scripts():
        glyph = glyphs_of(script)[-1]
        assert unicodedata.name(glyph.character) in glyph.name
        assert all(0.01 < render_shape(glyph.character, face, 32)[0].mean() < 0.6 for face in glyph.faces)


@pytest.mark.parametrize("character", ["A", "ж", "ლ", "ש", "↝"])
def test_a_bare_shape_is_centred_and_whole(character: str) -> None:
    for face in faces_of(character):
        shape, (width, height) = render_shape(character, face, 64)
        assert max(width, height) == pytest.approx(SHAPE_EXTENT, abs=1 / 64)
        for axis, extent in ((0, width), (1, height)):
            inked = (shape.sum(axis) > 0).nonzero().flatten()
            assert int(inked[-1] - inked[0] + 1) == round(64 * extent)
            assert float(inked[-1] + inked[0] + 1) / 2 == pytest.approx(32, abs=0.6)


def test_jitter_moves_shapes_but_never_out_of_the_picture() -> None:
    square = torch.zeros(64, 64)
    square[10:54, 10:54] = 1
    usual = uniform(500, JITTER_VALUES)
    # Every amplitude at one of its two ends: the furthest that a shape can go.
    values = torch.cat([usual, usual.round()])
    count = len(values)
    warped = jitter(square.expand(count, 64, 64), torch.full((count, 2), 44 / 64), values)
    assert warped.shape == (count, 1, 32, 32)
    edge = torch.cat([warped[:, 0, 0], warped[:, 0, -1], warped[:, 0, :, 0], warped[:, 0, :, -1]], 1)
    assert float(edge.max()) == 0
    inside = warped[: len(usual)].sum((1, 2, 3))
    assert float(inside.std() / inside.mean()) > 0.1
    still = jitter(square[None], torch.full((1, 2), 44 / 64), torch.full((1, JITTER_VALUES), 0.5))
    assert torch.allclose(still[0, 0], functional.avg_pool2d(square[None], 2)[0], atol=1e-5)


def test_stroke_and_background_differ_enough() -> None:
    values = uniform(5000, 7)
    background, stroke = choose_colours(values)
    gap = luma(stroke) - luma(background)
    assert float(gap.abs().min()) > CONTRAST - 1e-5
    assert 0.85 < float((gap > 0).float().mean()) < 0.95
    for colours in (background, stroke):
        assert 0 <= float(colours.min()) <= float(colours.max()) <= 1
    far_apart = torch.tensor([[1.0, 1.0, 0.9]]), torch.tensor([[0.1, 0.0, 0.0]])
    assert torch.equal(contrasting(*far_apart), far_apart[0])


def test_a_picture_depends_on_seed_class_and_number_alone() -> None:
    greek = load_images("glyphs:greek", images_per_class=4)
    assert greek.images.shape == (4 * len(glyphs_of("greek")), 3, 32, 32)
    assert greek.name == "greek"
    assert greek.sha256 == load_images("glyphs:greek", images_per_class=4).sha256
    assert greek.sha256 != load_images("glyphs:greek", images_per_class=4, seed=1).sha256
    both = load_images("glyphs:hebrew, greek", images_per_class=2)
    assert both.name == "hebrew-greek"
    here = both.class_names.index("greek/GREEK SMALL LETTER ALPHA")
    there = greek.class_names.index("greek/GREEK SMALL LETTER ALPHA")
    assert torch.equal(both.images[both.indices_of(here)], greek.images[greek.indices_of(there)[:2]])
    first, second = greek.images[greek.indices_of(there)[:2]]
    assert not torch.equal(first, second)


def test_another_size_shows_the_same_picture() -> None:
    large = load_images("glyphs:hebrew", images_per_class=2, side=64)
    small = load_images("glyphs:hebrew", images_per_class=2, side=32)
    assert large.images.shape[2:] == (64, 64)
    pair = torch.stack([large.resized(32).images.float().flatten(1), small.images.float().flatten(1)])
    assert torch.corrcoef(pair.flatten(1))[0, 1] > 0.95


def test_raw_pixels_tell_a_little_and_not_much() -> None:
    images = load_images("glyphs:hebrew", images_per_class=30)
    pixels = functional.normalize(images.images.flatten(1).float(), dim=1)
    correct = []
    for episode in EpisodeList.draw(images, ways=5, shots=1, episodes=200):
        scores = pixels[episode.query_indices] @ pixels[episode.support_indices].T
        correct.append((scores.argmax(1) == episode.query_labels).float().mean())
    assert 0.23 < float(torch.stack(correct).mean()) < 0.45


@pytest.mark.parametrize("source", ["glyphs:klingon", "glyphs:", "glyphs:greek,greek", "glyphs:greek,"])
def test_a_wrong_script_is_wrong_use(source: str) -> None:
    with raises(UsageError, subject="glyphs", remedy="latin, greek"):
        load_images(source)


def test_no_images_are_wrong_use() -> None:
    with raises(UsageError, subject="images_per_class", problem="not 0"):
        load_images("glyphs:greek", images_per_class=0)
