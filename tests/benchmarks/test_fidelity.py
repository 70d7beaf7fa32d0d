import json
import sys
from pathlib import Path

import numpy as np
import pytest
from training_helpers import SIDE, coloured_images

from benchmarks import fidelity
from metazoo.recover import GeneratorConfig, RecoveryConfig
from metazoo.zoo import TrainingConfig, build_zoo


def test_a_way_is_a_config_of_its_iterations() -> None:
    assert fidelity.config_of("pixels:7") == RecoveryConfig(iterations=7)
    assert fidelity.config_of("generator:9") == GeneratorConfig(iterations=9)


def test_students_of_real_and_of_recovered_images_are_measured_on_images_that_nobody_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, pack = coloured_images(4, SIDE), tmp_path / "pack.npz"
    pixels = images.images.permute(0, 2, 3, 1).numpy()
    np.savez(pack, images=pixels, labels=images.labels.numpy(), class_names=np.array(images.class_names))
    build_zoo(tmp_path / "zoo", images, "conv4", 1, 3, config=TrainingConfig(epochs=8), width=4, workers=1)
    words = ["--zoo", tmp_path / "zoo", "--data", pack, "--out", tmp_path / "out.json", "--images-per-class", "12"]
    words += ["--steps", "120", "--ways", "pixels:0,pixels:40", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["fidelity", *map(str, words)])
    fidelity.main()
    (row,) = json.loads((tmp_path / "out.json").read_text())
    assert row["real"] > 60  # the classes are three colours
    assert row["pixels:40"]["accuracy"] > row["pixels:0"]["accuracy"]
    assert row["pixels:0"]["images_per_second"] > row["pixels:40"]["images_per_second"] > 0
