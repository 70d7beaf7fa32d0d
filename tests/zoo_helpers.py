from pathlib import Path

import torch

from metazoo.data import ImageSet
from metazoo.models import ClassifierSpec, ImageClassifier, build_classifier
from metazoo.zoo import TrainingConfig, Zoo, build_zoo

SIDE = 8
BAD_NAMES = [
    "",
    ".",
    "..",
    ".hidden",
    "../out",
    "a/b",
    "a\\b",
    "/etc/passwd",
    "C:x",
    "a" * 101,
    "a\n",
    "é",
    "a b",
    "-x",
]


def coloured_images(classes: int = 6, each: int = 10, side: int = SIDE, name: str = "colours") -> ImageSet:
    """Noise around one colour a class, which a network learns in a few steps."""
    random = torch.Generator().manual_seed(classes)
    labels = torch.arange(classes).repeat_interleave(each)
    colours = torch.randint(40, 216, (classes, 3, 1, 1), generator=random)
    noise = torch.randint(-40, 40, (classes * each, 3, side, side), generator=random)
    images = (colours[labels] + noise).clamp(0, 255).to(torch.uint8)
    return ImageSet(images, labels, tuple(f"colour {index}" for index in range(classes)), name=name)


def classifier(architecture: str = "thin-resnet", classes: int = 3, seed: int = 0, size: int = 16) -> ImageClassifier:
    spec = ClassifierSpec(
        architecture=architecture,
        arguments={"width": 4},
        classes=classes,
        input_size=size,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.2, 0.3),
    )
    built = build_classifier(spec, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        built.train()(torch.rand(8, 3, size, size, generator=torch.Generator().manual_seed(seed + 1)))
    return built.eval()


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but those of the lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".lock")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def build_small(folder: Path) -> Zoo:
    """A zoo of two models, each trained for one step."""
    images = coloured_images(classes=3, each=4, name="small")
    config = TrainingConfig(epochs=1)
    return build_zoo(folder, images, "thin-resnet", models=2, ways=2, seed=0, config=config, width=4, workers=1)
