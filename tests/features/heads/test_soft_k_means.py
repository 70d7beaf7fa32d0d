import math

import pytest
import torch
from heads_helpers import LABELS, clusters
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from metazoo.features.heads import FeatureHead, NearestMean, SoftKMeansBalanced, SoftKMeansFree
from metazoo.features.heads.fitted import SCALE, balance_logits

SOFT = [SoftKMeansBalanced(), SoftKMeansFree()]


def by_name(head: FeatureHead) -> str:
    return head.name


def random_logits(queries: int, ways: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(queries, ways, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("ways", [2, 3, 5])
def test_balanced_classes_have_equally_many_queries(ways: int) -> None:
    plan = torch.softmax(balance_logits(random_logits(6 * ways, ways)), -1)
    torch.testing.assert_close(plan.sum(0), torch.full((ways,), 6.0, dtype=torch.float64), atol=1e-3, rtol=0)
    torch.testing.assert_close(plan.sum(1), torch.ones(6 * ways, dtype=torch.float64))


def test_balancing_equals_sinkhorns_iteration() -> None:
    logits = random_logits(12, 3).float()
    plan = torch.softmax(logits, -1).double()
    for _ in range(500):
        plan = plan * 4 / plan.sum(0)
        plan = plan / plan.sum(1, keepdim=True)
    torch.testing.assert_close(torch.softmax(balance_logits(logits), -1).double(), plan, atol=1e-3, rtol=0)


def test_no_class_exceeds_its_share() -> None:
    for queries in (4, 7, 8):
        plan = torch.softmax(balance_logits(random_logits(queries, 3, queries)), -1)
        assert float(plan.sum(0).max()) <= math.ceil(queries / 3) + 1e-3


def test_balanced_logits_do_not_change() -> None:
    for logits in (random_logits(1, 5), random_logits(5, 5)[:1].expand(4, 5) * 0, 4 * torch.eye(3).repeat(2, 1)):
        torch.testing.assert_close(balance_logits(logits), logits)


@pytest.mark.parametrize("seed", range(4))
def test_balanced_sharp_logits_equal_the_best_assignment(seed: int) -> None:
    logits = random_logits(9, 3, seed)
    chosen = balance_logits(10 * logits).argmax(-1)
    _, slots = linear_sum_assignment(logits.repeat_interleave(3, dim=1).numpy(), maximize=True)
    assert chosen.tolist() == (slots // 3).tolist()
    assert chosen.tolist() != logits.argmax(-1).tolist()


@pytest.mark.parametrize("head", SOFT, ids=by_name)
def test_scores_equal_a_slow_loop(head: FeatureHead) -> None:
    support, query = clusters(1, 3)[0][:7].double(), clusters(1, 5, seed=1)[0].double()
    scores = head.fit_features(support, LABELS, 3).scores(query)
    images = functional.normalize(torch.cat([support, query]), dim=1)
    images = images - images.mean(0)
    membership, logits = functional.one_hot(LABELS, 3).double(), torch.empty(0)
    for _ in range(2):
        means = torch.stack(
            [
                sum((row[label] * image for row, image in zip(membership, images, strict=False)), torch.zeros(5))
                / membership[:, label].sum()
                for label in range(3)
            ]
        )
        logits = SCALE * functional.cosine_similarity(images[7:, None], means[None], dim=2)
        if head.name == "soft-k-means-balanced":
            logits = balance_logits(logits)
        membership = torch.cat([membership[:7], torch.softmax(logits, 1)])
    torch.testing.assert_close(scores, logits)


@pytest.mark.parametrize("head", SOFT, ids=by_name)
def test_the_order_of_the_queries_does_not_matter(head: FeatureHead) -> None:
    fitted, query = head.fit_features(clusters(1, 3)[0][:7], LABELS, 3), clusters(1, 5, seed=1)[0]
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fitted.scores(query[order]), fitted.scores(query)[order], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("head", SOFT, ids=by_name)
def test_a_single_query_depends_on_the_support_alone(head: FeatureHead) -> None:
    support, labels = clusters(1, 2)[0], torch.arange(3).repeat_interleave(2)
    query = clusters(1, 3, spread=0.1, seed=1)[0]
    fitted, nearest = head.fit_features(support, labels, 3), NearestMean().fit_features(support, labels, 3)
    alone = torch.cat([fitted.probabilities(query[i : i + 1]) for i in range(9)])
    assert bool(alone.isfinite().all())
    assert alone.argmax(1).tolist() == nearest.scores(query).argmax(1).tolist()


def test_the_prior_is_in_the_name() -> None:
    """Thirty queries of one class: the balanced head spreads them over all three, the free one does not."""
    support, labels = clusters(1, 2, spread=0.1)[0], torch.arange(3).repeat_interleave(2)
    query = clusters(1, 30, spread=0.1, seed=1)[0][:30]
    free, balanced = (
        head.fit_features(support, labels, 3).probabilities(query).sum(0)
        for head in (SoftKMeansFree(), SoftKMeansBalanced())
    )
    assert float(free[0]) > 20
    torch.testing.assert_close(balanced, torch.full((3,), 10.0), atol=0.5, rtol=0)


@pytest.mark.parametrize("head", SOFT, ids=by_name)
def test_queries_help_where_the_support_misleads(head: FeatureHead) -> None:
    query, labels = clusters(40, 10, spread=0.9, seed=1), torch.arange(3).repeat_interleave(10)
    support = clusters(40, 1, spread=0.9)
    refined, nearest = (
        (kind.fit_features(support, torch.arange(3), 3).scores(query).argmax(-1) == labels).double().mean()
        for kind in (head, NearestMean())
    )
    assert refined > nearest + 0.02


def test_equal_features_give_equal_probabilities() -> None:
    for head in SOFT:
        for value in (0.0, 1.0):
            fitted = head.fit_features(torch.full((3, 4), value), torch.arange(3), 3)
            torch.testing.assert_close(fitted.probabilities(torch.full((6, 4), value)), torch.full((6, 3), 1 / 3))
