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
# meta-model that gets better by itself; the deviation only says how much is much.
_MEAN_SHARE, _SPREAD_SHARE = 0.5, 0.1
_LEAST_WEIGHT = 1e-30  # a weight of 0 could not be drawn at all


def order_log_probability(logits: Tensor, order: Sequence[int]) -> Tensor:
    """Logarithm of the probability that `order` is drawn one by one without replacement, as a tensor of no dimension.

    Args:
        logits: logarithms of the items' weights up to a constant, float [n].
        order: different places in `logits`, as they were drawn.
    """
    chosen = torch.tensor(order)
    left = torch.ones(len(order), len(logits), dtype=torch.bool)
    for number, place in enumerate(order):
        left[number + 1 :, place] = False
    return (logits[chosen] - logits.expand_as(left).masked_fill(~left, -torch.inf).logsumexp(1)).sum()


@final
class DrawPolicy:
    """Preferences of N teachers and what moves them.

    A reward is compared with a moving mean of the former ones and measured in their moving standard deviation, itself
    among them, so that an advantage is of order 1 and no single one counts for much.

    Args:
        count: N.
        size: of a draw, 1 to N.
        learning_rate: of Adam on the preferences.
        prior: weights of the teachers, above 0, [N], that those of the preferences multiply; None if all are alike.
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
        """Float64 [N]; only their differences mean something."""
        return self._preferences.clone()

    @property
    def probabilities(self) -> Tensor:
        """Of each teacher to be the one, were a single one drawn out of all: float64 [N], its sum 1."""
        return (self._preferences + self._prior).softmax(0)

    def draw(self, random: torch.Generator) -> tuple[int, ...]:
        """Indices of different teachers, in the order in which they were drawn."""
        logits = self._preferences + self._prior
        weights = (logits - logits.max()).exp().clamp_min(_LEAST_WEIGHT)
        return tuple(torch.multinomial(weights, self._size, generator=random).tolist())

    def learn(self, drawn: Sequence[int], reward: float) -> float:
        """Make a draw likelier if its reward is above the baseline, else less likely; the first only sets the baseline.

        Returns:
            The advantage: 0 the first time, and where all rewards are alike.

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
        """For a checkpoint."""
        return {**self._optimiser.state(), _BASELINE: self._baseline}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from `state`.

        Raises:
            DataError: the state is not one of so many teachers.
        """
        self._optimiser.restore(tensors)
        if _BASELINE not in tensors:
            raise DataError("the checkpoint does not fit the selection of teachers; start the run again")
        self._baseline = tensors[_BASELINE]
