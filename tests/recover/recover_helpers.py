"""Tiny teachers that learn a few letters in less than a second."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from metazoo.data.glyphs.glyph_classes import Glyph
from metazoo.data.glyphs.glyphs import render_glyph
from metazoo.models import ClassifierSpec, ImageClassifier, Network, build_classifier
from metazoo.recover import GeneratorConfig, Health, RecoveredImages, RecoveryConfig
from metazoo.zoo import ModelContract, WhiteBoxTeacher

LETTERS = "AOSXTLVHCE"
VISION_TRANSFORMER = ClassifierSpec(
    architecture="timm:test_vit",
    arguments={"patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 1},
    classes=4,
    input_size=16,
    mean=(0.5,) * 3,
    std=(0.25,) * 3,
)


class Plain(Network):
    """A network without batch norm, in no registry."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(channels, 12, 3, stride=2), nn.Conv2d(12, 16, 3, stride=2)
        self.feature_size = 16 * 9
        self.head = nn.Linear(self.feature_size, classes)

    def features(self, images: Tensor) -> Tensor:
        return functional.relu(self.second(functional.relu(self.first(images)))).flatten(1)


def spec_of(
    classes: int = 4, side: int = 16, channels: Literal[1, 3] = 3, architecture: str = "conv4"
) -> ClassifierSpec:
    return ClassifierSpec(
        architecture=architecture,
        arguments={"width": 8},
        classes=classes,
        input_size=side,
        channels=channels,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
    )


def letters(classes: int, side: int, channels: int = 3) -> tuple[Tensor, Tensor]:
    """30 images of every letter, float in [0, 1], and their labels."""
    glyphs = [Glyph("latin", letter, ("DejaVuSans", "DejaVuSerif")) for letter in LETTERS[:classes]]
    images = torch.cat([render_glyph(glyph, 30, side, seed=0) for glyph in glyphs]).float() / 255
    return images.mean(1, keepdim=True) if channels == 1 else images, torch.arange(classes).repeat_interleave(30)


def trained(spec: ClassifierSpec, *, batch_norm: bool = True, steps: int = 80) -> ImageClassifier:
    """A classifier that recognises its training letters."""
    random = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = build_classifier(spec, random)
        if not batch_norm:
            classifier = ImageClassifier(spec, Plain(spec.classes, spec.channels))
    images, labels = letters(spec.classes, spec.input_size, spec.channels)
    optimiser = torch.optim.Adam(classifier.parameters(), 0.01)
    for _ in range(steps):
        chosen = torch.randint(len(images), (48,), generator=random)
        optimiser.zero_grad()
        functional.cross_entropy(classifier(images[chosen]), labels[chosen]).backward()
        optimiser.step()
    optimiser.zero_grad()
    return classifier.eval()


def teacher_of(classifier: ImageClassifier, name: str = "letters") -> WhiteBoxTeacher:
    names = tuple(LETTERS[: classifier.spec.classes])
    contract = ModelContract(
        name=name, spec=classifier.spec, class_names=names, domain="letters", weights_sha256="0" * 64
    )
    return WhiteBoxTeacher(contract, classifier)


def recover(
    teacher: WhiteBoxTeacher,
    labels: Tensor,
    config: RecoveryConfig | GeneratorConfig,
    random: torch.Generator,
    *,
    check: Callable[[], None] = lambda: None,
    **options: Any,
) -> RecoveredImages:
    """Images of one bucket; `options` are keywords of `inversions`."""
    return next(config.inversions(teacher, [labels], random, **options)).run(check).best()


def distances(health: Health) -> tuple[float, float]:
    """Batch-norm distances at the end and at the start, for a teacher with batch norm."""
    assert health.batch_norm_distance is not None
    assert health.batch_norm_distance_at_start is not None
    return health.batch_norm_distance, health.batch_norm_distance_at_start
