import math

import numpy as np
import pytest
import torch
from error_checks import raises
from scipy import stats
from torch import Tensor

from metazoo.errors import UsageError
from metazoo.evaluate import Estimate, mean_interval, paired_difference


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


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 1), (0, 3), (2, 3, 4)])
def test_an_interval_needs_a_list_of_two_episodes(shape: tuple[int, ...]) -> None:
    with raises(UsageError, subject="interval", problem=str(list(shape))):
        mean_interval(torch.ones(shape))


def test_lists_of_other_lengths_cannot_be_paired() -> None:
    with raises(UsageError, problem="3 and 4 episodes"):
        paired_difference(torch.ones(3), torch.ones(4))


def crossed(seeds: int, episodes: int, spread: tuple[float, float, float], random: torch.Generator) -> Tensor:
    """Random accuracies with given spreads of seeds, episodes and their interaction."""
    shapes = ((seeds, 1), (1, episodes), (seeds, episodes))
    parts = [own * torch.randn(shape, generator=random) for own, shape in zip(spread, shapes, strict=True)]
    return parts[0] + parts[1] + parts[2]


@pytest.mark.parametrize("spread", [(2.0, 10.0, 3.0), (0.0, 10.0, 3.0), (3.0, 1.0, 1.0)])
def test_about_95_of_100_intervals_over_seeds_hold_the_true_mean(spread: tuple[float, float, float]) -> None:
    random = torch.Generator().manual_seed(0)
    estimates = [mean_interval(crossed(3, 200, spread, random)) for _ in range(600)]
    held = sum(abs(estimate.mean) <= estimate.half_width for estimate in estimates) / len(estimates)
    assert 0.9 <= held <= 0.98
    # Over the episodes alone, the interval is wrong where seeds differ.
    alone = [mean_interval(crossed(3, 200, spread, random).mean(0)) for _ in range(600)]
    assert (sum(abs(own.mean) <= own.half_width for own in alone) / len(alone) < 0.9) == (spread[0] > 0)


def test_about_95_of_100_differences_over_seeds_hold_the_true_difference() -> None:
    random = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(600):
        luck = 10 * torch.randn(200, generator=random)
        one, two = (luck + crossed(seeds, 200, (1.0, 1.0, 1.0), random) for seeds in (3, 4))
        found = paired_difference(one, two)
        held += abs(found.mean) <= found.half_width
    assert 0.92 <= held / 600 <= 0.98


def test_the_variance_over_seeds_and_episodes_is_below_that_of_the_bootstrap() -> None:
    """The bootstrap over seeds and episodes counts their interaction three times, the interval twice."""
    values = crossed(40, 300, (1.0, 8.0, 2.0), torch.Generator().manual_seed(0)).double().numpy()
    random = np.random.default_rng(0)
    of_seeds = random.multinomial(40, np.full(40, 1 / 40), size=4000) / 40
    of_episodes = random.multinomial(300, np.full(300, 1 / 300), size=4000) / 300
    bootstrap = np.einsum("bs,se,be->b", of_seeds, values, of_episodes, optimize=True).std(ddof=1)
    own = mean_interval(torch.from_numpy(values)).half_width / stats.t.ppf(0.975, 300)
    assert own == pytest.approx(bootstrap, rel=0.05)
