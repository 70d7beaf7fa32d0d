"""A draw of teachers that is learned: one preference a model, moved by policy gradient (REINFORCE, Williams 1992).

Models are drawn one after another without replacement, each by its weight among those that are left (Plackett-Luce:
Luce 1959, Plackett 1975). The weight of a model is the exponential of its preference.
"""

import math
from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from metazoo.errors import DataError
from metazoo.learn.meta_optimiser import MetaOptimiser

_PREFERENCES, _BASELINE = "preferences", "baseline"
# What one more reward makes up of its moving mean, and of its moving mean square deviation. The mean must follow a
# meta-model that gets better by itself; the deviation only gives the scale.
_MEAN_SHARE, _SPREAD_SHARE = 0.5, 0.1
_LEAST_WEIGHT = 1e-30  # a weight of 0 could not be drawn at all


def order_log_probability(logits: Tensor, order: Sequence[int]) -> Tensor:
    """Logarithm of the probability that `order` is drawn one by one without replacement, as a tensor of no dimension.

    Args:
        logits: logarithms of the items' weights up to a constant, float [n].
        order: different indices into `logits`, in the order of the draw.
    """
    chosen = torch.tensor(order)
    left = torch.ones(len(order), len(logits), dtype=torch.bool)
    for number, index in enumerate(order):
        left[number + 1 :, index] = False
    return (logits[chosen] - logits.expand_as(left).masked_fill(~left, -torch.inf).logsumexp(1)).sum()


@final
class DrawPolicy:
    """Preferences of N teachers, learned from rewards.

    The advantage of a reward is its distance from the moving mean of former rewards, in units of their moving standard
    deviation, which includes the reward itself. So an advantage is of order 1, and a single one has little effect.

    Args:
        count: number of teachers, N.
        size: number of teachers of a draw, 1 to N.
        learning_rate: learning rate of Adam on the preferences.
        prior: weights of the teachers that multiply those of the preferences, above 0, [N]; None if all are alike.
    """

    def __init__(self, count: int, size: int, learning_rate: float, *, prior: Tensor | None = None) -> None:
        self._size = size
        self._prior = torch.zeros(count, dtype=torch.float64) if prior is None else prior.double().log()
        self._preferences = torch.zeros(count, dtype=torch.float64)
        self._optimiser = MetaOptimiser({_PREFERENCES: self._preferences}, learning_rate)
        # Number of rewards, their mean, mean square deviation.
        self._baseline = torch.zeros(3, dtype=torch.float64)

    @property
    def preferences(self) -> Tensor:
        """Preferences of the teachers, float64 [N]; only their differences have a meaning."""
        return self._preferences.clone()

    @property
    def probabilities(self) -> Tensor:
        """Probability of each teacher in a draw of a single one: float64 [N], of sum 1."""
        return (self._preferences + self._prior).softmax(0)

    def draw(self, random: torch.Generator) -> tuple[int, ...]:
        """Indices of different teachers, in the order in which they were drawn."""
        logits = self._preferences + self._prior
        weights = (logits - logits.max()).exp().clamp_min(_LEAST_WEIGHT)
        return tuple(torch.multinomial(weights, self._size, generator=random).tolist())

    def learn(self, drawn: Sequence[int], reward: float) -> float:
        """Make a draw likelier if its reward is above the baseline, else less likely; the first only sets the baseline.

        Returns:
            The advantage: 0 the first time, and if all rewards are equal.

        Raises:
            DataError: the reward is not finite.
        """
        if not math.isfinite(reward):
            raise DataError(f"a reward of the selection is {reward}; lower learning.learning_rate")
        advantage = self._advantage(reward)
        if advantage != 0:
            leaf = self._preferences.clone().requires_grad_(True)
            with torch.enable_grad():
                loss = -advantage * order_log_probability(leaf + self._prior, drawn)
            (gradient,) = torch.autograd.grad(loss, leaf)
            self._optimiser.step({_PREFERENCES: gradient})
        return advantage

    def _advantage(self, reward: float) -> float:
        count, mean, square = self._baseline.tolist()
        deviation = reward - mean if count else 0.0
        if count:
            square += max(_SPREAD_SHARE, 1 / count) * (deviation**2 - square)
        mean += max(_MEAN_SHARE, 1 / (count + 1)) * (reward - mean)
        self._baseline = torch.tensor([count + 1, mean, square], dtype=torch.float64)
        return deviation / math.sqrt(square) if square > 0 else 0.0

    def state(self) -> dict[str, Tensor]:
        """Tensors by name, for a checkpoint."""
        return {**self._optimiser.state(), _BASELINE: self._baseline}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Resume from `state`.

        Raises:
            DataError: the tensors are not a state of as many teachers.
        """
        self._optimiser.restore(tensors)
        if _BASELINE not in tensors:
            raise DataError("the checkpoint does not fit the selection of teachers; start the run again")
        self._baseline = tensors[_BASELINE]
