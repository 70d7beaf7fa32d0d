"""Learning from groups with a learned selection of teachers; the accuracy of the meta-model is the reward."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from metazoo.data import EpisodeList, ImageSet
from metazoo.errors import DataError
from metazoo.execution.randomness import generator
from metazoo.features.embedders import Embedder
from metazoo.features.episode_accuracy import episode_accuracies, used_images
from metazoo.features.heads import NearestMean, query_features
from metazoo.learn.draw_policy import DrawPolicy
from metazoo.learn.group_learning import GroupLearner, StepReport
from metazoo.learn.meta_optimiser import of_prefix, with_prefix

_OWN = "selection."
_ACCURACY = "accuracy"

Measure = Callable[[Embedder], float]


def accuracy_on(images: ImageSet, episodes: EpisodeList) -> Measure:
    """Mean accuracy in percent by nearest mean on one and the same episodes, of a model that is learning.

    Such a model has no stored batch-norm statistics yet, so all images of the episodes pass as one batch that is
    normalised by its own, as while learning; their features are computed once for all episodes.
    """
    used, head = used_images(episodes), NearestMean()
    chosen = images.images[used]

    def measure(module: Embedder) -> float:
        features = query_features(module, chosen, "query")
        return float(episode_accuracies(features, used, episodes, head).mean())

    return measure


@dataclass(frozen=True)
class SelectionReport(StepReport):
    """Figures of one step.

    Attributes:
        validation_accuracy: accuracy as last measured, in percent.
        models_in_use: exponential of the entropy of the policy's probabilities, from 1 to the number of teachers.
    """

    validation_accuracy: float
    models_in_use: float


@final
class SelectingLearner:
    """A `GroupLearner` whose active teachers a policy draws.

    A draw serves some steps; then the meta-model's accuracy is its reward. Draws are numbered, and the policy changes
    only with a reward, so the state is that of the learner and of the policy, and the last accuracy.

    Args:
        learner: learner whose active teachers are selected.
        policy: policy that draws them and learns from the rewards.
        measure: accuracy of a model; see `accuracy_on`.
        steps_per_draw: steps that one draw serves, at least 1.
        seed: seed of the run.
    """

    def __init__(
        self, learner: GroupLearner, policy: DrawPolicy, measure: Measure, steps_per_draw: int, seed: int
    ) -> None:
        self.learner, self.policy = learner, policy
        self._measure, self._steps_per_draw, self._seed = measure, steps_per_draw, seed
        self._accuracy: float | None = None

    @property
    def steps_done(self) -> int:
        """Number of steps that the learner has done."""
        return self.learner.steps_done

    @property
    def accuracy(self) -> float:
        """Accuracy on the episodes as last measured, in percent."""
        if self._accuracy is None:
            self._accuracy = self._measure(self.learner.student.classifier)
        return self._accuracy

    def step(self) -> SelectionReport:
        """Learn from the active teachers; reward their draw after its last step.

        Raises:
            DataError: as `GroupLearner.step`.
            MetazooError: the features of the episodes' images are not finite.
        """
        number = self.steps_done // self._steps_per_draw
        active = self.policy.draw(generator(self._seed, "learn", "selection", number))
        self.learner.active = active
        report = self.learner.step()
        if self.steps_done % self._steps_per_draw == 0:
            self._accuracy = self._measure(self.learner.student.classifier)
            self.policy.learn(active, self._accuracy)
        probabilities = self.policy.probabilities
        entropy = -(probabilities * probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()).sum()
        return SelectionReport(**vars(report), validation_accuracy=self.accuracy, models_in_use=float(entropy.exp()))

    def state(self) -> dict[str, Tensor]:
        """Tensors by name, for a checkpoint."""
        own = {**self.policy.state(), _ACCURACY: torch.tensor(self.accuracy, dtype=torch.float64)}
        return self.learner.state() | with_prefix(_OWN, own)

    def restore(self, steps_done: int, tensors: Mapping[str, Tensor]) -> None:
        """Resume from `state` after `steps_done` steps.

        Raises:
            DataError: the tensors are not a state of this learner.
        """
        own = of_prefix(_OWN, tensors)
        if _ACCURACY not in own:
            raise DataError("the checkpoint does not know a selection of teachers; start the run again")
        self.policy.restore(own)
        self.learner.restore(steps_done, tensors)
        self._accuracy = float(own[_ACCURACY])
