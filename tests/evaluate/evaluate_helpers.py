import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from rich.console import Console
from torch import Tensor

from metazoo.data import ImageSet
from metazoo.evaluate import Result, results_table
from metazoo.features.batch_norm import store_statistics
from metazoo.features.domain_router import DomainRecogniser
from metazoo.features.embedders import MultiDomainClassifier
from metazoo.models import ClassifierSpec, ImageClassifier, build_classifier
from metazoo.zoo import WhiteBoxTeacher


def classifier(
    seed: int = 0, architecture: str = "conv4", *, classes: int = 3, width: int = 4, size: int = 16
) -> ImageClassifier:
    """Untrained classifier with individual batch-norm and pixel statistics."""
    spec = ClassifierSpec(
        architecture=architecture,
        arguments={"width": width},
        classes=classes,
        input_size=size,
        mean=(0.5, 0.4 + seed / 100, 0.3),
        std=(0.25, 0.2, 0.3 + seed / 100),
    )
    made = build_classifier(spec, torch.Generator().manual_seed(seed)).eval()
    store_statistics(made, pictures(16, size, seed=100 + seed))
    return made.requires_grad_(False)


def of_two_domains() -> MultiDomainClassifier:
    """Two per-domain networks, both with a share in the episodes."""
    weight = 4 * torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    return MultiDomainClassifier([classifier(), classifier(1)], DomainRecogniser("ab", weight)).eval()


def pictures(count: int, side: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def noise_images(
    classes: int = 6, each: int = 12, side: int = 16, colour: float = 0.0, name: str = "noise"
) -> ImageSet:
    """Noise images mixed with a colour of the class in the proportion `colour`."""
    random = torch.Generator().manual_seed(classes)
    labels = torch.arange(classes).repeat_interleave(each)
    noise = torch.rand(len(labels), 3, side, side, generator=random)
    colours = torch.rand(classes, 3, 1, 1, generator=random)[labels]
    images = ((1 - colour) * noise + colour * colours).mul(255).to(torch.uint8)
    return ImageSet(images, labels, tuple(f"class {index}" for index in range(classes)), name=name)


@dataclass(frozen=True)
class FakeContract:
    name: str
    accuracy: float | None = None


@dataclass(frozen=True)
class FakeTeacher:
    contract: FakeContract
    classifier: ImageClassifier


def teacher(classifier: ImageClassifier, name: str = "a", accuracy: float | None = None) -> WhiteBoxTeacher:
    """Teacher with only the attributes that subjects need."""
    return cast(WhiteBoxTeacher, FakeTeacher(FakeContract(name, accuracy), classifier))


def plain_table(results: Sequence[Result], width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as shown:
        console.print(results_table(results))
    return "\n".join(line.rstrip() for line in shown.get().splitlines())
