"""Learning by meta-iterations: gradients of visited teachers, then replay of episodes until it stops improving."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Int64, UInt8
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn import functional

from metazoo.data.augment import crop_and_flip_alike, shift_and_flip
from metazoo.errors import DataError
from metazoo.execution.randomness import generator
from metazoo.execution.threads import CALLING_THREAD, WorkerThreads
from metazoo.features.batch_norm import calibrate_statistics
from metazoo.learn.episode_gradients import EpisodeGradients
from metazoo.learn.episode_memory import EpisodeMemory
from metazoo.learn.learners import FunctionalClassifier, Learner, LearnerName, build_learner
from metazoo.learn.learning_config import RegularisationConfig, TeachersPerUpdate, Update
from metazoo.learn.losses import distillation_loss, published_distillation_loss
from metazoo.learn.meta_optimiser import GROUPING, REGULARISER, VISITS, MetaOptimiser, of_prefix, with_prefix
from metazoo.learn.regularisers import Direction, Loss, MeanGradient, Parameters, Regulariser
from metazoo.learn.update_rules import MemberStep, ReptileConfig, UpdateRule, build_update, lower_rates
from metazoo.models import ImageClassifier
from metazoo.taskspace import Grouping


class ReplayConfig(BaseModel):
    """Options of replaying episodes. The defaults are those published with TGR (ICML 2024)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    learner: LearnerName = Field(default="maml", description="learner of `metazoo.learn.learners`")
    shots: int = Field(default=1, ge=1, description="support images per class; papers train one model for each")
    queries: int = Field(default=15, ge=1, description="query images per class")
    inner_steps: int = Field(default=5, ge=1, description="gradient steps on the support set")
    inner_learning_rate: float = Field(default=0.01, gt=0)
    episodes_per_update: int = Field(default=16, ge=1)
    patience: int = Field(default=4, ge=1, description="updates without a better accuracy before a replay ends")
    most_updates: int = Field(
        default=1000, ge=0, description="most updates of a replay (published: no bound); 0: no replay"
    )
    slots: int = Field(default=20, ge=1, description="insertions that the memory keeps per class")

    def build_learner(self) -> Learner:
        """Make the learner of these options."""
        return build_learner(self.learner, steps=self.inner_steps, learning_rate=self.inner_learning_rate)


@dataclass(frozen=True)
class ReplayReport:
    """Figures of one replay: number of updates, and loss and accuracy (0 to 1) of the best update on its episodes."""

    updates: int
    loss: float
    accuracy: float


def replay(
    gradients: EpisodeGradients,
    optimiser: MetaOptimiser,
    memory: EpisodeMemory,
    config: ReplayConfig,
    seed: int,
    iteration: int,
    *,
    check: Callable[[], None] = lambda: None,
) -> ReplayReport:
    """Update the parameters of `optimiser` on batches of episodes from `memory`.

    Every update descends along the gradient of the summed losses of a batch. The replay ends after `patience` updates
    in a row whose accuracy on their own batch is not above the best so far (published stopping rule). If the memory
    holds too few classes for an episode, there are no updates.

    Args:
        gradients: gradients of episodes, at the parameters of the optimiser.
        optimiser: optimiser of the whole meta-iteration, as published.
        memory: memory of recovered images.
        config: options of the replay.
        seed: seed of the run.
        iteration: number of the meta-iteration, which determines the draw of episodes.
        check: function that is called before every update, and may raise.

    Raises:
        DataError: a loss is not finite.
    """
    ways = gradients.model.classifier.spec.classes
    if not memory.holds(ways, config.shots + config.queries):
        return ReplayReport(0, 0.0, 0.0)
    best = ReplayReport(0, 0.0, -1.0)
    updates = since_best = 0
    while since_best < config.patience and updates < config.most_updates:
        check()
        random = generator(seed, "replay", str(iteration), updates)
        episodes = [memory.draw(ways, config.shots, config.queries, random) for _ in range(config.episodes_per_update)]
        batch = gradients(episodes)
        if not bool(torch.isfinite(batch.loss)):
            raise DataError(
                "replay",
                f"the loss is not finite in meta-iteration {iteration}",
                "lower learning.learning_rate or learning.replay.inner_learning_rate",
            )
        optimiser.step(batch.gradient)
        updates += 1
        since_best += 1
        if batch.accuracy.item() > best.accuracy:
            best, since_best = ReplayReport(updates, batch.loss.item(), batch.accuracy.item()), 0
    return ReplayReport(updates, best.loss, max(best.accuracy, 0.0))


@dataclass(frozen=True, eq=False)
class Visit:
    """Contribution of one teacher to a meta-iteration.

    Attributes:
        images: recovered images at the size of the meta-model, on any device.
        labels: relative labels, from 0 to the number of chosen classes - 1.
        identities: classes of the images in the memory.
        logits: function from float images [m, 3, side, side] in [0, 1] to the teacher's logits of the chosen classes,
            [m, classes].
        teacher: index of the teacher.
    """

    images: UInt8[Tensor, "n 3 side side"]
    labels: Int64[Tensor, " n"]
    identities: Int64[Tensor, " n"]
    logits: Callable[[Tensor], Tensor]
    teacher: int


VisitTeachers = Callable[[int], Sequence[Visit]]
"""Function from the number of a meta-iteration to its visits; without a state, equal numbers give equal visits."""


class VisitSource(ABC):
    """Function from the number of a meta-iteration to its visits, with a state that every call may change.

    The default, for subclasses without a state: it is empty.
    """

    @abstractmethod
    def __call__(self, iteration: int) -> Sequence[Visit]:
        """Visits of a meta-iteration; equal states and numbers give equal visits."""

    def state(self) -> dict[str, Tensor]:
        """Tensors by name, for a checkpoint."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: B027 - most sources have no state
        """Resume from `state`.

        Raises:
            DataError: the tensors are not a state of this source.
        """


class ReplayLearningConfig(BaseModel):
    """Options of learning by meta-iterations. The defaults are those published with TGR (ICML 2024)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    iterations: int = Field(default=1200, ge=1, description="meta-iterations; published for mixed zoos: 1000")
    learning_rate: float = Field(default=1e-3, gt=0, description="learning rate of Adam, for visits and replay")
    cross_entropy: float = Field(default=1.0, ge=0, description="weight of the loss by recovered labels")
    distillation: float = Field(default=1.0, ge=0, description="weight of the loss by the teacher's probabilities")
    distillation_form: Literal["published", "divergence"] = Field(
        default="published", description="published: probabilities instead of their logarithm; divergence: KL"
    )
    shared_augmentation: bool = Field(default=True, description="one crop and flip for all images, as published")
    shift: float = Field(default=0.125, ge=0, lt=0.5, description="largest shift, as a share of the side")
    second_augmentation: bool = Field(
        default=False,
        description="other crops and flips for gradients at displaced points, as published for mixed zoos",
    )
    regularisation: RegularisationConfig = RegularisationConfig(
        displacement=1e-3, strength=1e-3, differentiate_displacement=True
    )
    update: Update = "joint"
    teachers_per_update: TeachersPerUpdate = 2
    reptile: ReptileConfig = ReptileConfig()
    replay: ReplayConfig = ReplayConfig()

    @model_validator(mode="after")
    def _check(self) -> "ReplayLearningConfig":
        if not (self.cross_entropy or self.distillation):
            raise ValueError("cross_entropy and distillation are 0; raise one of them")
        return self


@dataclass(frozen=True)
class IterationReport:
    """Figures of one meta-iteration: means of the figures of `Direction`, and figures of `ReplayReport`."""

    step: int
    loss: float
    agreement: float
    disagreement: float
    relative_change: float
    replay_updates: int
    replay_loss: float
    replay_accuracy: float


@final
class ReplayLearner:
    """Learner that trains a meta-model with its head in meta-iterations, with an optimiser and a memory.

    All draws depend on the seed and the number of the iteration, so `state` is complete. It includes the state of
    regulariser, grouping and source of visits.

    Args:
        classifier: meta-model to train, with its head.
        memory: memory of the classes of all teachers.
        visit: function from the number of a meta-iteration to its visits, such as a `VisitSource`. If the regulariser
            needs a held-out loss, the last visit to a teacher without other visits provides it and gives no direction.
            Nothing is held out if there is none, or a single visit.
        config: options of the learning.
        seed: seed of the run.
        grouping: grouping from which the visited teachers are drawn; None if it neither observes nor has a state.
        regulariser: regulariser; None: the regulariser of the config.
        update: rule by which the visits move the parameters; None: the rule of the config.
        grows: whether visits are added to the memory; otherwise it is full from the start and not part of the state.
        threads: worker threads that compute the gradients of teachers and episodes.
        check: function that is called before every update of the replay, and may raise.
    """

    def __init__(
        self,
        classifier: ImageClassifier,
        memory: EpisodeMemory,
        visit: VisitTeachers,
        config: ReplayLearningConfig,
        seed: int,
        *,
        grouping: Grouping | None = None,
        regulariser: Regulariser | None = None,
        update: UpdateRule | None = None,
        grows: bool = True,
        threads: WorkerThreads = CALLING_THREAD,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.classifier, self.memory, self.steps_done = classifier, memory, 0
        self._model = FunctionalClassifier(classifier)
        self._device = next(classifier.parameters()).device
        self._optimiser = MetaOptimiser(dict(classifier.named_parameters()), config.learning_rate)
        self._gradients = EpisodeGradients(
            config.replay.build_learner(), self._model, self._optimiser.parameters, threads=threads
        )
        self._regulariser, self._mean = regulariser or config.regularisation.build(), MeanGradient()
        self._update = update or build_update(config.update, config.teachers_per_update, config.reptile)
        self._grouping = grouping
        self._threads = threads
        self._visit, self._config, self._seed, self._grows, self._check = visit, config, seed, grows, check

    def step(self) -> IterationReport:
        """Do one meta-iteration.

        Raises:
            DataError: a loss is not finite; the iteration is named.
        """
        number = self.steps_done
        visits = [*self._visit(number)]
        for visit in visits:
            if self._grows:
                self.memory.add(visit.images, visit.identities)
        regulariser = self._regulariser if self._config.regularisation.is_due(number + 1) else self._mean
        alone = _last_alone(visits) if regulariser.needs_held_out else None
        if alone is not None:
            visits.append(visits.pop(alone))
        losses = self._losses(visits, "augment", number)
        second = self._losses(visits, "augment again", number) if self._config.second_augmentation else losses
        held_out = losses.pop() if alone is not None else None
        parameters = self._optimiser.parameters

        def direct(positions: Sequence[int]) -> Direction:
            own, displaced = ([given[position] for position in positions] for given in (losses, second))
            found = regulariser.direction(own, parameters, self._threads, displaced=displaced, held_out=held_out)
            if not bool(found.losses.isfinite().all()):
                problem = f"the loss is not finite in meta-iteration {number}"
                raise DataError("meta-model", problem, lower_rates(self._config.update))
            return found

        def values() -> Tensor:
            with torch.no_grad():
                return torch.stack(list(self._threads.map(lambda loss: loss(parameters), losses)))

        members = [visit.teacher for visit in visits[: len(losses)]]
        step = MemberStep(members, direct, values, self._optimiser, grouping=self._grouping)
        self._update.step(step)
        replayed = replay(
            self._gradients, self._optimiser, self.memory, self._config.replay, self._seed, number, check=self._check
        )
        self.steps_done += 1
        loss, agreement, disagreement, change = (figure.item() for figure in step.figures())
        replay_figures = replayed.updates, replayed.loss, replayed.accuracy
        return IterationReport(self.steps_done, loss, agreement, disagreement, change, *replay_figures)

    def _losses(self, visits: Sequence[Visit], draw: str, number: int) -> list[Loss]:
        images = self._augmented(visits, generator(self._seed, "learn", draw, number))
        return [self._loss(visit, own) for visit, own in zip(visits, images, strict=True)]

    def _augmented(self, visits: Sequence[Visit], random: torch.Generator) -> list[Tensor]:
        stacked = torch.cat([visit.images for visit in visits]).to(self._device).float() / 255
        padding = round(stacked.shape[-1] * self._config.shift)
        augment = crop_and_flip_alike if self._config.shared_augmentation else shift_and_flip
        return list(augment(stacked, padding, random).split([len(visit.images) for visit in visits]))

    def _loss(self, visit: Visit, images: Tensor) -> Loss:
        config = self._config
        with torch.no_grad():
            taught = visit.logits(images)
        labels = visit.labels.to(images.device)
        classes = taught.shape[1]

        def loss(parameters: Parameters) -> Tensor:
            logits = self._model.logits(parameters, images)[:, :classes]
            total = config.cross_entropy * functional.cross_entropy(logits, labels)
            if not config.distillation:
                return total
            if config.distillation_form == "published":
                return total + config.distillation * published_distillation_loss(logits, taught)
            return total + config.distillation * distillation_loss(logits, taught, (classes,))

        return loss

    def calibrate(self) -> None:
        """Give the network stored batch-norm statistics, from images of the memory (published: none)."""
        calibrate_statistics(self.classifier, self.memory.calibration_batches(self._seed))

    def state(self) -> dict[str, Tensor]:
        """Tensors by name, for a checkpoint: parameters, moments, memory, and the states of all parts."""
        tensors = self._optimiser.state() | (self.memory.state() if self._grows else {})
        tensors |= with_prefix(REGULARISER, self._regulariser.state())
        if isinstance(self._visit, VisitSource):
            tensors |= with_prefix(VISITS, self._visit.state())
        return tensors | with_prefix(GROUPING, self._grouping.state() if self._grouping else {})

    def restore(self, steps_done: int, tensors: Mapping[str, Tensor]) -> None:
        """Resume from `state` after `steps_done` iterations.

        Raises:
            DataError: the tensors are not a state of this meta-model, memory, regulariser, grouping or source.
        """
        self._optimiser.restore(tensors)
        self._regulariser.restore(of_prefix(REGULARISER, tensors))
        if isinstance(self._visit, VisitSource):
            self._visit.restore(of_prefix(VISITS, tensors))
        if self._grouping is not None:
            self._grouping.restore(of_prefix(GROUPING, tensors))
        if self._grows:
            self.memory.restore(tensors)
        self.steps_done = steps_done


def _last_alone(visits: Sequence[Visit]) -> int | None:
    """Position of the last visit to a teacher without other visits; None if there is none, or a single visit."""
    teachers = [visit.teacher for visit in visits]
    alone = [position for position, teacher in enumerate(teachers) if teachers.count(teacher) == 1]
    return alone[-1] if alone and len(visits) > 1 else None
