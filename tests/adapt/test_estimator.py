from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from adapt_helpers import LABELS, NAMES, made, network, of_two_domains, pictures
from error_checks import raises
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import Tags
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted, validate_data

import metazoo
from metazoo.adapt import FewShotClassifier, MetaModel
from metazoo.adapt.estimator import InvalidInputError, MetazooClassifier

LABELLED = [NAMES[label] for label in LABELS.tolist()]


def fitted(**more: object) -> MetazooClassifier:
    return MetazooClassifier(network(), **more).fit(pictures(7).numpy(), LABELLED)  # pyright: ignore[reportArgumentType]


def test_it_predicts_as_the_few_shot_classifier_does() -> None:
    estimator, images = fitted(mirrored=True), pictures(6, seed=1)
    expected = made(mirrored=True).predict(images)
    np.testing.assert_array_equal(estimator.classes_, NAMES)
    np.testing.assert_array_equal(estimator.predict_proba(images), expected.probabilities.numpy())
    assert estimator.predict(images).tolist() == expected.names
    assert isinstance(estimator.classifier_, FewShotClassifier)
    assert metazoo.MetazooClassifier is MetazooClassifier


def test_every_form_of_the_same_images_gives_the_same(tmp_path: Path) -> None:
    estimator = fitted()
    pixels = (pictures(3, 20, seed=2) * 255).to(torch.uint8)
    channels_last = pixels.permute(0, 2, 3, 1).numpy()
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file, array in zip(files, channels_last, strict=True):
        Image.fromarray(array).save(file)
    paths = np.array([str(file) for file in files])
    paths = np.array([str(file) for file in files]), np.array(files, dtype=object)
    opened = [Image.open(file) for file in files]
    forms = (pixels, pixels.numpy(), channels_last, files, *paths, opened, [*pixels])
    first, *others = (estimator.predict_proba(form) for form in forms)
    for other in others:
        np.testing.assert_array_equal(other, first)


@pytest.mark.parametrize("labels", [[20, 3, 7, 7, 3, 20, 7], LABELLED, np.array(LABELLED, dtype=object)])
def test_labels_come_back_as_they_were_given(labels: list[object]) -> None:
    estimator = MetazooClassifier(network(), head="nearest-mean").fit(pictures(7), labels)
    found = estimator.predict(pictures(7))
    assert set(found.tolist()) <= set(np.asarray(labels).tolist())
    assert estimator.score(pictures(7), np.asarray(labels)) == np.mean(found == np.asarray(labels))
    assert estimator.classes_.tolist() == sorted(set(np.asarray(labels).tolist()))


def test_features_have_length_one_and_weigh_the_domains() -> None:
    estimator = MetazooClassifier(of_two_domains(), head="nearest-mean").fit(pictures(7), LABELLED)
    features = estimator.transform(pictures(7))
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-6)
    assert estimator.get_feature_names_out().shape == (features.shape[1],)
    # The nearest mean is a function of these features alone.
    means = np.stack([features[LABELS.numpy() == label].mean(0) for label in range(3)])
    cosines = estimator.transform(pictures(5, seed=4)) @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    scores = np.exp(10 * cosines / estimator.classifier_.description.temperature)
    expected = scores / scores.sum(1, keepdims=True)
    np.testing.assert_allclose(estimator.predict_proba(pictures(5, seed=4)), expected, atol=1e-5)


def test_a_folder_of_a_meta_model_is_enough(meta_model: Path) -> None:
    by_folder = MetazooClassifier(str(meta_model)).fit(pictures(7), LABELS)
    by_object = MetazooClassifier(MetaModel.load(meta_model)).fit(pictures(7), LABELS)
    images = pictures(4, seed=3)
    np.testing.assert_array_equal(by_folder.predict_proba(images), by_object.predict_proba(images))


def test_pipelines_cross_validation_and_searches() -> None:
    images, labels = pictures(18, seed=5), np.arange(18) % 3
    images[labels == 1, 0] *= 0.2
    images[labels == 2, 1] *= 0.2
    estimator = MetazooClassifier(network(), head="nearest-mean")
    scores = cross_val_score(estimator, images.numpy(), labels, cv=3)
    assert scores.shape == (3,)
    assert scores.mean() > 0.8
    search = GridSearchCV(estimator, {"head": ["nearest-mean", "ridge"], "mirrored": [False, True]}, cv=2)
    search.fit(images.numpy(), labels)
    assert search.best_score_ > 0.8
    assert set(search.best_params_) == {"head", "mirrored"}
    pipeline = make_pipeline(MetazooClassifier(network()), LogisticRegression(C=100)).fit(images.numpy(), labels)
    assert pipeline.score(images.numpy(), labels) > 0.8


def test_lists_of_images_can_be_cross_validated() -> None:
    images = [pictures(1, side, seed=side)[0].numpy() for side in range(10, 22)]
    assert cross_val_score(MetazooClassifier(network()), images, np.arange(12) % 2, cv=2).shape == (2,)


def test_a_clone_is_unfitted_and_has_the_same_parameters() -> None:
    copy: Any = clone(fitted(head="ridge", domain=None))
    assert (copy.head, copy.mirrored, hasattr(copy, "classifier_")) == ("ridge", False, False)
    with pytest.raises(NotFittedError):
        copy.predict(pictures(1))


class OfTables(MetazooClassifier):
    """Estimator whose images are made of the numbers of a table, so that the checks of scikit-learn can run."""

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        return super().fit(self._pictures(X, is_first=True), y)

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        check_is_fitted(self)
        return super().predict_proba(self._pictures(X))

    def transform(self, X: Any) -> np.ndarray:  # noqa: N803
        check_is_fitted(self)
        return super().transform(self._pictures(X))

    def _pictures(self, X: Any, *, is_first: bool = False) -> np.ndarray:  # noqa: N803
        table: Any = validate_data(self, X, reset=is_first, dtype=np.float64)
        blocks = np.full((len(table), 48), 0.5)
        blocks[:, : table.shape[1]] = 1 / (1 + np.exp(-table[:, :48]))
        return blocks.reshape(-1, 3, 4, 4).repeat(4, 2).repeat(4, 3).astype(np.float32)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = True, False
        return tags


def test_the_checks_of_scikit_learn_pass(tmp_path: Path) -> None:
    # Some checks ask for accuracy, which the smallest networks of random weights do not have.
    MetaModel(network(width=32), method="random", preset="default", seed=0).save(tmp_path / "meta-model")
    found = check_estimator(OfTables(tmp_path / "meta-model"), on_skip=None, on_fail=None)
    failed = {check["check_name"]: repr(check["exception"]) for check in found if check["status"] == "failed"}
    assert failed == {}
    assert sum(check["status"] == "passed" for check in found) > 40


def test_wrong_use_is_refused() -> None:
    with raises(InvalidInputError, subject="meta_model", problem="missing"):
        MetazooClassifier().fit(pictures(7), LABELS)
    with raises(InvalidInputError, subject="fit", problem="requires y"):
        MetazooClassifier(network()).fit(pictures(7), None)
    with raises(InvalidInputError, subject="labels", problem="one class"):
        MetazooClassifier(network()).fit(pictures(2), ["ant", "ant"])
    with raises(InvalidInputError, subject="images", problem="shape"):
        MetazooClassifier(network()).fit(np.zeros((4, 12), dtype=np.float32), [0, 1, 0, 1])
    with raises(InvalidInputError, subject="images", problem="shape"):
        fitted().predict(np.zeros((4, 12), dtype=np.float32))
