"""Learning from a memory of interpolated tasks, refilled from chosen models: the core of Trustworthy-DFML (TPAMI 2025).

Two kinds of steps alternate. At a refill, some models are chosen and visited, their images enter the memory, and the
meta-model learns their probabilities by distillation. In all other steps it learns from tasks of the memory, so that it
does not forget what earlier models taught: an ordinary episode of classes of different models (*label recombination*),
or a mixture of the features of two episodes (*feature interpolation*).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int64
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from metazoo.errors import DataError
from metazoo.execution.randomness import generator, seed_of
from metazoo.execution.threads import CALLING_THREAD, WorkerThreads
from metazoo.features.batch_norm import calibrate_statistics
from metazoo.learn.episode_memory import EpisodeMemory
from metazoo.learn.learners import EpisodeImages, FunctionalClassifier, prototype_logits
from metazoo.learn.losses import distillation_loss
from metazoo.learn.meta_optimiser import MetaOptimiser, of_prefix, with_prefix
from metazoo.learn.model_choice import ModelChoice, Reward
from metazoo.learn.regularisers import Loss, MeanGradient, Parameters
from metazoo.learn.replay_learning import Visit
from metazoo.models import ImageClassifier

_CHOICE, _REWARD = "choice.", "reward."


class InterpolationConfig(BaseModel):
    """Options of learning from interpolated tasks. The defaults are those of the published code."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: int = Field(default=60_000, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0, description="learning rate of Adam")
    shots: int = Field(default=1, ge=1, description="support images per class; papers train one model for each")
    queries: int = Field(default=15, ge=1, description="query images per class")
    tasks_per_step: int = Field(default=4, ge=1, description="tasks of the memory in a step")
    interpolation: float = Field(
        default=0.5, ge=0, le=1, description="chance that a task mixes the features of two episodes"
    )
    concentration: float = Field(
        default=0.5, gt=0, le=1000, description="both parameters of the beta distribution of the mixing weight"
    )
    patience: int = Field(default=10, ge=1, description="steps without a better reward before the memory is refilled")
    reward_episodes: int = Field(default=4, ge=1, description="episodes of a step that the reward is measured on")
    slots: int = Field(
        default=20, ge=1, description="insertions that the memory keeps per class (published for doubtful models: 1)"
    )


@dataclass(frozen=True, eq=False)
class InterpolatedTask:
    """Mixture of two episodes of equal size: `weight` times the features of `second`, the rest of `first`.

    The weight is shared by support and queries, and class c of one episode is paired with class c of the other.
    Without a second episode, the task is the first.
    """

    first: EpisodeImages
    second: EpisodeImages | None = None
    weight: float = 0.0

    def logits(self, model: FunctionalClassifier, parameters: Parameters) -> Float[Tensor, "queries ways"]:
        """Prototype logits of the queries in feature space."""
        first, second = self.first, self.second
        support = model.features(parameters, first.support_images)
        queries = model.features(parameters, first.query_images)
        if second is not None:
            support = support.lerp(model.features(parameters, second.support_images), self.weight)
            queries = queries.lerp(model.features(parameters, second.query_images), self.weight)
        return prototype_logits(support, first.support_labels, queries, first.ways)

    def loss(self, model: FunctionalClassifier, parameters: Parameters) -> Float[Tensor, ""]:
        """Cross-entropy of the queries."""
        return functional.cross_entropy(self.logits(model, parameters), self.first.query_labels)


def draw_task(
    memory: EpisodeMemory, ways: int, config: InterpolationConfig, random: torch.Generator, seed: int
) -> InterpolatedTask:
    """Draw a task of a memory that holds an episode.

    The classes of the two episodes of a mixture are known to differ, so a memory with fewer than twice as many classes
    as ways, such as that of one model, interpolates nothing. The published code mixes any two episodes, also a class
    with itself and with its own rival.

    Args:
        memory: recovered images.
        ways: classes of an episode.
        config: options of the learning.
        random: generator of the draw.
        seed: seed of the mixing weight.

    Raises:
        DataError: the memory holds no episode.
    """
    shots, queries = config.shots, config.queries
    classes = memory.draw_classes(ways, shots + queries, random)
    if classes is None:
        return InterpolatedTask(memory.draw(ways, shots, queries, random))  # raises the error that says so
    first = memory.draw_of(classes, shots, queries, random)
    if float(torch.rand((), generator=random)) >= config.interpolation:
        return InterpolatedTask(first)
    others = memory.draw_classes(ways, shots + queries, random, unlike=classes)
    if others is None:
        return InterpolatedTask(first)
    return InterpolatedTask(first, memory.draw_of(others, shots, queries, random), beta(config.concentration, seed))


def beta(concentration: float, seed: int) -> float:
    """Draw from the symmetric beta distribution with both parameters `concentration`, by `seed`."""
    return float(np.random.default_rng(seed).beta(concentration, concentration))


def visit_distillation(
    model: FunctionalClassifier,
    parameters: Parameters,
    images: Float[Tensor, "n 3 side side"],
    labels: Int64[Tensor, " n"],
    taught: Float[Tensor, "n classes"],
    shots: int,
) -> Float[Tensor, ""]:
    """Mean over the queries of KL(teacher || meta-model), the meta-model by prototype logits.

    The first `shots` images of every class are the support, all others queries.

    Args:
        model: meta-model.
        parameters: its parameters.
        images: images of one teacher, more than `shots` of each class.
        labels: classes of the images.
        taught: logits of the teacher for the images, of the same classes.
        shots: support images per class.
    """
    ways = taught.shape[1]
    rank = functional.one_hot(labels, ways).cumsum(0).gather(1, labels.unsqueeze(1)).squeeze(1) - 1
    is_support = rank < shots
    logits = prototype_logits(
        model.features(parameters, images[is_support]),
        labels[is_support],
        model.features(parameters, images[~is_support]),
        ways,
    )
    return distillation_loss(logits, taught[~is_support], (ways,))


Refill = Callable[[int, Sequence[int]], Sequence[Visit]]
"""Function from the number of a refill and the chosen models to visits to these; equal arguments give equal visits."""


@dataclass(frozen=True)
class InterpolationReport:
    """Figures of one step.

    Attributes:
        step: number of the step, from 1.
        loss: mean loss of the tasks or visits.
        agreement: mean cosine of the gradients of two of them.
        accuracy: mean accuracy on the episodes of the reward, in percent.
        reward: reward of the step, in points.
        refills: number of refills so far.
        interpolated: share of the tasks that mix two episodes.
        effective_models: exponential of the entropy of the choice, from 1 to the number of models; low if few models
            are trusted.
    """

    step: int
    loss: float
    agreement: float
    accuracy: float
    reward: float
    refills: int
    interpolated: float
    effective_models: float


@final
class InterpolationLearner:
    """Learner that trains a meta-model on interpolated tasks, with a choice of models and a memory.

    All draws depend on the seed and the number of the step, so `state` is complete.

    Args:
        classifier: meta-model to train; its head is not used.
        memory: memory of the classes of all models, empty at first.
        refill: function from the number of a refill and the chosen models to visits.
        choice: choice of models.
        reward: reward of a step.
        config: options of the learning.
        seed: seed of the run.
        models: number of models.
        threads: worker threads that share the tasks of a step.
    """

    def __init__(
        self,
        classifier: ImageClassifier,
        memory: EpisodeMemory,
        refill: Refill,
        choice: ModelChoice,
        reward: Reward,
        config: InterpolationConfig,
        seed: int,
        *,
        models: int,
        threads: WorkerThreads = CALLING_THREAD,
    ) -> None:
        self.classifier, self.memory, self.choice, self.steps_done = classifier, memory, choice, 0
        self._model = FunctionalClassifier(classifier)
        self._device = next(classifier.parameters()).device
        own = {name: value for name, value in classifier.named_parameters() if not name.startswith("network.head.")}
        self._optimiser = MetaOptimiser(own, config.learning_rate)
        self._refill, self._reward, self._config, self._seed, self._threads = refill, reward, config, seed, threads
        self._mean = MeanGradient()
        self._chosen: tuple[int, ...] = ()
        self.visits = torch.zeros(models, dtype=torch.int64)
        self._refills = self._since_best = 0
        self._best = -torch.inf

    def step(self) -> InterpolationReport:
        """Learn from visits to chosen models or from tasks of the memory.

        Raises:
            DataError: the loss is not finite; the step is named.
        """
        config, number, parameters = self._config, self.steps_done, self._optimiser.parameters
        is_refill = self._since_best >= config.patience or not self._holds_episode()
        losses, interpolated = self._refilled() if is_refill else self._tasks(number)
        direction = self._mean.direction(losses, parameters, self._threads)
        if not bool(direction.losses.isfinite().all()):
            raise DataError("meta-model", f"the loss is not finite in step {number}", "lower learning.learning_rate")
        self._optimiser.step(direction.gradient)
        accuracy, reward = self._judge(number)
        self._since_best += 1
        if reward > self._best:
            self._best, self._since_best = reward, 0
        self.choice.observe(reward)
        self.steps_done += 1
        entropy = -self.choice.probabilities.xlogy(self.choice.probabilities).sum()
        loss, agreement = direction.losses.mean().item(), direction.agreement.item()
        return InterpolationReport(
            self.steps_done, loss, agreement, accuracy, reward, self._refills, interpolated, entropy.exp().item()
        )

    def _holds_episode(self) -> bool:
        ways = self.classifier.spec.classes
        return self._refills > 0 and self.memory.holds(ways, self._config.shots + self._config.queries)

    def _refilled(self) -> tuple[list[Loss], float]:
        """Losses of visits to newly chosen models, whose images enter the memory."""
        self._chosen = self.choice.draw(generator(self._seed, "learn", "choice", self._refills))
        visits = self._refill(self._refills, self._chosen)
        for visit in visits:
            self.memory.add(visit.images, visit.identities)
            self.visits[visit.teacher] += 1
        self._refills, self._since_best, self._best = self._refills + 1, 0, -torch.inf
        return [self._visit_loss(visit) for visit in visits], 0.0

    def _visit_loss(self, visit: Visit) -> Loss:
        images, labels = visit.images.to(self._device).float() / 255, visit.labels.to(self._device)
        with torch.no_grad():
            taught = visit.logits(images)
        return lambda parameters: visit_distillation(
            self._model, parameters, images, labels, taught, self._config.shots
        )

    def _tasks(self, number: int) -> tuple[list[Loss], float]:
        """Losses of tasks of the memory, and the share of mixtures."""
        ways, tasks = self.classifier.spec.classes, []
        for index in range(self._config.tasks_per_step):
            random = generator(self._seed, "learn task", index, number)
            weight = seed_of(self._seed, "mixing weight", index, number)
            tasks.append(draw_task(self.memory, ways, self._config, random, weight))
        mixed = sum(task.second is not None for task in tasks) / len(tasks)
        return [lambda parameters, task=task: task.loss(self._model, parameters) for task in tasks], mixed

    def _judge(self, number: int) -> tuple[float, float]:
        """Mean accuracy on the episodes of the reward, in percent, and the reward."""
        asked = self._reward.episodes(number, self._chosen)

        def accuracy(episode: EpisodeImages) -> Tensor:
            with torch.no_grad():
                logits = InterpolatedTask(episode).logits(self._model, self._optimiser.parameters)
            return (logits.argmax(1) == episode.query_labels).double().mean()

        values = [own.item() for own in self._threads.map(accuracy, [own.episode for own in asked])]
        reward = self._reward.of([(own.subject, value) for own, value in zip(asked, values, strict=True)])
        return 100 * sum(values) / max(1, len(values)), reward

    def calibrate(self) -> None:
        """Give the network stored batch-norm statistics, from images of the memory (published: none)."""
        calibrate_statistics(self.classifier, self.memory.calibration_batches(self._seed))

    def state(self) -> dict[str, Tensor]:
        """Tensors by name, for a checkpoint: parameters, moments, memory, choice, reward and counters."""
        counters = torch.tensor([self._refills, self._since_best, self._best], dtype=torch.float64)
        tensors = self._optimiser.state() | self.memory.state() | {"counters": counters, "visits": self.visits}
        tensors["chosen"] = torch.tensor(self._chosen, dtype=torch.int64)
        return tensors | with_prefix(_CHOICE, self.choice.state()) | with_prefix(_REWARD, self._reward.state())

    def restore(self, steps_done: int, tensors: Mapping[str, Tensor]) -> None:
        """Resume from `state` after `steps_done` steps.

        Raises:
            DataError: the tensors are not a state of this meta-model, memory, choice or reward.
        """
        self._optimiser.restore(tensors)
        self.memory.restore(tensors)
        self.choice.restore(of_prefix(_CHOICE, tensors))
        self._reward.restore(of_prefix(_REWARD, tensors))
        try:
            refills, since_best, self._best = tensors["counters"].tolist()
            self.visits.copy_(tensors["visits"])
            self._chosen = tuple(tensors["chosen"].tolist())
        except (KeyError, ValueError, RuntimeError) as error:
            raise DataError("checkpoint", f"does not fit the learner: {error}", "start the run again") from error
        self._refills, self._since_best = int(refills), int(since_best)
        self.steps_done = steps_done
