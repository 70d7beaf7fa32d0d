import math

import pytest
import torch
from scipy import stats

from metazoo.errors import UsageError
from metazoo.evaluate import Estimate, mean_interval, paired_difference
from metazoo.evaluate.intervals import t_quantile


@pytest.mark.parametrize("degrees", [*range(1, 31), 99, 599, 999, 9999])
def test_t_quantiles_are_those_of_scipy(degrees: int) -> None:
    assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-9)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.999])
def test_t_quantiles_of_other_confidences(confidence: float) -> None:
    for degrees in (1, 2, 7, 1000):
        expected = stats.t.ppf((1 + confidence) / 2, degrees)
        assert t_quantile(degrees, confidence) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("count", [2, 3, 50])
def test_the_interval_of_a_mean_is_that_of_scipy(count: int) -> None:
    values = torch.rand(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64) * 100
    estimate = mean_interval(values)
    low, high = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values.numpy()))
    assert (estimate.mean - estimate.half_width, estimate.mean + estimate.half_width) == pytest.approx((low, high))


def test_about_95_of_100_intervals_hold_the_true_mean() -> None:
    samples = torch.randn(2000, 5, generator=torch.Generator().manual_seed(0))
    estimates = [mean_interval(sample) for sample in samples]
    held = sum(abs(estimate.mean) <= estimate.half_width for estimate in estimates)
    assert abs(held / 2000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


def test_equal_values_have_no_spread() -> None:
    assert mean_interval(torch.full((10,), 100.0)) == Estimate(100.0, 0.0)


def test_float32_and_whole_numbers_are_averaged_in_float64() -> None:
    assert mean_interval(torch.tensor([0, 100])).mean == 50
    assert mean_interval(torch.full((1000,), 1 / 3)).mean == pytest.approx(1 / 3, abs=1e-8)


def test_a_paired_difference_is_the_interval_of_the_differences() -> None:
    random = torch.Generator().manual_seed(0)
    luck = 20 * torch.randn(200, generator=random)
    first = 60 + luck + torch.randn(200, generator=random)
    second = 58 + luck + torch.randn(200, generator=random)
    paired = paired_difference(first, second)
    test = stats.ttest_rel(first.double().numpy(), second.double().numpy()).confidence_interval(0.95)
    assert (paired.mean - paired.half_width, paired.mean + paired.half_width) == pytest.approx((test.low, test.high))
    assert paired.excludes_zero
    assert paired_difference(second, first) == Estimate(-paired.mean, paired.half_width)
    # What both share drops out, so pairing sees what the two single intervals hide.
    assert paired.half_width < 0.2 * mean_interval(first).half_width


def test_no_difference_does_not_exclude_zero() -> None:
    values = torch.rand(10, generator=torch.Generator().manual_seed(0))
    assert not paired_difference(values, values).excludes_zero
    assert not Estimate(-1.0, 1.0).excludes_zero
    assert Estimate(-1.0, 0.9).excludes_zero


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 2)])
def test_an_interval_needs_a_list_of_two_episodes(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="an interval needs at least 2 episodes"):
        mean_interval(torch.ones(shape))


def test_lists_of_other_lengths_cannot_be_paired() -> None:
    with pytest.raises(UsageError, match="3 and 4 episodes are not one list"):
        paired_difference(torch.ones(3), torch.ones(4))
