"""Properties of every head, and of the features that heads use."""

import jaxtyping
import pytest
import torch
from error_checks import raises
from heads_helpers import LABELS, classifier, clusters, pictures
from torch import Tensor
from torch.nn import functional

from metazoo.errors import MetazooError, UsageError
from metazoo.features.embedders import PixelFeatures
from metazoo.features.heads import (
    COSINE_SCALE,
    HEADS,
    FeatureHead,
    FineTune,
    FittedHead,
    Head,
    NearestMean,
    class_means,
    extra_tensor,
    get_head,
    query_features,
)

FEATURE_HEADS = [head for head in HEADS if isinstance(head, FeatureHead)]


def by_name(head: Head) -> str:
    return head.name


@pytest.mark.parametrize("head", FEATURE_HEADS, ids=by_name)
def test_many_tasks_at_once_equal_one_by_one(head: FeatureHead) -> None:
    features, query = clusters(4, 3)[:, :7], clusters(4, 3, seed=1)
    together = head.fit_features(features, LABELS, 3)
    for task in range(4):
        alone = head.fit_features(features[task], LABELS, 3)
        torch.testing.assert_close(together.scores(query)[task], alone.scores(query[task]), atol=1e-4, rtol=1e-4)
        assert {name: tensor[task].shape for name, tensor in together.tensors.items()} == {
            name: tensor.shape for name, tensor in alone.tensors.items()
        }


@pytest.mark.parametrize("head", FEATURE_HEADS, ids=by_name)
def test_classes_are_distinguished_in_any_order(head: FeatureHead) -> None:
    support, query = clusters(1, 2, spread=0.1)[0], clusters(1, 4, spread=0.1, seed=1)[0]
    labels = torch.arange(3).repeat_interleave(2)
    scores = head.fit_features(support, labels, 3).scores(query)
    assert scores.argmax(1).tolist() == torch.arange(3).repeat_interleave(4).tolist()
    order = torch.tensor([2, 0, 1])
    renamed = head.fit_features(support, order[labels], 3).scores(query)
    torch.testing.assert_close(renamed[:, order], scores, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("head", [*HEADS], ids=by_name)
def test_attributes_of_heads_are_true(head: Head) -> None:
    module, query = classifier(), pictures(6, seed=1)
    adapted, fitted = head.fit(module, pictures(7), LABELS, 3)
    features = query_features(adapted, query)
    assert (adapted is not module) == head.adapts_backbone
    assert torch.equal(features, query_features(module, query)) != head.adapts_backbone
    assert fitted.transductive == head.transductive
    assert torch.allclose(fitted.scores(features[:2]), fitted.scores(features)[:2], atol=1e-5) != head.transductive
    assert fitted.scores(features[:1]).shape == (1, 3)
    extra = extra_tensor(fitted.kind)
    assert {name: tuple(tensor.shape) for name, tensor in fitted.tensors.items()} == {
        "weight": (3, features.shape[1]),
        **({extra: (3,)} if extra else {}),
    }


@pytest.mark.parametrize("head", [*HEADS], ids=by_name)
def test_a_head_is_deterministic_and_carries_no_gradient(head: Head) -> None:
    first, again = (head.fit(classifier(), pictures(7), LABELS, 3)[1] for _ in range(2))
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, again.tensors[name])
        assert not tensor.requires_grad


def test_linear_scores_of_many_tasks_are_those_of_torch() -> None:
    random = torch.Generator().manual_seed(0)
    weight, bias, query = (torch.randn(*shape, generator=random) for shape in ((4, 3, 5), (4, 3), (4, 9, 5)))
    expected = torch.stack([functional.linear(query[task], weight[task], bias[task]) for task in range(4)])
    torch.testing.assert_close(FittedHead("linear", weight, bias).scores(query), expected)
    scaled = FittedHead("normalised-linear", weight, bias).scores(7 * query)
    torch.testing.assert_close(scaled, FittedHead("linear", weight, bias).scores(functional.normalize(query, dim=-1)))


def test_batches_and_uint8_do_not_change_features() -> None:
    module = classifier()
    images = torch.randint(0, 256, (20, 3, 128, 128), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        expected = module.features(images.float() / 255)
    torch.testing.assert_close(query_features(module, images), expected)  # 16 images a batch at this size


def test_probabilities_are_softmax_of_scaled_scores() -> None:
    features, weight = pictures(4).flatten(1), pictures(3, seed=1).flatten(1)
    cosine, linear = FittedHead("cosine", weight), FittedHead("linear", weight)
    scores = functional.cosine_similarity(features[:, None], weight[None], dim=2)
    torch.testing.assert_close(cosine.probabilities(features), torch.softmax(COSINE_SCALE * scores, 1))
    torch.testing.assert_close(linear.probabilities(features), torch.softmax(features @ weight.T, 1))


@pytest.mark.parametrize("head", [*HEADS], ids=by_name)
@pytest.mark.parametrize(
    ("labels", "ways"),
    [
        (torch.tensor([0, 1, 0]), 3),
        (torch.tensor([0, 1, 3]), 3),
        (torch.tensor([0, 1]), 2),
        (torch.tensor([0.0, 1.0, 1.0]), 2),
        (torch.tensor([-1, 0, 1]), 2),
    ],
)
def test_labels_that_do_not_fit_are_refused(head: Head, labels: Tensor, ways: int) -> None:
    with raises(UsageError, subject="support labels"):
        head.fit(PixelFeatures(4), pictures(3, side=4), labels, ways)


@pytest.mark.parametrize("head", [*HEADS], ids=by_name)
def test_broken_weights_are_named(head: Head) -> None:
    module = classifier()
    next(module.parameters()).fill_(torch.nan)
    with raises(MetazooError, subject="model", problem="not finite"):
        head.fit(module, pictures(7), LABELS, 3)


def test_heads_by_name() -> None:
    assert isinstance(get_head("nearest-mean"), NearestMean)
    assert isinstance(get_head("fine-tune"), FineTune)
    with raises(UsageError) as caught:
        get_head("svm")
    assert {"'svm'", "nearest-mean,", "fine-tune,"} <= set(str(caught.value).replace(";", "").split())


def test_shapes_are_checked_in_this_suite() -> None:
    features = torch.rand(7, 4)
    assert class_means(features, LABELS, 3).shape == (3, 4)
    for wrong in (features[:6], features.int()):
        with pytest.raises(jaxtyping.TypeCheckError):
            class_means(wrong, LABELS, 3)
