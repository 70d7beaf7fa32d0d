from pathlib import Path

import pytest
import torch
from training_helpers import OPTIONS, SIDE, coloured_images, untrained

from benchmarks.other_images import (
    DRAWN,
    densities,
    fill_with_drawn_images,
    fill_with_real_images,
    fractals,
    learn_from_bank,
)
from metazoo.bank import Bank
from metazoo.methods.tgr import TgrConfig
from metazoo.runs.config import resolve_config
from metazoo.zoo import TrainingConfig, Zoo, build_zoo


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    return untrained(tmp_path / "zoo")


def learned(zoo: Zoo, bank: Bank, folder: Path) -> None:
    config = resolve_config(OPTIONS).options
    assert isinstance(config, TgrConfig)
    assert learn_from_bank(zoo, bank, config, 0, folder).spec.input_size == SIDE


@pytest.mark.parametrize("kind", DRAWN)
def test_drawn_images_have_the_classes_that_the_teacher_assigns(kind: str, zoo: Zoo, tmp_path: Path) -> None:
    bank = Bank.create(tmp_path / "bank")
    fill_with_drawn_images(bank, zoo, kind, 3, 0)
    for teacher in zoo.teachers():
        images, labels = bank.images_of(teacher.contract.name)
        assert len(images) == 3 * teacher.contract.spec.classes
        assert torch.equal(teacher(images.float() / 255).argmax(1), labels)
        assert torch.pdist(images.flatten(1).float()).min() > 0
    if kind == "noise":
        learned(zoo, bank, tmp_path / "run")


def test_real_images_are_those_of_the_classes_of_each_teacher(tmp_path: Path) -> None:
    real, bank = coloured_images(4, SIDE), Bank.create(tmp_path / "bank")
    zoo = build_zoo(tmp_path / "zoo", real, "conv4", 2, 3, config=TrainingConfig(epochs=1), width=4, workers=1)
    fill_with_real_images(bank, zoo, real, 4, 0)
    known = {image.numpy().tobytes(): label for image, label in zip(real.images, real.labels.tolist(), strict=True)}
    for contract in zoo:
        images, labels = bank.images_of(contract.name)
        assert torch.bincount(labels).tolist() == [4] * 3
        names = [real.class_names[known[image.numpy().tobytes()]] for image in images]
        assert names == [contract.class_names[label] for label in labels.tolist()]
    learned(zoo, bank, tmp_path / "run")


def test_a_fractal_is_one_figure_on_a_smooth_ground() -> None:
    images = fractals(40, 3, 32, torch.Generator().manual_seed(0))
    assert torch.pdist(images.flatten(1)).min() > 1
    density = densities(40, 32, torch.Generator().manual_seed(0))
    assert bool((density >= 0).all())
    assert density.amax((1, 2, 3)).tolist() == [1.0] * 40
    visited = (density > 0).float().mean((1, 2, 3))
    assert 0.02 < visited.min() < visited.median() < 0.95
