"""Studies killed at random moments end bit-equal, and can be read at any of them."""

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_helpers import OPTIONS, SIDE, coloured_images

if sys.platform == "win32":
    pytest.skip("needs fork and SIGKILL", allow_module_level=True)

from killed_studies import killed_studies

FLAT = {f"{section}.{key}": value for section, values in OPTIONS.items() for key, value in values.items()}
DISTILLATION = {key: value for key, value in FLAT.items() if not key.startswith(("probe", "grouping"))}
COSTS = ("seconds", "recovery_seconds", "workers", "core_seconds", "peak_memory")
"""Columns that depend on the machine."""


def study_in(folder: Path) -> dict[str, Any]:
    images = coloured_images(4, SIDE)
    pixels = images.images.permute(0, 2, 3, 1).numpy()
    path = folder / "colours.npz"
    np.savez(path, images=pixels, labels=images.labels.numpy(), class_names=np.array(images.class_names))
    part = {"data": "glyphs:nko", "models": 2, "ways": 3, "width": 4, "input_size": SIDE, "images_per_class": 6}
    return {
        "zoos": {"main": {"build": [part | {"training": {"epochs": 1}}]}},
        "data": str(path),
        "rows": [
            {"name": "tgr", "method": "tgr", "set": FLAT},
            {"name": "distillation", "method": "zoo-distillation", "set": DISTILLATION},
            {"name": "images", "method": "zoo-distillation", "unlabelled": str(path),
             "set": DISTILLATION | {"unlabelled.share": 0.5}},
            {"name": "ensemble", "method": "zoo-ensemble"},
            {"name": "best", "method": "best-model", "own_head": {"head": "ridge"}},
            {"name": "average", "method": "average"},
            {"name": "random", "method": "random", "set": {"meta_model.width": 4}},
        ],
        "seeds": [0, 1],
        "protocol": {"ways": 3, "shots": [1, 2], "episodes": 5, "queries": 2, "head": "nearest-mean"},
    }  # fmt: skip


def figures(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key not in COSTS} for row in csv.DictReader(file)]


def measured(out: Path) -> dict[str, bytes]:
    files = [*out.rglob("accuracy-*"), *out.rglob("meta-model/model.safetensors"), *out.glob("zoos/**/*.safetensors")]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files if path.is_file()}


@pytest.mark.torture
@pytest.mark.parametrize(("workers", "kills"), [(1, 30), (2, 8)])
def test_a_study_killed_at_random_moments_ends_bit_equal(tmp_path: Path, workers: int, kills: int) -> None:
    victims = ["study"] if workers == 1 else ["study", "worker"]
    found = killed_studies(study_in(tmp_path), tmp_path, workers, kills, victims)
    assert found["problems"] == []
    assert sum(found["kills"].values()) == kills
    expected, files = figures(tmp_path / "whole"), measured(tmp_path / "whole")
    assert len(expected) == 2 * (2 * 4 + 4)  # 1 and 2 shots; rows of two seeds, and others with `best` measured twice
    for name in found["studies"]:
        assert figures(tmp_path / name) == expected, name
        assert measured(tmp_path / name) == files, name
