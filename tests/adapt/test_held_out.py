import math

import numpy as np
import pytest
import torch
from adapt_helpers import LABELS, NAMES, made, network, of_two_domains, pictures
from error_checks import raises
from scipy import stats
from torch.nn import functional

from metazoo.adapt.held_out import Fold, HeldOut, familiar_means, fitted_temperature, hold_out, unknown_threshold
from metazoo.adapt.support_record import HeldOutRecord
from metazoo.errors import UsageError
from metazoo.features.heads import get_head


def held_out_of(logits: list[list[float]], labels: list[int], familiarity: list[float] | None = None) -> HeldOut:
    count = len(labels)
    familiar = torch.tensor(familiarity or [0.5] * count)
    return HeldOut(2, torch.arange(count), torch.tensor(labels), torch.tensor(logits), familiar)


def folds_of(labels: torch.Tensor, ways: int) -> list[tuple[list[int], list[int]]]:
    """Rows kept and held out in each fold."""
    features = torch.nn.functional.one_hot(labels, ways).float() + 0.1
    seen = []

    def fit(kept: torch.Tensor, held: torch.Tensor) -> Fold:
        seen.append((kept.tolist(), held.tolist()))
        fitted = get_head("nearest-mean").fit_features(features[kept], labels[kept], ways)  # pyright: ignore[reportAttributeAccessIssue]
        return Fold(fitted, features[kept], features[held])

    hold_out(labels, ways, fit)
    return seen


@pytest.mark.parametrize("counts", [(3, 3, 3), (1, 4, 2), (25, 2, 1)])
def test_every_image_of_a_repeated_class_is_held_out_once_and_every_class_stays(counts: tuple[int, ...]) -> None:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    seen = folds_of(labels, len(counts))
    assert len(seen) == min(max(counts), 10)
    repeated = [row for row, label in enumerate(labels.tolist()) if counts[label] > 1]
    assert sorted(row for _, held in seen for row in held) == repeated
    for kept, held in seen:
        assert sorted(kept + held) == list(range(len(labels)))
        assert set(labels[kept].tolist()) == set(range(len(counts)))


def test_equal_classes_lose_one_image_each_in_a_fold() -> None:
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2])
    assert [sorted(labels[held].tolist()) for _, held in folds_of(labels, 3)] == [[0, 1, 2]] * 3


def test_single_images_cannot_be_held_out() -> None:
    assert folds_of(torch.arange(4), 4) == []


def test_held_out_predictions_are_those_of_classifiers_without_the_image() -> None:
    images, classifier = pictures(7), made()
    held_out = classifier.held_out
    assert held_out is not None
    order = [row for row, _ in enumerate(classifier.description.support)]
    hashes = [image.sha256 for image in classifier.description.support]
    assert len(set(hashes)) == len(order) == 7
    # The support is stored by class and hash; find each image again by its features.
    embedded = torch.cat([made().embed(image[None]) for image in images])
    stored = functional.normalize(classifier.support_features, dim=1)  # pyright: ignore[reportArgumentType]
    found = (stored @ embedded.T).argmax(1)
    images, labels = images[found], LABELS[found]
    fold_of = torch.cat([torch.arange(int((labels == label).sum())) for label in range(3)])
    for row, logits in zip(held_out.rows.tolist(), held_out.logits, strict=True):
        kept = fold_of != fold_of[row]
        without = made(support_images=images[kept], support_labels=labels[kept])
        expected = without.predict(images[row : row + 1]).probabilities[0]
        temperature = without.description.temperature
        assert torch.allclose((logits / temperature).softmax(0), expected, atol=1e-5)


def test_record_and_pairs_count_by_hand() -> None:
    logits = [[2.0, 0, 0], [0, 2, 0], [0, 2, 0], [5, 0, 0], [0, 0, 1]]
    found = held_out_of(logits, [0, 0, 1, 2, 1])
    assert found.correct == 2
    assert found.confused() == [(0, 1, 1), (0, 2, 1), (1, 2, 1)]
    expected = -np.mean(
        [math.log(np.exp(row[k]) / np.exp(row).sum()) for row, k in zip(logits, [0, 0, 1, 2, 1], strict=True)]
    )
    assert found.loss(1.0) == pytest.approx(expected, rel=1e-5)
    low, high = HeldOutRecord(images=5, correct=2, folds=3).interval()
    expected = stats.binomtest(2, 5).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_a_planted_wrong_label_is_found() -> None:
    random = torch.Generator().manual_seed(0)
    features = torch.eye(3).repeat_interleave(5, 0) + 0.05 * torch.rand(15, 3, generator=random)
    labels = torch.arange(3).repeat_interleave(5)
    labels[2] = 1

    def fit(kept: torch.Tensor, held: torch.Tensor) -> Fold:
        fitted = get_head("logistic").fit_features(features[kept], labels[kept], 3)  # pyright: ignore[reportAttributeAccessIssue]
        return Fold(fitted, features[kept], features[held])

    found = hold_out(labels, 3, fit)
    assert found is not None
    doubtful = found.doubtful(fitted_temperature(found, 1 / 3))
    assert [(row, predicted) for row, predicted, _ in doubtful] == [(2, 0)]


@pytest.mark.parametrize("factor", [0.2, 1.0, 6.0])
def test_temperature_of_many_images_is_that_of_their_labels(factor: float) -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(4000, 4)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = [random.choice(4, p=row) for row in probabilities]
    found = held_out_of((logits * factor).tolist(), labels)
    assert fitted_temperature(found, 1.0) == pytest.approx(factor, rel=0.1)


def test_temperature_without_evidence_is_the_prior_and_with_little_is_near() -> None:
    assert fitted_temperature(None, 0.3) == 0.3
    right = held_out_of([[1.0, 0.0], [0.0, 1.0]], [0, 1])
    # Without the penalty, the temperature would be as low as possible.
    assert 0.1 < fitted_temperature(right, 0.3) < 0.3
    wrong = held_out_of([[1.0, 0.0], [0.0, 1.0]], [1, 0])
    assert 0.3 < fitted_temperature(wrong, 0.3) < 3


def test_threshold_rejects_the_stated_share_of_lognormal_distances() -> None:
    random = np.random.default_rng(0)
    familiarity = 1 - np.exp(random.normal(-2, 0.5, size=5000))
    found = held_out_of([[0.0, 0.0]] * 5000, [0] * 5000, familiarity.tolist())
    for rate in (0.01, 0.05, 0.2):
        threshold = unknown_threshold(found, torch.eye(2), rate)
        assert threshold is not None
        assert (familiarity < threshold).mean() == pytest.approx(rate, rel=0.2)


def test_threshold_of_single_images_comes_from_other_classes() -> None:
    means = functional.normalize(torch.tensor([[1.0, 0.1, 0.3], [0.2, 1.0, 0.1], [0.4, 0.3, 1.0]]), dim=1)
    cosines = (means @ means.T).double().numpy()
    scores = [max(cosines[i][j] for j in range(3) if j != i) for i in range(3)]
    distances = np.log(1 - np.array(scores))
    expected = 1 - math.exp(distances.mean() + stats.norm.ppf(0.9) * distances.std(ddof=1))
    assert unknown_threshold(None, means, 0.1) == pytest.approx(expected, rel=1e-5)
    assert unknown_threshold(None, means[:2], 0.1) is None


def test_familiar_means_use_the_factors_of_the_features() -> None:
    features, labels = torch.rand(6, 4), torch.tensor([0, 0, 1, 1, 1, 0])
    scale = torch.tensor([1.0, 0.0, 2.0, 1.0])
    scaled = (features * scale).numpy()
    scaled /= np.linalg.norm(scaled, axis=1, keepdims=True)
    means = np.stack([scaled[labels.numpy() == label].mean(0) for label in (0, 1)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert np.allclose(familiar_means(features, labels, 2, scale), means, atol=1e-6)


@pytest.mark.parametrize("head", ["logistic", "nearest-mean", "fine-tune"])
def test_foreign_images_are_unknown_and_known_ones_are_not(head: str) -> None:
    # Three colours with a little noise; foreign images are other colours and noise.
    def colours(values: list[tuple[float, float, float]], each: int, seed: int) -> torch.Tensor:
        random = torch.Generator().manual_seed(seed)
        plain = torch.tensor(values).repeat_interleave(each, 0)[:, :, None, None]
        return (plain + 0.2 * torch.rand(len(values) * each, 3, 16, 16, generator=random)).clamp(0, 1)

    classes = [(0.8, 0.0, 0.0), (0.0, 0.8, 0.0), (0.0, 0.0, 0.8)]
    classifier = made(support_images=colours(classes, 5, 0), support_labels=[0] * 5 + [1] * 5 + [2] * 5, head=head)
    known = classifier.predict(colours(classes, 10, 1))
    assert known.unknown.float().mean() <= 0.2
    assert (known.labels == torch.arange(3).repeat_interleave(10)).all()
    assert classifier.predict(colours([(0.8, 0.8, 0.8), (0.8, 0.8, 0.0)], 3, 2)).unknown.all()


def test_transductive_classifiers_say_nothing_of_unknown_images() -> None:
    classifier = made(batch_norm="query")
    found = classifier.predict(pictures(6, seed=1))
    assert found.familiarity is None
    assert not found.unknown.any()
    assert classifier.held_out is None
    assert classifier.description.support == ()


@pytest.mark.parametrize("keep", [False, True])
def test_nearest_support_images_are_those_of_the_cosines(keep: bool) -> None:
    images = pictures(7)
    classifier = made(image_names=[f"own-{number}" for number in range(7)], keep_images=keep)
    found = classifier.nearest(images[2:4], count=2)
    embedded, queries = classifier.embed(images).numpy(), classifier.embed(images[2:4]).numpy()
    for neighbours, query in zip(found, queries, strict=True):
        order = np.argsort(-(embedded @ query), kind="stable")[:2]
        assert [own.name for own in neighbours] == [f"own-{number}" for number in order]
        assert [own.class_name for own in neighbours] == [NAMES[LABELS[number]] for number in order]
        assert neighbours[0].similarity == pytest.approx(1.0, abs=1e-5)
        if keep:
            expected = (images[order[0]] * 255).round().to(torch.uint8)
            assert neighbours[0].pixels is not None
            assert torch.equal(neighbours[0].pixels, expected)
        else:
            assert neighbours[0].pixels is None


def test_the_order_of_the_images_does_not_matter() -> None:
    order = torch.tensor([6, 2, 4, 0, 1, 5, 3])
    one, two = made(), made(support_images=pictures(7)[order], support_labels=LABELS[order])
    assert torch.equal(one.as_module().fitted.weight, two.as_module().fitted.weight)
    assert one.description.temperature == two.description.temperature
    assert one.description.threshold == two.description.threshold


def test_automatic_choice_has_the_least_held_out_loss() -> None:
    images, labels = pictures(12, seed=4), torch.arange(12) % 3
    chosen = made(support_images=images, support_labels=labels, head="auto")
    losses = {}
    for head in ("logistic", "ridge", "nearest-mean", "fine-tune"):
        for mode in ("running", "support"):
            own = made(support_images=images, support_labels=labels, head=head, batch_norm=mode)
            assert own.held_out is not None
            losses[head, mode] = own.held_out.loss(own.description.temperature)
    assert (chosen.description.head, chosen.description.batch_norm) == min(losses, key=lambda key: losses[key])


def test_automatic_choice_without_evidence_is_the_default() -> None:
    chosen = made(support_images=pictures(3), support_labels=[0, 1, 2], head="auto").description
    assert (chosen.head, chosen.batch_norm) == ("logistic", "running")


@pytest.mark.parametrize("module", [network(), of_two_domains()])
@pytest.mark.parametrize("mirrored", [False, True])
def test_stored_features_are_those_of_the_head(module: torch.nn.Module, mirrored: bool) -> None:
    classifier = made(module=module, mirrored=mirrored)
    stored, scale = classifier.support_features, classifier.as_module().fitted.scale
    assert stored is not None
    shown = functional.normalize(stored if scale is None else stored * scale, dim=1)
    embedded = classifier.embed(pictures(7))
    assert torch.allclose((shown @ embedded.T).amax(1), torch.ones(7), atol=1e-5)


def test_one_image_more_keeps_unknown_images_recognised() -> None:
    images, labels = pictures(7, seed=4), [0, 1, 2, 3, 4, 5, 0]
    names = tuple("abcdef")
    without = made(support_images=images[:6], support_labels=labels[:6], class_names=names)
    more = made(support_images=images, support_labels=labels, class_names=names)
    assert without.description.threshold is not None
    assert more.description.held_out is not None
    assert more.description.held_out.images == 2
    assert more.description.threshold is not None


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_of_neighbours_below_one_is_refused(count: int) -> None:
    with raises(UsageError, subject="count"):
        made().nearest(pictures(1), count)
