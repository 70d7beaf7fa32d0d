"""A tiny zoo's worth of recovered images, and teachers that are fixed maps of the pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from metazoo.bank import ResidentBank
from metazoo.learn.group_learning import Student
from metazoo.models import ClassifierSpec

SIDE = 16
FEATURE_SIZES, CLASS_COUNTS = (5, 3, 4), (3, 2, 2)
SPEC = ClassifierSpec(
    architecture="conv4",
    arguments={"width": 4},
    classes=5,
    input_size=SIDE,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
)


def resident_bank(counts: Sequence[int] = (9, 4, 6), side: int = SIDE) -> ResidentBank:
    """Random images, `counts` of each teacher."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (sum(counts), 3, side, side), generator=random, dtype=torch.uint8)
    starts = torch.tensor([0, *counts]).cumsum(0).tolist()
    names = tuple(f"teacher-{index}" for index in range(len(counts)))
    return ResidentBank(names, images, torch.zeros(sum(counts), dtype=torch.int64), tuple(starts))


def targets(images: Tensor) -> tuple[Tensor, Tensor]:
    """As `views.Targets`: features and logits of the three teachers, side by side."""
    random = torch.Generator().manual_seed(1)
    pooled = functional.adaptive_avg_pool2d(images - 0.5, 4).flatten(1)
    features = pooled @ torch.randn(48, sum(FEATURE_SIZES), generator=random).to(images.device)
    logits = 5 * pooled @ torch.randn(48, sum(CLASS_COUNTS), generator=random).to(images.device)
    return torch.cat([functional.normalize(part, dim=1) for part in features.split(FEATURE_SIZES, 1)], 1), logits


def student(seed: int = 0) -> Student:
    return Student(SPEC, FEATURE_SIZES, CLASS_COUNTS, seed)
