"""Automatic choice of the models that a meta-model learns from, by policy gradient, and the reward of a choice.

Trustworthy-DFML (TPAMI 2025) gives every model of the zoo one scalar, draws models without replacement from the softmax
of the scalars, and moves them by REINFORCE (Williams 1992) so that choices with a high reward become more probable.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from metazoo.errors import DataError
from metazoo.execution.optimisers import Adam
from metazoo.learn.learners import EpisodeImages


class ChoiceConfig(BaseModel):
    """Options of the choice of models. The defaults are those of the published code."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    strategy: Literal["policy", "uniform"] = Field(
        default="policy",
        description="policy: models are chosen by the reward that they bring, unless all are; uniform: all alike",
    )
    models: int = Field(default=4, ge=1, description="number of different models chosen at once, at most all")
    learning_rate: float = Field(default=0.1, gt=0, description="learning rate of Adam, for the weights of the models")
    steps_per_update: int = Field(default=4, ge=1, description="rewards whose mean moves the weights once")

    def build(self, count: int, first_baseline: float = 0.0) -> "ModelChoice":
        """Make the choice among `count` models; see `PolicyChoice` for the baseline.

        If all models are chosen every time, rewards say nothing of any of them, and the choice is uniform.
        """
        if self.strategy == "policy" and self.models < count:
            return PolicyChoice(count, self, first_baseline)
        return UniformChoice(count, self.models)


class ModelChoice(ABC):
    """Choice of some of `count` models, at every refill of a memory."""

    @abstractmethod
    def draw(self, random: torch.Generator) -> tuple[int, ...]:
        """Draw different models; call it at every refill."""

    def observe(self, reward: float) -> None:  # noqa: B027 - a choice at random learns nothing
        """Take the reward of one step, in points, for the models drawn last."""

    @property
    @abstractmethod
    def probabilities(self) -> Float[Tensor, " count"]:
        """Probabilities with which the first model of a draw is drawn, float64."""

    def state(self) -> dict[str, Tensor]:
        """Tensors by name, for a checkpoint."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: B027 - see `state`
        """Resume from `state`.

        Raises:
            DataError: the tensors are not a state of this choice.
        """


@final
class UniformChoice(ModelChoice):
    """Choice of `models` of `count` models, all with equal chances."""

    def __init__(self, count: int, models: int) -> None:
        self._count, self._models = count, min(models, count)

    def draw(self, random: torch.Generator) -> tuple[int, ...]:  # noqa: D102
        return tuple(torch.randperm(self._count, generator=random)[: self._models].tolist())

    @property
    def probabilities(self) -> Float[Tensor, " count"]:  # noqa: D102
        return torch.full((self._count,), 1 / self._count, dtype=torch.float64)


def log_probability(weights: Float[Tensor, " count"], drawn: Sequence[int]) -> Float[Tensor, ""]:
    """Log-probability of an ordered draw without replacement, differentiable in the weights.

    Every model is drawn with the softmax of the weights of those that are left (Plackett and Luce). The published code
    adds the log-probabilities of independent draws, which do not sum to 1 over all draws, so that its gradient has
    another mean.

    Args:
        weights: weights of the models.
        drawn: different models, in the order of the draw.
    """
    left = torch.ones(len(weights), dtype=torch.bool, device=weights.device)
    total = weights.new_zeros(())
    for model in drawn:
        total = total + weights[model] - weights[left].logsumexp(0)
        left = left.clone()
        left[model] = False
    return total


@final
class PolicyChoice(ModelChoice):
    """Choice by REINFORCE: weights move along (reward - baseline) times the gradient of the draw's log-probability.

    The weights move after every `steps_per_update` rewards, and at a refill by those that are left, each time with the
    mean of these rewards; the baseline is the mean over all refills so far of the mean reward between two refills. All
    of this is the schedule of the published code.

    Args:
        count: number of models.
        config: options of the choice.
        first_baseline: expected reward before there is one, in points. If it is far off, the models that are chosen
            first win or lose much by chance.
    """

    def __init__(self, count: int, config: ChoiceConfig, first_baseline: float = 0.0) -> None:
        self._config, self._models = config, min(config.models, count)
        self.weights = torch.ones(count, dtype=torch.float64)
        self._adam = Adam([self.weights])
        self._drawn: tuple[int, ...] = ()
        self.baseline, self._periods = first_baseline, 0
        self._recent: list[float] = []
        self._sum, self._count = 0.0, 0

    def draw(self, random: torch.Generator) -> tuple[int, ...]:  # noqa: D102
        self._settle()
        if self._count:
            self.baseline += (self._sum / self._count - self.baseline) / (self._periods + 1)
            self._periods, self._sum, self._count = self._periods + 1, 0.0, 0
        # The order of weights with Gumbel noise is that of draws without replacement.
        uniform = torch.rand(len(self.weights), generator=random, dtype=torch.float64)
        noise = -(-uniform.clamp(1e-300, 1 - 1e-16).log()).log()
        self._drawn = tuple((self.weights + noise).argsort(descending=True, stable=True)[: self._models].tolist())
        return self._drawn

    def observe(self, reward: float) -> None:  # noqa: D102
        self._recent.append(reward)
        self._sum, self._count = self._sum + reward, self._count + 1
        if len(self._recent) == self._config.steps_per_update:
            self._settle()

    def _settle(self) -> None:
        """Move the weights by the rewards since they last moved."""
        if not self._recent or not self._drawn:
            return
        advantage = math.fsum(self._recent) / len(self._recent) - self.baseline
        self._adam.step([policy_gradient(self.weights, self._drawn, advantage)], self._config.learning_rate)
        self._recent = []

    @property
    def probabilities(self) -> Float[Tensor, " count"]:  # noqa: D102
        return self.weights.softmax(0)

    def state(self) -> dict[str, Tensor]:  # noqa: D102
        moments = {f"optimiser.{name}": value for name, value in self._adam.state()[0].items()}
        numbers = [self.baseline, self._periods, self._sum, self._count]
        return {
            "weights": self.weights,
            "drawn": torch.tensor(self._drawn, dtype=torch.int64),
            "numbers": torch.tensor(numbers, dtype=torch.float64),
            "recent": torch.tensor(self._recent, dtype=torch.float64),
            **moments,
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: D102
        try:
            self.weights.copy_(tensors["weights"])
            self._adam.restore([{name: tensors[f"optimiser.{name}"] for name in self._adam.state()[0]}])
            self.baseline, periods, self._sum, count = tensors["numbers"].tolist()
            self._drawn, self._recent = tuple(tensors["drawn"].tolist()), tensors["recent"].tolist()
        except (KeyError, RuntimeError, ValueError) as error:
            problem = f"does not fit the choice of models: {error}"
            raise DataError("checkpoint", problem, "start the run again") from error
        self._periods, self._count = int(periods), int(count)


def policy_gradient(
    weights: Float[Tensor, " count"], drawn: Sequence[int], advantage: float
) -> Float[Tensor, " count"]:
    """Estimate of the gradient of minus the expected advantage, from one draw.

    Args:
        weights: weights of the models.
        drawn: different models, in the order of the draw.
        advantage: reward of the draw minus a baseline.
    """
    leaf = weights.detach().requires_grad_(True)
    with torch.enable_grad():
        loss = -advantage * log_probability(leaf, drawn)
    return torch.autograd.grad(loss, leaf)[0]


@dataclass(frozen=True, eq=False)
class RewardEpisode:
    """Episode that measures the meta-model, and the number of the subject that it belongs to."""

    subject: int
    episode: EpisodeImages


DrawRewardEpisodes = Callable[[int, Sequence[int]], Sequence[RewardEpisode]]
"""Function from the number of a step and the models chosen last to episodes, which these two numbers determine."""


@final
class Reward:
    """Reward of a step: the mean accuracy of the meta-model on some episodes, in points (percent).

    A centred reward is the mean of what each accuracy is above the expected one of its subject, a moving average of the
    subject's own accuracies. Then which subjects are asked does not matter: a choice cannot raise its reward by leaving
    out, or leaving in, the subjects that are hard for every meta-model.

    Args:
        episodes: function that draws the episodes of a step.
        subjects: number of subjects.
        centred: whether the reward is centred.
    """

    RATE = 0.1
    """Share of the latest accuracy in a moving average."""

    def __init__(self, episodes: DrawRewardEpisodes, subjects: int = 1, *, centred: bool = False) -> None:
        self.episodes, self._centred = episodes, centred
        self._expected = torch.full((subjects,), math.nan, dtype=torch.float64)

    def of(self, accuracies: Sequence[tuple[int, float]]) -> float:
        """Reward for the subjects and the accuracies (0 to 1) on the episodes of a step; 0 for none."""
        if not accuracies:
            return 0.0
        if not self._centred:
            return 100 * math.fsum(accuracy for _, accuracy in accuracies) / len(accuracies)
        total = 0.0
        for subject, accuracy in accuracies:
            before = float(self._expected[subject])
            above = 0.0 if math.isnan(before) else accuracy - before
            total += above
            self._expected[subject] = accuracy if math.isnan(before) else before + self.RATE * above
        return 100 * total / len(accuracies)

    def state(self) -> dict[str, Tensor]:
        """Tensors by name, for a checkpoint; NaN is a subject that was never asked."""
        return {"expected": self._expected} if self._centred else {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Resume from `state`.

        Raises:
            DataError: the tensors are not a state of this reward.
        """
        expected = tensors.get("expected")
        if (expected is None) == self._centred or (expected is not None and expected.shape != self._expected.shape):
            raise DataError("checkpoint", "does not fit the reward", "start the run again")
        if expected is not None:
            self._expected.copy_(expected)
