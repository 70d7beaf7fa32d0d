"""95 % intervals over episodes and training seeds.

The interval over episodes says how far the mean over these episodes may lie from the mean over all episodes of the same
images. It does not cover other classes or images, which is why subjects are compared on one list, in pairs (Lafargue et
al. 2024).

Accuracies of several training seeds, [seeds, episodes], are a crossed design. The variance of their mean is taken as
the sum of two: that of the mean over seeds and that of the mean over episodes. It lies between the exact value and what
resampling seeds and episodes together gives in the limit (the pigeonhole bootstrap, Owen 2007): it counts the
interaction of seed and episode twice, where the bootstrap counts it three times. The quantile is that of Student's
distribution with Satterthwaite's degrees of freedom, so that three seeds give a wide interval; quantiles of a bootstrap
of three seeds would be far too narrow. Simulated intervals of two to five seeds hold the true mean in 93 to 98 %.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float64, Shaped
from scipy.special import stdtrit  # as `scipy.stats.t.ppf`, whose module takes a second to import
from torch import Tensor

from metazoo.errors import UsageError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean and the half-width of its 95 % interval, both in the unit of the values (percent for accuracies)."""

    mean: float
    half_width: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval."""
        return abs(self.mean) > self.half_width


def mean_interval(values: Shaped[Tensor, "..."]) -> Estimate:
    """Mean of accuracies with its interval.

    Args:
        values: accuracies [episodes], or [seeds, episodes] of several training seeds on the same episodes. A single
            seed gives the t interval over episodes, which does not cover the training seed.

    Raises:
        UsageError: fewer than two episodes, or another shape.
    """
    by_seed = _by_seed(values)
    return _estimate(by_seed.mean(0), [by_seed])


def paired_difference(first: Shaped[Tensor, "..."], second: Shaped[Tensor, "..."]) -> Estimate:
    """Mean of `first - second`, paired on the episodes, with its interval.

    The luck of an episode (easy classes, a good support image) meets both and mostly cancels, so this interval is
    narrower than what the two single ones suggest. Training seeds are independent of each other.

    Args:
        first: accuracies [episodes] or [seeds, episodes].
        second: accuracies on the same episodes; its number of seeds may differ.

    Raises:
        UsageError: the numbers of episodes differ, or as `mean_interval`.
    """
    first, second = _by_seed(first), _by_seed(second)
    if first.shape[1] != second.shape[1]:
        raise UsageError(
            "a paired difference",
            f"{first.shape[1]} and {second.shape[1]} episodes are not one list",
            "evaluate both on the same",
        )
    return _estimate(first.mean(0) - second.mean(0), [first, second])


def _by_seed(values: Shaped[Tensor, "..."]) -> Float64[Tensor, "seeds episodes"]:
    if values.dim() not in (1, 2) or values.shape[-1] < 2 or len(values) < 1:
        raise UsageError("an interval", f"needs at least 2 episodes, one number each, not {list(values.shape)}")
    return values.double().reshape(-1, values.shape[-1])


def _estimate(of_episodes: Float64[Tensor, " episodes"], groups: Sequence[Float64[Tensor, "_ episodes"]]) -> Estimate:
    means = [of_episodes, *(by_seed.mean(1) for by_seed in groups if len(by_seed) > 1)]
    variances = [(float(own.var()) / len(own), len(own) - 1) for own in means]
    total = sum(variance for variance, _ in variances)
    mean = float(of_episodes.mean())
    if total == 0:
        return Estimate(mean, 0.0)
    degrees = total**2 / sum(variance**2 / freedom for variance, freedom in variances)
    return Estimate(mean, float(stdtrit(degrees, (1 + CONFIDENCE) / 2)) * math.sqrt(total))
