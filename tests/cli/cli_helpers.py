from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from image_folders import SIDE, write_images

from metazoo.cli import main
from metazoo.storage.artefacts import read_json, write_json
from metazoo.storage.tensor_files import read_tensors, write_tensors

CONFIG = {
    "recovery": {"iterations": 4},
    "budget": {"images_per_class": 4},
    "probe": {"steps": 3, "fisher_images": 8, "width": 4, "input_size": 16},
    "learning": {"steps": 6, "views": 48, "steps_per_views": 3, "calibration_images": 64},
    "meta_model": {"width": 4},
}


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Workshop:
    """A folder with `zoo` (2 models), `run`, `classifier`, and images: `seen`, `unseen`, `support`."""

    folder: Path

    def __getattr__(self, name: str) -> Path:
        return self.folder / name.replace("_", "-")


def call(*words: object) -> int:
    """Run one command in this process and return its exit code."""
    try:
        return main([str(word) for word in words])
    except SystemExit as stop:  # --help and --version
        return int(stop.code or 0)


def make_workshop(folder: Path) -> Workshop:
    workshop = Workshop(folder)
    write_images(workshop.seen, classes=4, each=8)
    write_images(workshop.unseen, classes=6, each=8, first=10)
    write_images(workshop.support, classes=3, each=2, first=20)
    build = ("zoo", "build", workshop.zoo, "--data", workshop.seen, "--models", 2, "--ways", 3)
    assert call(*build, "--width", 4, "--input-size", SIDE, "--epochs", 2, "--workers", 1) == 0
    write_json(workshop.config, CONFIG)  # JSON is YAML
    train = ("train", "--zoo", workshop.zoo, "--method", "tgr", "--out", workshop.run, "--config", workshop.config)
    assert call(*train, "--workers", 1, "--threads", 1) == 0
    assert call("adapt", workshop.run, "--support", workshop.support, "--out", workshop.classifier) == 0
    return workshop


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    content = read_json(path)
    change(content)
    write_json(path, content)


def edit_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> str:
    """Change tensors in a file and return its SHA-256."""
    tensors = read_tensors(path)
    change(tensors)
    return write_tensors(path, tensors)


def content(folder: Path) -> dict[str, bytes]:
    """Bytes of every file at any depth, except lock files."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".lock")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
