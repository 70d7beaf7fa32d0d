"""Banks of drawn or real images in place of recovered ones, and learning from them; only studies have a use for that.

Drawn images are dead leaves, noise, fractals (attractors of random iterated function systems, as in Kataoka et al.
2020) and pictures of characters; each has the class that its teacher assigns to it. Real images are those of the
classes of each teacher, by name.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from metazoo.bank import Bank, ResidentBanks
from metazoo.data import ImageSet
from metazoo.data.glyphs.glyph_classes import glyphs_of, scripts
from metazoo.data.glyphs.glyphs import render_glyph
from metazoo.data.images import draw_of_each
from metazoo.execution.randomness import generator
from metazoo.methods.tgr import TgrConfig
from metazoo.models import ImageClassifier
from metazoo.pipeline.embedding_stage import embed_and_group
from metazoo.pipeline.layout import METRICS
from metazoo.pipeline.learning_stage import learn_from_groups
from metazoo.pipeline.workspace import Workspace
from metazoo.recover.start_images import start_images
from metazoo.storage.metrics import MetricsLog
from metazoo.storage.run_folder import RunFolder
from metazoo.taskspace import FixedGrouping
from metazoo.zoo import Zoo

Draw = Callable[[int, int, int, torch.Generator], Tensor]


def fill_with_drawn_images(bank: Bank, zoo: Zoo, kind: str, images_per_class: int, seed: int) -> None:
    """Store drawn images of `kind` (a key of `DRAWN`), as many of each teacher as it has classes, times the number."""
    for teacher in zoo.teachers():
        name, random = teacher.contract.name, generator(seed, "drawn images", teacher.contract.name)
        count = images_per_class * teacher.contract.spec.classes
        images = (DRAWN[kind](count, teacher.channels, teacher.input_size, random) * 255).round()
        with torch.no_grad():
            labels = torch.cat([teacher(part / 255).argmax(1) for part in images.split(256)])
        bank.add(name, 0, 0, images.to(torch.uint8), labels, made_with={"drawn": kind, "seed": seed})


def fill_with_real_images(bank: Bank, zoo: Zoo, images: ImageSet, images_per_class: int, seed: int) -> None:
    """Store up to `images_per_class` images of each class of every teacher, found by name in `images`."""
    for contract in zoo:
        random = generator(seed, "real images", contract.name)
        classes = [images.class_names.index(name) for name in contract.class_names]
        indices = draw_of_each(images.labels, classes, images_per_class, random)
        labels = torch.arange(len(indices)).repeat_interleave(torch.tensor([len(own) for own in indices]))
        made_with = {"data_sha256": images.sha256, "seed": seed}
        bank.add(contract.name, 0, 0, images.images[torch.cat(indices)], labels, made_with=made_with)


def learn_from_bank(zoo: Zoo, bank: Bank, config: TgrConfig, seed: int, folder: Path) -> ImageClassifier:
    """Embed, group and learn from a bank, as `tgr` does, without judging the teachers and without domains."""
    workspace = Workspace(
        zoo, RunFolder(folder), MetricsLog(folder / METRICS), seed, lambda: None, progress=False, images=False
    )
    banks = ResidentBanks(bank)
    grouping = FixedGrouping(embed_and_group(workspace, banks, config.probe, config.grouping))
    return learn_from_groups(workspace, banks, grouping, config.learning, config.meta_model).classifier


def glyphs(count: int, channels: int, side: int, generator: torch.Generator) -> Tensor:
    """Pictures of characters of all embedded scripts; see `metazoo.data.glyphs.glyphs`."""
    glyphs = [glyph for script in scripts() for glyph in glyphs_of(script)]
    chosen = torch.randint(len(glyphs), (count,), generator=generator).tolist()
    seeds = torch.randint(2**62, (count,), generator=generator).tolist()
    pictures = [render_glyph(glyphs[place], 1, side, seed) for place, seed in zip(chosen, seeds, strict=True)]
    images = torch.cat(pictures).float() / 255
    return images if channels == 3 else images.mean(1, keepdim=True)


_MAPS, _POINTS, _STEPS, _SETTLING = 4, 256, 96, 16


def fractals(count: int, channels: int, side: int, generator: torch.Generator) -> Tensor:
    """Draw attractors of random iterated function systems, one an image, in a colour of its own on a shaded ground.

    A system has `_MAPS` contracting affine maps; its attractor is drawn by the chaos game and fitted to the image.
    Kataoka et al. search for systems that fill a given share of the image; here a sparse one is simply a sparse image.

    Returns:
        [count, channels, side, side] in [0, 1].
    """
    density = densities(count, side, generator)
    ground = torch.rand(count, channels, 1, 1, generator=generator)
    slope = 0.3 * torch.randn(count, channels, 2, 1, 1, generator=generator)
    axis = torch.linspace(-1, 1, side)
    ground = ground + slope[:, :, 0] * axis[:, None] + slope[:, :, 1] * axis
    colour = torch.rand(count, channels, 1, 1, generator=generator)
    grain = 0.02 * torch.randn(count, channels, side, side, generator=generator)
    return (ground * (1 - density) + colour * density + grain).clamp(0, 1)


def densities(count: int, side: int, generator: torch.Generator) -> Tensor:
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


DRAWN: dict[str, Draw] = {
    "leaves": lambda *size: start_images("leaves", *size),
    "noise": lambda *size: start_images("noise", *size),
    "fractals": fractals,
    "glyphs": glyphs,
}
