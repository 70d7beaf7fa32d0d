"""A tiny zoo of unlike models, and runs on it that take a second."""

import hashlib
from pathlib import Path
from typing import Any

import torch

from metazoo.data import ImageSet
from metazoo.models import ClassifierSpec, build_classifier
from metazoo.zoo import TrainingConfig, Zoo, build_zoo
from metazoo.zoo.contract import Permission

SIDE = 16
BUDGET = {"images_per_class": 4, "bucket_size": 8}
OPTIONS: dict[str, Any] = {
    "recovery": {"iterations": 2},
    "budget": BUDGET,
    "probe": {"architecture": "conv4", "width": 4, "input_size": 16, "steps": 3, "batch_size": 8, "fisher_images": 4},
    "grouping": {"groups": 2},
    "learning": {
        "steps": 7,
        "teachers_per_step": 2,
        "batch_size": 8,
        "learning_rate": 0.01,
        "warm_up_steps": 2,
        "views": 20,
        "steps_per_views": 3,
        "calibration_images": 64,
    },
    "meta_model": {"architecture": "conv4", "width": 4, "input_size": 16},
}
# Of the preset `published`.
PUBLISHED_OPTIONS: dict[str, Any] = {
    "recovery": {"iterations": 2, "latent": 8, "width": 4},
    "budget": {"images_per_class": 6, "bucket_size": 12},
    "probe": {"width": 4, "input_size": 16, "steps": 3, "batch_size": 8, "fisher_images": 12},
    "grouping": {"groups": 2},
    "visits": {"teachers": 2, "images_per_class": 5},
    "learning": {
        "iterations": 3,
        "replay": {"shots": 1, "queries": 2, "episodes_per_update": 2, "patience": 1, "inner_steps": 2},
    },
    "meta_model": {"width": 4, "input_size": 16, "ways": 2},
}
# Of the method `free`, preset `published`.
FREE_OPTIONS: dict[str, Any] = {
    "generator": {"warm_up": 2, "latent": 8, "width": 4, "steps": 2},
    "visits": {"teachers": 2, "images_per_class": 5},
    "learning": {
        "iterations": 3,
        "replay": {"queries": 2, "episodes_per_update": 2, "patience": 1, "inner_steps": 2, "most_updates": 2},
    },
    "meta_model": {"width": 4, "input_size": 18, "ways": 2},
}
# Of the method `purer`, preset `default`.
PURER_OPTIONS: dict[str, Any] = {
    "method": "purer",
    "recovery": {"iterations": 2},
    "budget": {"images_per_class": 6, "bucket_size": 12},
    "inversion": {"teachers_per_step": 2},
    "learning": {
        "steps": 6,
        "start": 1,
        "patience": 1,
        "shots": 1,
        "queries": 2,
        "episodes_per_step": 2,
        "steps_per_inversion": 1,
    },
    "meta_model": {"width": 4, "input_size": 16, "ways": 2},
}
# Of the method `tdr`.
TDR_OPTIONS: dict[str, Any] = {
    "method": "tdr",
    "recovery": {"iterations": 2},
    "budget": {"images_per_class": 6, "bucket_size": 8},
    "refill": {"images_per_class": 3},
    "choice": {"models": 2, "steps_per_update": 2},
    "learning": {"steps": 7, "shots": 1, "queries": 2, "tasks_per_step": 2, "patience": 2, "slots": 2},
    "meta_model": {"architecture": "conv4", "width": 4, "input_size": 16, "ways": 2},
}


def coloured_images(classes: int, side: int) -> ImageSet:
    """Noise around one colour a class."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(8)
    colours = torch.randint(40, 216, (classes, 3, 1, 1), generator=random)
    noise = torch.randint(-40, 40, (len(labels), 3, side, side), generator=random)
    names = tuple(f"colour {index}" for index in range(classes))
    return ImageSet((colours[labels] + noise).clamp(0, 255).to(torch.uint8), labels, names, name="colours")


def build(folder: Path, grey: int = 1) -> Zoo:
    """Two conv4 of 3 classes, a thin-resnet of 2, and as many as asked of 4 that see grey at 20 pixels."""
    config, images = TrainingConfig(epochs=1), coloured_images(6, SIDE)
    build_zoo(folder, images, "conv4", models=2, ways=3, config=config, width=4, workers=1)
    build_zoo(folder, images, "thin-resnet", models=1, ways=2, config=config, width=4, workers=1)
    return build_zoo(
        folder, images, "thin-resnet", grey, 4,
        domain="grey", config=config, width=4, channels=1, input_size=20, workers=1,
    )  # fmt: skip


def untrained(folder: Path, domains: tuple[str, ...] = ("none", "none", "none")) -> Zoo:
    """A model of each of `domains` that knows nothing, made at once: conv4 of 3 classes, each third a thin-resnet of 2.

    Images recovered from a thin-resnet are to be discarded.
    """
    zoo = Zoo.create(folder)
    kinds: tuple[tuple[str, int, Permission], ...] = (
        ("conv4", 3, "show"),
        ("conv4", 3, "show"),
        ("thin-resnet", 2, "discard"),
    )
    for number, domain in enumerate(domains):
        architecture, classes, permission = kinds[number % len(kinds)]
        spec = ClassifierSpec(
            architecture=architecture, arguments={"width": 4}, classes=classes, input_size=SIDE,
            mean=(0.5,) * 3, std=(0.25,) * 3,
        )  # fmt: skip
        classifier = build_classifier(spec, torch.Generator().manual_seed(number))
        names = tuple("abc"[:classes])
        zoo.store(f"model-{number}", classifier, class_names=names, domain=domain, recovered_images=permission)
    return zoo


def content(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder but those of the lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".lock")]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
