"""What a GPU would be asked to do, done on a device that refuses to mix tensors as a GPU does."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from emulated_device import emulated_device
from training_helpers import OPTIONS, PUBLISHED_OPTIONS, PURER_OPTIONS, SIDE, build, coloured_images

from metazoo.adapt import FewShotClassifier, adapt
from metazoo.evaluate import Subject, evaluate, zoo_ensemble
from metazoo.execution import compute
from metazoo.features.domain_router import DomainRecogniser
from metazoo.features.embedders import MultiDomainClassifier
from metazoo.features.heads import HEADS
from metazoo.models import ImageClassifier
from metazoo.runs.record import Run
from metazoo.runs.train import train
from metazoo.zoo import TrainingConfig, Zoo, build_zoo

WEIGHED = {**OPTIONS, "trust": {"mode": "weigh", "threshold": 1.0}}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return build(tmp_path_factory.mktemp("zoo") / "zoo")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(compute, "_device", torch.device)
    with emulated_device() as name:
        yield name


def of_two_kinds(classifier: ImageClassifier) -> MultiDomainClassifier:
    weight = torch.randn(2 * classifier.network.feature_size + 1, 2, generator=torch.Generator().manual_seed(0))
    other = copy.deepcopy(classifier)
    other.network.get_parameter("blocks.0.0.weight").mul_(0.5)
    return MultiDomainClassifier([classifier, other], DomainRecogniser("ab", weight)).eval()


def weights_of(run: Run) -> dict[str, torch.Tensor]:
    return run.meta_model.networks[0].network.state_dict()


def assert_alike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name, tensor in one.items():
        assert tensor.device.type == other[name].device.type == "cpu"
        torch.testing.assert_close(tensor, other[name], rtol=2e-3, atol=2e-4, msg=lambda text, name=name: name + text)


def test_a_tensor_that_was_left_behind_is_noticed(device: str) -> None:
    with pytest.raises(AssertionError, match="meet"):
        _ = torch.ones(3).to(device) + torch.ones(3)
    assert float((torch.ones(3).to(device) * 2).sum()) == 6


@pytest.mark.parametrize(
    ("preset", "config"),
    [
        pytest.param("default", OPTIONS, marks=pytest.mark.slow),  # all its stages are in the next one
        ("default", WEIGHED),
        ("published", PUBLISHED_OPTIONS),
        ("default", PURER_OPTIONS),
    ],
)
def test_a_run_learns_there_what_it_learns_on_the_cpu(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: str, config: dict[str, Any]
) -> None:
    options: dict[str, Any] = {"preset": preset, "config": config, "workers": 1}
    here = train(zoo, out=tmp_path / "cpu", device="cpu", **options)
    monkeypatch.setattr(compute, "_device", torch.device)
    with emulated_device() as name:
        there = train(zoo, out=tmp_path / "device", device=name, **options)
    assert (here.description["device"], there.description["device"]) == ("cpu", name)
    assert_alike(weights_of(here), weights_of(there))


@pytest.mark.slow
def test_specialists_learn_there_what_they_learn_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = build(tmp_path / "zoo", grey=2)
    options: dict[str, Any] = {"config": {**WEIGHED, "domains": {"alike": 9.0}}, "workers": 1}
    here = train(zoo, out=tmp_path / "cpu", device="cpu", **options)
    monkeypatch.setattr(compute, "_device", torch.device)
    with emulated_device() as name:
        there = train(zoo, out=tmp_path / "device", device=name, **options)
    assert isinstance(here.meta_model.module, MultiDomainClassifier)
    assert_alike(here.meta_model.module.state_dict(), there.meta_model.module.state_dict())


@pytest.mark.slow
def test_class_conflicts_are_found_there(zoo: Zoo, tmp_path: Path, device: str) -> None:
    config = {**PUBLISHED_OPTIONS, "class_map": None}
    run = train(zoo, out=tmp_path / "run", preset="published", config=config, device=device, workers=1)
    assert run.finished


def test_a_zoo_is_built_there(tmp_path: Path, device: str) -> None:
    images, config = coloured_images(4, SIDE), TrainingConfig(epochs=2)
    here, there = (
        build_zoo(tmp_path / name, images, "conv4", 1, 3, config=config, width=4, workers=1, device=name)
        for name in ("cpu", device)
    )
    names = [zoo.contracts[0].name for zoo in (here, there)]
    assert_alike(here.teacher(names[0]).state_dict(), there.teacher(names[1]).state_dict())


@pytest.mark.parametrize("head", [head.name for head in HEADS])
@pytest.mark.parametrize("batch_norm", ["running", "support", "query"])
def test_every_head_is_evaluated_there(zoo: Zoo, device: str, head: str, batch_norm: str) -> None:
    if head == "fine-tune-own":
        pytest.skip("needs as many outputs as the episode has ways")
    images = coloured_images(6, SIDE)
    rows = [Subject.of("one", "best-teacher", zoo.teachers()[0].classifier)]
    rows.append(Subject.of("of two kinds", "tgr", of_two_kinds(zoo.teachers()[1].classifier)))
    rows += [] if head == "fine-tune" else [zoo_ensemble(zoo.teachers())]

    def accuracies(where: str) -> list[float]:
        moved = [row.on(where) for row in rows]
        results = evaluate(moved, images, ways=3, shots=(1,), queries=2, episodes=3, head=head, batch_norm=batch_norm)
        return [result.accuracy for result in results]

    assert accuracies("cpu") == pytest.approx(accuracies(device), abs=6)


@pytest.mark.parametrize("kinds", [1, 2])
def test_a_classifier_adapts_is_stored_and_predicts_there(zoo: Zoo, tmp_path: Path, device: str, kinds: int) -> None:
    images = coloured_images(3, SIDE)
    chosen = images.labels < 3
    network = zoo.teachers()[0].classifier
    network = network if kinds == 1 else of_two_kinds(network)
    expected = adapt(network, images.images[chosen], images.labels[chosen]).predict(images.images)
    classifier = adapt(network.to(device), images.images[chosen], images.labels[chosen])
    classifier.save(tmp_path / "classifier")
    loaded = FewShotClassifier.load(tmp_path / "classifier").to(device)
    for prediction in (classifier.predict(images.images), loaded.predict(images.images)):
        assert prediction.probabilities.device.type == "cpu"
        torch.testing.assert_close(prediction.probabilities, expected.probabilities, rtol=1e-3, atol=1e-4)
