"""Models of other libraries beside own ones, the whole way: recovered, grouped, learned from, and measured."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn
from training_helpers import OPTIONS, coloured_images

from metazoo.bank import Bank
from metazoo.evaluate import evaluate, zoo_ensemble
from metazoo.recover import health_rows
from metazoo.runs.train import train
from metazoo.zoo import TrainingConfig, Zoo, add_model, build_zoo, verify_zoo

SIDE = 32
WITHOUT_BATCH_NORM = ("timm:test_vit", "timm:test_convnext")
NAMES = (*WITHOUT_BATCH_NORM, "timm:test_efficientnet", "timm:mobilenetv3_small_050", "torchvision:shufflenet_v2_x0_5")


def _native(architecture: str, classes: int) -> nn.Module:
    library, _, name = architecture.partition(":")
    if library == "torchvision":
        return torchvision.models.get_model(name, num_classes=classes)
    size: dict[str, Any] = {"img_size": SIDE} if "vit" in name else {}
    return timm.create_model(name, num_classes=classes, **size)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Five models of two libraries, of 2, 3, ... classes, and a conv4."""
    folder = tmp_path_factory.mktemp("any")
    for index, name in enumerate(NAMES):
        torch.manual_seed(index)
        classes = 2 + index
        torch.save(_native(name, classes).state_dict(), folder / "weights.pth")
        names = tuple(f"colour {number}" for number in range(classes))
        said: dict[str, Any] = {"classes": names, "input_size": SIDE, "mean": (0.5,), "std": (0.25,), "domain": "any"}
        add_model(folder / "zoo", name, weights=folder / "weights.pth", **said)
    images = coloured_images(4, SIDE)
    build_zoo(folder / "zoo", images, "conv4", 1, 3, config=TrainingConfig(epochs=1), width=4, workers=1)
    return Zoo.open(folder / "zoo")


def test_they_are_sound(zoo: Zoo) -> None:
    assert len(zoo) == len(NAMES) + 1
    assert {finding.status for finding in verify_zoo(zoo)} == {"sound"}


@pytest.mark.parametrize("architecture", ["conv4", pytest.param("timm:test_efficientnet", marks=pytest.mark.slow)])
def test_a_meta_model_learns_from_all_of_them(zoo: Zoo, tmp_path: Path, architecture: str) -> None:
    config: dict[str, Any] = OPTIONS | {"meta_model": {"architecture": architecture}}
    run = train(zoo, out=tmp_path / "run", config=config, workers=1)
    rows = {row.teacher: row for row in health_rows(Bank.open(tmp_path / "run" / "bank"))}
    assert rows.keys() == {contract.name for contract in zoo}
    for contract in zoo:
        known = contract.spec.architecture not in WITHOUT_BATCH_NORM
        assert (rows[contract.name].batch_norm_distance is not None) == known
    model = run.meta_model
    assert model.spec.architecture == architecture
    support = coloured_images(3, 20)
    classifier = model.adapt(support.images, support.labels, support.class_names)
    classifier.save(tmp_path / "classifier")
    probabilities = classifier.predict(support.images).probabilities
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(support)))


@pytest.mark.slow
def test_a_run_does_not_depend_on_the_number_of_workers(zoo: Zoo, tmp_path: Path) -> None:
    config: dict[str, Any] = OPTIONS | {"meta_model": {"architecture": "timm:test_vit", "input_size": SIDE}}
    states = []
    for workers in (1, 2):
        run = train(zoo, out=tmp_path / f"run-{workers}", config=config, workers=workers)
        states.append(run.meta_model.networks[0].state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_the_ensemble_is_measured(zoo: Zoo) -> None:
    images = coloured_images(6, SIDE)
    (result,) = evaluate(
        [zoo_ensemble(zoo.teachers())],
        images,
        ways=3,
        shots=(1,),
        queries=3,
        episodes=5,
    )
    assert 0 <= result.accuracy <= 100
