import dataclasses
from pathlib import Path

import pytest
import torch
from zoo_helpers import coloured_images

from metazoo.data import ImageSet
from metazoo.execution.randomness import generator
from metazoo.models import ClassifierSpec, ImageClassifier
from metazoo.zoo import TrainingConfig, Zoo, train_classifier, verify_zoo
from metazoo.zoo.checking.normalisation import check_normalisation

SIDE = 16


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return coloured_images(4, 20, SIDE)


@pytest.fixture(scope="module")
def trained(images: ImageSet) -> ImageClassifier:
    """Trained on values up to 255, which no other normalisation comes near to."""
    spec = ClassifierSpec(
        architecture="conv4", arguments={"width": 8}, classes=4, input_size=SIDE, mean=(0.0,) * 3, std=(1 / 255,) * 3
    )
    config = TrainingConfig(epochs=12, batch_size=16)
    classifier, accuracy = train_classifier(spec, images, images, config, generator(0, "test", 0))
    assert accuracy > 90
    return classifier


def declared(trained: ImageClassifier, mean: float, std: float) -> ImageClassifier:
    spec = trained.spec.model_copy(update={"mean": (mean,) * 3, "std": (std,) * 3})
    return ImageClassifier(spec, trained.network).eval()


def test_the_right_one_is_not_doubted(trained: ImageClassifier, images: ImageSet) -> None:
    found = check_normalisation(trained, images.class_names, images)
    assert found is not None
    assert not found.wrong
    assert found.images == 80
    with torch.no_grad():
        right = trained(images.images.float() / 255).argmax(1) == images.labels
    assert found.declared == pytest.approx(100 * right.double().mean().item())


def test_a_wrong_one_is_seen(trained: ImageClassifier, images: ImageSet) -> None:
    found = check_normalisation(declared(trained, 0.5, 0.5), images.class_names, images)
    assert found is not None
    assert found.wrong
    assert found.alternative == "values up to 255"
    assert "the declared mean and std look wrong" in found.text


def test_classes_go_by_their_names(trained: ImageClassifier, images: ImageSet) -> None:
    turned = tuple(reversed(images.class_names))
    found = check_normalisation(trained, turned, dataclasses.replace(images, class_names=turned))
    whole = check_normalisation(trained, images.class_names, images)
    assert found is not None
    assert whole is not None
    assert found.declared == whole.declared
    part = check_normalisation(trained, images.class_names, images.select_classes([2]))
    assert part is not None
    assert part.images == 20
    assert check_normalisation(trained, ("a", "b", "c", "d"), images) is None


def test_verifying_says_so(trained: ImageClassifier, images: ImageSet, tmp_path: Path) -> None:
    zoo = Zoo.create(tmp_path / "zoo")
    zoo.store("right", trained, class_names=images.class_names, domain="d")
    zoo.store("wrong", declared(trained, 0.5, 0.5), class_names=images.class_names, domain="d")
    zoo.store("foreign", trained, class_names=("a", "b", "c", "d"), domain="d")
    findings = {finding.subject: finding for finding in verify_zoo(zoo, images=images)}
    assert {name: finding.status for name, finding in findings.items()} == {
        "right": "sound",
        "wrong": "note",
        "foreign": "sound",
        "foreign, right, wrong": "note",  # duplicates
    }
    assert "no images of its classes" in findings["foreign"].text
    assert [finding.status for finding in verify_zoo(zoo)] == ["sound", "sound", "sound", "note"]
