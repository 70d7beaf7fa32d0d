"""95 % intervals over episodes.

An interval says how far the mean over these episodes may lie from the mean over all episodes of the same images. It
does not cover other classes or images, which is why subjects are compared on one list, in pairs (Lafargue et al. 2024).
"""

import math
from dataclasses import dataclass
from functools import cache

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


def mean_interval(values: Tensor) -> Estimate:
    """Mean of `values` [episodes] with its t interval: t(0.975, n - 1) times the standard error.

    Raises:
        UsageError: there are fewer than two episodes.
    """
    count = values.numel()
    if values.dim() != 1 or count < 2:
        raise UsageError(f"an interval needs at least 2 episodes, one number each, not {list(values.shape)}")
    spread = float(values.double().std(correction=1))
    return Estimate(float(values.double().mean()), t_quantile(count - 1) * spread / math.sqrt(count))


def paired_difference(first: Tensor, second: Tensor) -> Estimate:
    """Mean of `first - second`, both [episodes] over one and the same list, with its interval.

    The luck of an episode (easy classes, a good support image) meets both and mostly cancels, so this interval is
    narrower than what the two single ones suggest.

    Raises:
        UsageError: the lengths differ, or there are fewer than two episodes.
    """
    if first.shape != second.shape:
        raise UsageError(f"{len(first)} and {len(second)} episodes are not one list; evaluate both on the same")
    return mean_interval(first.double() - second.double())


@cache
def t_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """The t with P(|T| <= t) = `confidence` for Student's distribution of `degrees` >= 1 degrees of freedom."""
    low, high = 0.0, 1.0
    while _within(high, degrees) < confidence:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < confidence else (low, middle)
    return (low + high) / 2


def _within(t: float, degrees: int) -> float:
    # The finite series of Abramowitz & Stegun 26.7.3 (odd degrees) and 26.7.4 (even degrees).
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for power in range(2 + odd, degrees - 1, 2):
        term *= cosine * cosine * (power - 1) / power
        total += term
    return (angle + sine * total) * 2 / math.pi if odd else sine * total
