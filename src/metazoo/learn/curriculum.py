"""Episode curriculum inversion (PURER, CVPR 2023): learned images that get harder with the meta-model.

The meta-model learns from episodes of images that are themselves learned by inversion. While its accuracy rises,
inversion steps are plain. When it has stopped rising, one inversion step also raises the loss that the meta-model has
on an episode after adapting to it, so that the images get harder, and the accuracy is observed anew (the *gradient
switch*).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from metazoo.errors import DataError
from metazoo.execution.randomness import generator
from metazoo.execution.threads import CALLING_THREAD, WorkerThreads
from metazoo.features.batch_norm import calibrate_statistics
from metazoo.learn.episode_gradients import EpisodeGradients
from metazoo.learn.episode_memory import CALIBRATION_BATCH, CALIBRATION_IMAGES, draw_classes
from metazoo.learn.learners import EpisodeImages, FunctionalClassifier, LearnerName, build_learner
from metazoo.learn.meta_optimiser import MetaOptimiser, of_prefix, with_prefix
from metazoo.models import ImageClassifier

_IMAGES, _SWITCH = "images.", "switch"


class CurriculumConfig(BaseModel):
    """Options of learning from images that get harder. The defaults are those published with PURER (CVPR 2023)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: int = Field(default=60_000, ge=1, description="meta-batches, each one step of Adam")
    episodes_per_step: int = Field(default=4, ge=1, description="episodes of a meta-batch")
    learning_rate: float = Field(default=1e-3, gt=0, description="learning rate of Adam on the meta-model")
    learner: LearnerName = Field(default="maml", description="learner of `metazoo.learn.learners`")
    shots: int = Field(default=5, ge=1, description="support images per class; papers train one model for each")
    queries: int = Field(default=15, ge=1, description="query images per class")
    inner_steps: int = Field(default=1, ge=1, description="gradient steps on the support set")
    inner_learning_rate: float = Field(default=0.01, gt=0)
    steps_per_inversion: int = Field(default=1, ge=1, description="meta-batches after each inversion step")
    curriculum: float = Field(
        default=10.0, ge=0, description="weight of the loss of an episode, which the images raise; 0: never harder"
    )
    start: int = Field(default=4000, ge=0, description="meta-batches before the images first get harder")
    patience: int = Field(
        default=6, ge=1, description="meta-batches in a row without a better accuracy before the images get harder"
    )


@runtime_checkable
class LearnedImages(Protocol):
    """Images of classes, which inversion steps change.

    Attributes:
        pixels: images in [0, 1].
        classes: class of each image, on the CPU.
    """

    pixels: Float[Tensor, "n 3 side side"]
    classes: Int64[Tensor, " n"]

    def step(
        self, number: int, added: tuple[Int64[Tensor, " m"], Float[Tensor, "m 3 side side"]] | None = None
    ) -> Float[Tensor, ""]:
        """Do inversion step `number` and return its loss.

        Args:
            number: number of the step; equal numbers use equal random numbers.
            added: different indices of images, and gradients of a further loss with respect to these images.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """Tensors by name, for a checkpoint."""
        ...

    def restore(self, tensors: Mapping[str, Tensor], /) -> None:
        """Resume from `state`."""


@final
class GradientSwitch:
    """Decision which inversion steps make images harder.

    From meta-batch `start` on, the switch is armed after `patience` meta-batches in a row whose accuracy is not above
    the best since the switch was last used; it is also armed at meta-batch `start` itself.

    Args:
        start: number of the first observed meta-batch, counted from 0.
        patience: number of meta-batches without a better accuracy.
    """

    def __init__(self, start: int, patience: int) -> None:
        self._start, self._patience = start, patience
        self._best, self._since_best, self._armed = -1.0, 0, False

    def is_armed_at(self, number: int) -> bool:
        """Whether an inversion step before meta-batch `number` makes images harder; arm the switch at the start."""
        self._armed = self._armed or number == self._start
        return self._armed

    def reset(self) -> None:
        """Disarm the switch and forget the best accuracy."""
        self._best, self._since_best, self._armed = -1.0, 0, False

    def observe(self, number: int, accuracy: float) -> None:
        """Observe the accuracy (0 to 1) of meta-batch `number`."""
        if number < self._start:
            return
        self._since_best = 0 if accuracy > self._best else self._since_best + 1
        self._best = max(self._best, accuracy)
        self._armed = self._armed or self._since_best >= self._patience

    def state(self) -> Float[Tensor, " 3"]:
        """Best accuracy, meta-batches since it, and whether the switch is armed, float64."""
        return torch.tensor([self._best, self._since_best, self._armed], dtype=torch.float64)

    def restore(self, state: Float[Tensor, " 3"]) -> None:
        """Resume from `state`."""
        best, since_best, armed = state.tolist()
        self._best, self._since_best, self._armed = best, int(since_best), bool(armed)


@dataclass(frozen=True)
class CurriculumReport:
    """Figures of one meta-batch.

    Attributes:
        step: number of the meta-batch, counted from 1.
        loss: mean query loss of its episodes.
        accuracy: mean query accuracy, 0 to 1.
        inversion_loss: loss of the latest inversion step, without the part that the meta-model adds.
        harder_steps: number of inversion steps so far that made images harder.
    """

    step: int
    loss: float
    accuracy: float
    inversion_loss: float
    harder_steps: int


@final
class CurriculumLearner:
    """Learner that trains a meta-model with its head on episodes of learned images, and inverts these images further.

    All draws depend on the seed and the number of the meta-batch, so `state` is complete.

    Args:
        classifier: meta-model to train, with its head, whose outputs are the ways of an episode.
        images: images to learn from.
        config: options of the learning.
        seed: seed of the run.
        conflicts: pairs of classes that may be equal and must not be in one episode, symmetric; None if there are none.
        threads: worker threads that share the episodes of a meta-batch.
        check: function that is called between inversion and episodes, and may raise.
    """

    def __init__(
        self,
        classifier: ImageClassifier,
        images: LearnedImages,
        config: CurriculumConfig,
        seed: int,
        *,
        conflicts: Bool[Tensor, "identities identities"] | None = None,
        threads: WorkerThreads = CALLING_THREAD,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.classifier, self.images, self.steps_done = classifier, images, 0
        self._config, self._seed, self._check = config, seed, check
        self._optimiser = MetaOptimiser(dict(classifier.named_parameters()), config.learning_rate)
        learner = build_learner(config.learner, steps=config.inner_steps, learning_rate=config.inner_learning_rate)
        model = FunctionalClassifier(classifier)
        self._gradients = EpisodeGradients(learner, model, self._optimiser.parameters, threads=threads)
        count = int(images.classes.max()) + 1
        self._conflicts = torch.zeros(count, count, dtype=torch.bool) if conflicts is None else conflicts
        self._switch = GradientSwitch(config.start, config.patience)
        self._inversion_loss, self._harder_steps = 0.0, 0

    def step(self) -> CurriculumReport:
        """Learn from one meta-batch, after an inversion step if one is due.

        Raises:
            DataError: a loss is not finite, or no episode can be drawn.
            ZooError: the loss of a teacher is not finite.
        """
        config, number = self._config, self.steps_done
        is_armed = self._switch.is_armed_at(number) and config.curriculum > 0
        if number % config.steps_per_inversion == 0:
            added = self._harder(number) if is_armed else None
            self._inversion_loss = self.images.step(number, added).item()
            if is_armed:
                self._switch.reset()
                self._harder_steps += 1
            self._check()
        random = generator(self._seed, "curriculum", "episodes", number)
        batch = self._gradients([self.episode(random)[0] for _ in range(config.episodes_per_step)])
        self._require_finite(batch.loss, number)
        self._optimiser.step(batch.gradient)
        accuracy = batch.accuracy.item()
        self._switch.observe(number, accuracy)
        self.steps_done += 1
        return CurriculumReport(self.steps_done, batch.loss.item(), accuracy, self._inversion_loss, self._harder_steps)

    def episode(self, random: torch.Generator) -> tuple[EpisodeImages, Int64[Tensor, " m"]]:
        """Draw an episode: classes uniformly, then different images of each class for support and query.

        Returns:
            Episode, and the indices of its images, those of the support first.

        Raises:
            DataError: too few classes have enough images, or too many of them conflict.
        """
        config, ways, classes = self._config, self.classifier.spec.classes, self.images.classes
        needed = config.shots + config.queries
        ready = (torch.bincount(classes) >= needed).nonzero().flatten()
        chosen = draw_classes(ready, self._conflicts, ways, random)
        if chosen is None:
            raise DataError(
                "learned images",
                f"no {ways} classes that are known to differ have {needed} images each",
                "raise budget.images_per_class, or lower meta_model.ways, learning.shots or learning.queries",
            )
        support, query = [], []
        for identity in chosen:
            own = (classes == identity).nonzero().flatten()
            drawn = own[torch.randperm(len(own), generator=random)[:needed]]
            support.append(drawn[: config.shots])
            query.append(drawn[config.shots :])
        rows = torch.cat([*support, *query]).to(self.images.pixels.device)
        support_images, query_images = self.images.pixels[rows].split([ways * config.shots, ways * config.queries])
        return EpisodeImages.of_classes(support_images, query_images, ways), rows

    def _harder(self, number: int) -> tuple[Tensor, Tensor]:
        """Images of one episode, and gradients whose descent raises the query loss of the meta-model on it."""
        episode, rows = self.episode(generator(self._seed, "curriculum", "harder", number))
        found = self._gradients.of_images(episode)
        gradient = torch.cat([found.support, found.query])
        self._require_finite(found.loss + gradient.sum(), number)
        return rows, -self._config.curriculum * gradient

    def _require_finite(self, value: Tensor, number: int) -> None:
        if not bool(value.isfinite()):
            raise DataError(
                "meta-model",
                f"the loss is not finite in meta-batch {number}",
                "lower learning.learning_rate or learning.inner_learning_rate",
            )

    def calibrate(self) -> None:
        """Give the network stored batch-norm statistics, from some of the images (published: none)."""
        random = generator(self._seed, "curriculum", "calibration", 0)
        pixels = self.images.pixels
        chosen = torch.randperm(len(pixels), generator=random)[:CALIBRATION_IMAGES].to(pixels.device)
        calibrate_statistics(self.classifier, (pixels[part] for part in chosen.split(CALIBRATION_BATCH)))

    def state(self) -> dict[str, Tensor]:
        """Tensors by name, for a checkpoint: parameters, moments, images, and the state of the switch."""
        figures = torch.tensor([self._inversion_loss, self._harder_steps], dtype=torch.float64)
        switch = torch.cat([self._switch.state(), figures])
        return self._optimiser.state() | with_prefix(_IMAGES, self.images.state()) | {_SWITCH: switch}

    def restore(self, steps_done: int, tensors: Mapping[str, Tensor]) -> None:
        """Resume from `state` after `steps_done` meta-batches.

        Raises:
            DataError: the tensors are not a state of this meta-model or of these images.
        """
        self._optimiser.restore(tensors)
        self.images.restore(of_prefix(_IMAGES, tensors))
        switch = tensors.get(_SWITCH)
        if switch is None or switch.shape != (5,):
            raise DataError("checkpoint", "has no gradient switch", "start the run again")
        self._switch.restore(switch[:3])
        self._inversion_loss, self._harder_steps = float(switch[3]), int(switch[4])
        self.steps_done = steps_done
