"""95 % intervals over episodes and training seeds.

The interval over episodes covers the mean over all possible episodes of the same images. It does not cover other
classes or images, so subjects are compared on the same list of episodes, in pairs (Lafargue et al. 2024).

Accuracies of several training seeds, [seeds, episodes], are a crossed design. The variance of their mean is estimated
as the variance of the mean over seeds plus the variance of the mean over episodes. This estimate lies between the exact
value and the limit of the pigeonhole bootstrap over seeds and episodes (Owen 2007): it counts the interaction of seed
and episode twice, the bootstrap three times. The quantile is that of Student's distribution with Satterthwaite's
degrees of freedom, so three seeds give a wide interval; a bootstrap of three seeds would be far too narrow. Simulated
intervals of two to five seeds contain the true mean in 93 to 98 % of cases.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxtyping import Float64, Shaped
from scipy.special import stdtr, stdtrit  # `scipy.stats.t.ppf` is the same but takes a second to import
from torch import Tensor

from metazoo.errors import UsageError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """Mean and half-width of its 95 % interval, in the unit of the values (percent for accuracies).

    `p_value` is that of the two-sided test that the true mean is zero, by the same distribution as the interval.
    """

    mean: float
    half_width: float
    p_value: float = field(default=1.0, compare=False)

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval."""
        return abs(self.mean) > self.half_width


def mean_interval(values: Shaped[Tensor, "..."]) -> Estimate:
    """Mean of accuracies with its interval.

    Args:
        values: accuracies [episodes], or [seeds, episodes] for several training seeds on the same episodes. A single
            seed gives the t interval over episodes, which does not cover the training seed.

    Raises:
        UsageError: fewer than two episodes, or a wrong shape.
    """
    by_seed = _by_seed(values)
    return _estimate(by_seed.mean(0), [by_seed])


def paired_difference(first: Shaped[Tensor, "..."], second: Shaped[Tensor, "..."]) -> Estimate:
    """Mean of `first - second`, paired on the episodes, with its interval.

    The difficulty of an episode affects both and mostly cancels, so this interval is narrower than the two single
    intervals suggest. Training seeds are independent of each other.

    Args:
        first: accuracies [episodes] or [seeds, episodes].
        second: accuracies on the same episodes; its number of seeds may differ.

    Raises:
        UsageError: the numbers of episodes differ, are below two, or a shape is wrong.
    """
    first, second = _by_seed(first), _by_seed(second)
    if first.shape[1] != second.shape[1]:
        raise UsageError(
            "paired difference",
            f"{first.shape[1]} and {second.shape[1]} episodes are not the same list",
            "evaluate both on the same episodes",
        )
    return _estimate(first.mean(0) - second.mean(0), [first, second])


def _by_seed(values: Shaped[Tensor, "..."]) -> Float64[Tensor, "seeds episodes"]:
    if values.dim() not in (1, 2) or values.shape[-1] < 2 or len(values) < 1:
        raise UsageError("interval", f"needs at least 2 episodes, but the accuracies have shape {list(values.shape)}")
    return values.double().reshape(-1, values.shape[-1])


def _estimate(of_episodes: Float64[Tensor, " episodes"], groups: Sequence[Float64[Tensor, "_ episodes"]]) -> Estimate:
    means = [of_episodes, *(by_seed.mean(1) for by_seed in groups if len(by_seed) > 1)]
    variances = [(float(own.var()) / len(own), len(own) - 1) for own in means]
    total = sum(variance for variance, _ in variances)
    mean = float(of_episodes.mean())
    if total == 0:
        return Estimate(mean, 0.0, float(mean == 0))
    degrees = total**2 / sum(variance**2 / freedom for variance, freedom in variances)
    error = math.sqrt(total)
    p_value = 2 * float(stdtr(degrees, -abs(mean) / error))
    return Estimate(mean, float(stdtrit(degrees, (1 + CONFIDENCE) / 2)) * error, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values of several comparisons by Holm's method (1979), which bounds the chance of any false finding."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
