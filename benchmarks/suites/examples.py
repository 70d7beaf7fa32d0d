"""Models and images that cost what real ones cost: random weights, random pixels."""

import atexit
import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from metazoo.data import ImageSet
from metazoo.models import ClassifierSpec, ImageClassifier, build_classifier
from metazoo.zoo import ModelContract, WhiteBoxTeacher


def scratch() -> Path:
    """A new folder, there until the process ends."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def classifier(
    architecture: str = "conv4", *, side: int = 32, classes: int = 5, width: int | None = None, seed: int = 0
) -> ImageClassifier:
    spec = ClassifierSpec(
        architecture=architecture,
        arguments={} if width is None else {"width": width},
        classes=classes,
        input_size=side,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    return build_classifier(spec, random(seed)).eval()


def teacher(architecture: str = "conv4", *, side: int = 32, width: int | None = None, seed: int = 0) -> WhiteBoxTeacher:
    model = classifier(architecture, side=side, width=width, seed=seed)
    contract = ModelContract(
        name=f"model-{seed}",
        spec=model.spec,
        class_names=tuple(f"class {index}" for index in range(model.spec.classes)),
        domain="noise",
        weights_sha256="0" * 64,
    )
    return WhiteBoxTeacher(contract, model)


def pixels(count: int, side: int, seed: int = 0) -> Tensor:
    """uint8 [count, 3, side, side]."""
    return torch.randint(0, 256, (count, 3, side, side), generator=random(seed), dtype=torch.uint8)


def image_set(classes: int, images: int, side: int) -> ImageSet:
    """`images` of every class."""
    labels = torch.arange(classes).repeat_interleave(images)
    return ImageSet(pixels(len(labels), side), labels, tuple(f"class {index}" for index in range(classes)))
