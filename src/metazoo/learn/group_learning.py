"""The meta-model while it learns: its network, and what it predicts of every teacher."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from metazoo.bank import ResidentBank
from metazoo.errors import DataError
from metazoo.execution.process_memory import give_back_memory
from metazoo.execution.randomness import generator, seed_of
from metazoo.execution.repeat import Repeated
from metazoo.execution.threads import CALLING_THREAD, ThreadCopies, WorkerThreads
from metazoo.features.batch_norm import batch_statistics, calibrate_statistics
from metazoo.learn.learning_config import LearningConfig
from metazoo.learn.losses import distillation_loss, joint_feature_loss, relational_loss, zoo_cosines
from metazoo.learn.meta_optimiser import MetaOptimiser
from metazoo.learn.regularisers import Direction, Loss, Parameters, Regulariser
from metazoo.learn.views import Targets, Views, draw_views, judge_views
from metazoo.models import ClassifierSpec, build_classifier


@final
class Student(nn.Module):
    """A classifier whose features are mapped linearly to every teacher's features and logits.

    The two maps only exist while learning; the meta-model is `classifier`. Its own head is not trained.

    Args:
        spec: of the meta-model.
        feature_sizes: of the teachers.
        class_counts: of the teachers.
        seed: of the run; settles the first weights.
    """

    def __init__(
        self, spec: ClassifierSpec, feature_sizes: Sequence[int], class_counts: Sequence[int], seed: int
    ) -> None:
        super().__init__()
        self.feature_sizes, self.class_counts = tuple(feature_sizes), tuple(class_counts)
        random = torch.Generator().manual_seed(seed_of(seed, "student", "weights"))
        self.classifier = build_classifier(spec, random)
        nn.init.zeros_(self.classifier.network.head.weight)
        nn.init.zeros_(self.classifier.network.head.bias)
        size = self.classifier.network.feature_size
        self.to_features = _linear(size, sum(feature_sizes), random)
        self.to_logits = _linear(size, sum(class_counts), random)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Own features [n, d] of `images` in [0, 1], predicted joint features [n, sum of sizes] and all logits."""
        features = self.classifier.features(images)
        return features, self.to_features(features), self.to_logits(features)

    def trained_parameters(self) -> dict[str, Tensor]:
        """Every parameter but those of the classifier's own head, by name; the tensors themselves."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if not name.startswith("classifier.network.head.")
        }


def _linear(inputs: int, outputs: int, random: torch.Generator) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")  # torch's own generator is left alone
    bound = inputs**-0.5
    for parameter in (layer.weight, layer.bias):
        nn.init.uniform_(parameter, -bound, bound, generator=random)
    return layer


_CALIBRATION_VIEWS, _CALIBRATION_BATCH = 4096, 256

DrawGroup = Callable[[torch.Generator], tuple[int, ...]]


@dataclass(frozen=True)
class StepReport:
    """Figures of one step; tensors of no dimension, so that nobody waits for a device who does not read them."""

    step: int
    loss: Tensor
    agreement: Tensor
    disagreement: Tensor
    relative_change: Tensor
    learning_rate: float


@final
class GroupLearner:
    """A student and its optimiser, step by step.

    Every step draws from a generator of its own and every pool of views from another, so the state is the parameters,
    the optimiser's moments and the number of steps done; see `state` and `restore`.

    Args:
        student: trained in place.
        bank: recovered images at the student's input size.
        groups: partition of the teachers' indices.
        draw_group: the teachers of one step.
        targets: what the teachers say; see `views.Targets`.
        config: see there.
        seed: of the run.
        weights: of the teachers in what is reproduced, at least 0, float32 [teachers]; None if all count alike.
        threads: that share the members of a group.
        check: called now and then while views are drawn.

    Attributes:
        heard: the teachers, at least one, whose answers the coming steps ask for; None for all.
    """

    def __init__(
        self,
        student: Student,
        bank: ResidentBank,
        groups: Sequence[Sequence[int]],
        draw_group: DrawGroup,
        targets: Targets,
        config: LearningConfig,
        seed: int,
        *,
        weights: Tensor | None = None,
        threads: WorkerThreads = CALLING_THREAD,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.student, self.steps_done = student, 0
        self.heard: Sequence[int] | None = None
        self._copies, self._threads = ThreadCopies(student), threads
        self._bank, self._groups, self._draw_group, self._targets = bank, groups, draw_group, targets
        self._config, self._seed, self._check = config, seed, check
        self._weights = None if weights is None else weights.to(bank.images.device)
        self._parameters = student.trained_parameters()
        self._optimiser = MetaOptimiser(self._parameters, config.learning_rate)
        self._views: tuple[int, Views, list[Tensor]] | None = None
        self._directed: dict[tuple[bool, type[Regulariser]], Repeated[Direction]] = {}

    def step(self) -> StepReport:
        """Learn from one group.

        Raises:
            DataError: the loss is not finite; the step is named.
        """
        random = generator(self._seed, "learn", "step", self.steps_done)
        members = self._draw_group(random)
        views, by_owner = self._current_views()
        size = max(2, self._config.batch_size // len(members))
        direction = self._direct(views, torch.stack([_some(by_owner[member], size, random) for member in members]))
        if not bool(direction.losses.isfinite().all()):
            raise DataError(
                f"the meta-model's loss is not finite at step {self.steps_done}; lower learning.learning_rate or "
                "learning.regularisation.strength"
            )
        return self._descend(direction)

    def _current_views(self) -> tuple[Views, list[Tensor]]:
        number = self.steps_done // self._config.steps_per_views
        if self._views is None or self._views[0] != number:
            self._forget_views()  # the former pool must not be held while the next one is made
            images, owners = self._draw("views", number, self._config.views)
            views = judge_views(images, owners, self._targets, folder=self._bank.folder, check=self._check)
            give_back_memory(images.device)
            self._views = (number, views, [views.of(owner) for owner in range(len(self._bank.names))])
        return self._views[1:]

    def _forget_views(self) -> None:
        self._views = None
        self._directed.clear()
        give_back_memory(self._bank.images.device)

    def _direct(self, views: Views, places: Tensor) -> Direction:
        """The direction of members that each see the views at a row of `places`, until the next is asked for."""
        weights = self._weights if self.heard is None else self._weights_of(self.heard)
        regulariser = self._config.regularisation.at(self.steps_done + 1)
        kind = weights is None, type(regulariser)
        if kind not in self._directed:

            def direct(places: Tensor, weights: Tensor | None = None) -> Direction:
                losses = [self._loss(views, row, weights) for row in places]
                return regulariser.direction(losses, self._parameters, self._threads)

            self._directed[kind] = Repeated(direct, self._bank.images.device)
        places = places.to(self._bank.images.device)
        return self._directed[kind](places) if weights is None else self._directed[kind](places, weights)

    def _draw(self, purpose: str, number: int, count: int) -> tuple[Tensor, Tensor]:
        return draw_views(
            self._bank,
            self._groups,
            max(count, len(self._bank.names)),
            generator(self._seed, "learn", purpose, number),
            shift=round(self._config.shift * self._bank.images.shape[-1]),
            mix=self._config.mix,
        )

    def calibrate(self) -> None:
        """Give the student's network stored batch-norm statistics: those of fresh views, as it has learned from.

        Views serve better than the images they are made from, whose contrast is higher.
        """
        self._forget_views()
        images, _ = self._draw("calibration", 0, _CALIBRATION_VIEWS)
        parts = [part.float() / 255 for part in images.split(_CALIBRATION_BATCH)]
        calibrate_statistics(self.student.classifier, parts)

    def _weights_of(self, heard: Sequence[int]) -> Tensor:
        weights = torch.zeros(len(self._bank.names))
        weights[list(heard)] = 1.0
        weights = weights.to(self._bank.images.device)
        return weights if self._weights is None else weights * self._weights

    def _loss(self, views: Views, places: Tensor, weights: Tensor | None) -> Loss:
        config = self._config
        images = views.images[places].float() / 255
        features, logits = views.features[places].float(), views.logits[places]

        def loss(parameters: Parameters) -> Tensor:
            student = self._copies.own
            with batch_statistics(student.classifier):
                own, predicted_features, predicted_logits = functional_call(student, parameters, (images,))
            total = own.new_zeros(())
            if config.joint_features:
                term = joint_feature_loss(predicted_features, features, student.feature_sizes, weights)
                total = total + config.joint_features * term
            if config.relations:
                cosines = zoo_cosines(features, student.feature_sizes, weights)
                total = total + config.relations * relational_loss(own, cosines)
            if config.distillation:
                counts = student.class_counts
                term = distillation_loss(predicted_logits, logits, counts, config.temperature, weights)
                total = total + config.distillation * term
            return total

        return loss

    def _descend(self, direction: Direction) -> StepReport:
        rate = self._config.learning_rate * self._schedule()
        self._optimiser.step(direction.gradient, rate)
        self.steps_done += 1
        # Copies, since the next step may be played back into the same tensors.
        return StepReport(
            self.steps_done,
            direction.losses.mean(),
            direction.agreement.clone(),
            direction.disagreement.clone(),
            direction.relative_change.clone(),
            rate,
        )

    def _schedule(self) -> float:
        rising = min(1.0, (self.steps_done + 1) / max(1, self._config.warm_up_steps))
        return rising * 0.5 * (1 + math.cos(math.pi * self.steps_done / self._config.steps))

    def state(self) -> dict[str, Tensor]:
        """Parameters and moments by name, for a checkpoint."""
        return self._optimiser.state()

    def restore(self, steps_done: int, tensors: dict[str, Tensor]) -> None:
        """Go on from `state` after `steps_done` steps.

        Raises:
            DataError: the state is not one of this student.
        """
        self._optimiser.restore(tensors)
        self.steps_done = steps_done


def _some(places: Tensor, count: int, random: torch.Generator) -> Tensor:
    return places[torch.randint(len(places), (count,), generator=random)]
