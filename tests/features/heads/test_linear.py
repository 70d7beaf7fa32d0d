"""Ridge and logistic regression."""

import pytest
import torch
from heads_helpers import LABELS, clusters
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as RidgeOracle
from torch import Tensor
from torch.nn import functional

from metazoo.features.heads import COSINE_SCALE, FittedHead, Logistic, Ridge
from metazoo.features.heads.linear import ridge_regression
from metazoo.features.linear_models import logistic_regression

TARGETS = functional.one_hot(LABELS, 3)


def weights(fitted: FittedHead) -> Tensor:
    """Weights [d + 1, ways] of a fitted head, with the bias last."""
    assert (fitted.kind, fitted.bias is None) == ("normalised-linear", False)
    return torch.cat([fitted.weight, fitted.tensors["bias"].unsqueeze(-1)], dim=-1).mT


def inputs(features: Tensor) -> Tensor:
    return functional.pad(functional.normalize(features, dim=-1), (0, 1), value=1.0)


@pytest.mark.parametrize("size", [2, 6, 7, 40])
def test_both_ways_to_solve_a_ridge_are_its_normal_equations(size: int) -> None:
    samples = torch.randn(2, 7, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    solved = ridge_regression(samples, TARGETS.double(), 0.3)
    system = samples.mT @ samples + 0.3 * torch.eye(size, dtype=torch.float64)
    torch.testing.assert_close(system @ solved, samples.mT @ TARGETS.double())


@pytest.mark.parametrize("size", [4, 40])
def test_the_ridge_head_is_the_ridge_of_normalised_features_and_a_constant(size: int) -> None:
    support, query = clusters(1, 3, size=size)[0][:7], clusters(1, 4, size=size, seed=1)[0]
    fitted = Ridge().fit_features(support, LABELS, 3)
    oracle = RidgeOracle(alpha=Ridge.penalty, fit_intercept=False)
    oracle.fit(inputs(support).double().numpy(), TARGETS.double().numpy())
    expected = torch.from_numpy(oracle.predict(inputs(query).double().numpy())).float()
    torch.testing.assert_close(fitted.scores(query), COSINE_SCALE * expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [4, 40])
def test_the_logistic_head_is_that_of_scikit_learn(size: int) -> None:
    support, query = clusters(1, 3, size=size)[0][:7], clusters(1, 4, size=size, seed=1)[0]
    fitted = Logistic().fit_features(support, LABELS, 3)
    oracle = LogisticRegression(C=1 / Logistic.penalty, fit_intercept=False, tol=1e-8, max_iter=1000)
    oracle.fit(inputs(support).double().numpy(), LABELS.numpy())
    expected = torch.from_numpy(oracle.predict_proba(inputs(query).double().numpy())).float()
    torch.testing.assert_close(fitted.probabilities(query), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("ways", "each"), [(2, 1), (5, 1), (5, 5), (16, 20)])
def test_the_gradient_of_the_logistic_loss_vanishes(ways: int, each: int) -> None:
    support = inputs(clusters(3, each, ways, size=8).double())
    targets = functional.one_hot(torch.arange(ways).repeat_interleave(each), ways).double()
    solved = logistic_regression(support, targets, Logistic.penalty)
    residual = torch.softmax(support @ solved, -1) - targets
    gradient = support.mT @ residual + Logistic.penalty * solved
    assert float(gradient.norm()) < 1e-3 * float((support.mT @ targets).norm())


def test_few_and_many_samples_descend_by_the_same_path() -> None:
    support = inputs(clusters(3, 4, 5, size=8).double())
    wide = torch.cat([support, support.new_zeros(*support.shape[:-1], 60)], -1)
    targets = functional.one_hot(torch.arange(5).repeat_interleave(4), 5).double()
    assert support.shape[-1] < len(targets) < wide.shape[-1]
    for steps in (1, 7, 100):
        few, many = (logistic_regression(samples, targets, Logistic.penalty, steps) for samples in (wide, support))
        torch.testing.assert_close(few[..., : support.shape[-1], :], many, rtol=1e-9, atol=1e-12)


def test_the_sum_of_linear_weights_over_classes() -> None:
    for head in (Ridge(), Logistic()):
        support, labels = clusters(1, 2)[0], torch.arange(3).repeat_interleave(2)
        total = weights(head.fit_features(support, labels, 3)).sum(-1)
        if head.name == "logistic":
            torch.testing.assert_close(total, torch.zeros(6), atol=1e-4, rtol=0)
        else:
            # All classes together are the target 1 of every sample.
            expected = COSINE_SCALE * ridge_regression(inputs(support), torch.ones(6, 1), Ridge.penalty)[:, 0]
            torch.testing.assert_close(total, expected, atol=1e-5, rtol=1e-4)
