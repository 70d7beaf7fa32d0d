"""Learning from groups of teachers: student and learner."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from metazoo.bank import ResidentBank
from metazoo.errors import DataError
from metazoo.execution.process_memory import give_back_memory
from metazoo.execution.randomness import generator, seed_of
from metazoo.execution.repeat import Repeated
from metazoo.execution.threads import CALLING_THREAD, ThreadCopies, WorkerThreads
from metazoo.features.batch_norm import batch_statistics, calibrate_statistics, has_batch_norm
from metazoo.learn.augmented_images import AugmentedImages, Targets, add_teacher_outputs, draw_augmented_images
from metazoo.learn.learning_config import LearningConfig
from metazoo.learn.losses import distillation_loss, joint_feature_loss, relational_loss, zoo_cosines
from metazoo.learn.meta_optimiser import GROUPING, REGULARISER, MetaOptimiser, of_prefix, with_prefix
from metazoo.learn.regularisers import Direction, Loss, MeanGradient, Parameters, Regulariser
from metazoo.learn.update_rules import MemberStep, UpdateRule, build_update, lower_rates
from metazoo.models import ClassifierSpec, ImageClassifier, build_classifier
from metazoo.taskspace import FixedGrouping, Grouping, Partition, draw_members

Groups = Sequence[Sequence[int]]


@final
class Student(nn.Module):
    """A classifier whose features are mapped linearly to every teacher's features and logits.

    The two maps are used only while learning; the meta-model is `classifier`, whose own head is not trained.

    Args:
        spec: architecture and input of the meta-model.
        feature_sizes: feature sizes, one per teacher.
        class_counts: numbers of classes, one per teacher.
        seed: seed of the run, which determines the first weights.
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

    def forward(
        self, images: Float[Tensor, "n 3 h w"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n features"], Float[Tensor, "n classes"]]:
        """Compute features, predicted joint features and logits of `images` in [0, 1]."""
        features = self.classifier.features(images)
        return features, self.to_features(features), self.to_logits(features)

    def part(self, teachers: Sequence[int]) -> "Student":
        """Copy the student for some teachers, with the classifier and the rows of these teachers in both maps."""
        copied = copy.deepcopy(self).requires_grad_(True).train()
        copied.feature_sizes = tuple(self.feature_sizes[teacher] for teacher in teachers)
        copied.class_counts = tuple(self.class_counts[teacher] for teacher in teachers)
        copied.to_features = _rows(self.to_features, self.feature_sizes, teachers)
        copied.to_logits = _rows(self.to_logits, self.class_counts, teachers)
        return copied

    def trained_parameters(self) -> dict[str, Tensor]:
        """Parameters by name, without those of the classifier's own head; not copies."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if not name.startswith("classifier.network.head.")
        }


def _linear(inputs: int, outputs: int, random: torch.Generator) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")  # draws no random numbers
    bound = inputs**-0.5
    for parameter in (layer.weight, layer.bias):
        nn.init.uniform_(parameter, -bound, bound, generator=random)
    return layer


def _rows(layer: nn.Linear, sizes: Sequence[int], teachers: Sequence[int]) -> nn.Linear:
    """Copy the rows of some teachers in a linear map; `sizes` are the numbers of rows of all teachers."""
    weights, biases = layer.weight.split(list(sizes)), layer.bias.split(list(sizes))
    copied = nn.Linear(layer.in_features, sum(sizes[teacher] for teacher in teachers), device="meta")
    copied.weight = nn.Parameter(torch.cat([weights[teacher] for teacher in teachers]).detach())
    copied.bias = nn.Parameter(torch.cat([biases[teacher] for teacher in teachers]).detach())
    return copied


_CALIBRATION_BATCH, _CALIBRATION_PIXELS = 256, 256 * 84**2
_MIXED_GROUPS = "views.groups"


@dataclass(frozen=True)
class StepReport:
    """Figures of one step, as tensors, so that only reading them waits for the device."""

    step: int
    loss: Float[Tensor, ""]
    agreement: Float[Tensor, ""]
    disagreement: Float[Tensor, ""]
    relative_change: Float[Tensor, ""]
    learning_rate: float


@final
class GroupLearner:
    """Learner that trains a student in steps on groups of teachers.

    Every step and every pool of augmented images has a generator of its own, so the state consists of parameters,
    moments of the optimiser, number of steps done, and states of regulariser and grouping; see `state` and `restore`.

    Args:
        student: network to train.
        bank: recovered images at the input size of the student.
        grouping: groups of the teachers.
        targets: function from images to teacher outputs.
        config: options of the learning.
        seed: seed of the run.
        weights: weights of the teachers in the draw of members and in the losses, above 0, float32 [teachers]; None if
            all count alike.
        regulariser: regulariser; None: the regulariser of the config.
        update: rule by which a step moves the parameters; None: the rule of the config.
        threads: worker threads that share the members of a step.
        check: function that is called repeatedly while a pool is made, and may raise.
    """

    def __init__(
        self,
        student: Student,
        bank: ResidentBank,
        grouping: Grouping,
        targets: Targets,
        config: LearningConfig,
        seed: int,
        *,
        weights: Float[Tensor, " teachers"] | None = None,
        regulariser: Regulariser | None = None,
        update: UpdateRule | None = None,
        threads: WorkerThreads = CALLING_THREAD,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.student, self.steps_done = student, 0
        self._copies, self._threads = ThreadCopies(student), threads
        self._bank, self._grouping, self._targets = bank, grouping, targets
        self._config, self._seed, self._check = config, seed, check
        self._draw_weights = weights
        self._target_weights = None if weights is None else weights.to(bank.images.device)
        self._regulariser, self._mean = regulariser or config.regularisation.build(), MeanGradient()
        self._update = update or build_update(config.update, config.teachers_per_update, config.reptile)
        self._parameters = student.trained_parameters()
        self._optimiser = MetaOptimiser(self._parameters, config.learning_rate)
        self._pool: tuple[int, AugmentedImages, list[Tensor]] | None = None
        self._mixed: tuple[int, Groups] | None = None  # number of the pool, and groups that it mixes within
        self._directed: dict[tuple[Regulariser, bool], Repeated[Direction]] = {}

    @property
    def classifier(self) -> ImageClassifier:
        """Meta-model as it is now."""
        return self.student.classifier

    def step(self) -> StepReport:
        """Learn from one group.

        Raises:
            DataError: the loss is not finite; the step is named.
        """
        config = self._config
        random = generator(self._seed, "learn", "step", self.steps_done)
        partition = self._grouping.draw(self.steps_done, random)
        number, members = draw_members(partition, config.teachers_per_step, random, weights=self._draw_weights)
        pool, by_owner = self._current_pool(partition)
        size = max(2, config.batch_size // len(members))
        indices = torch.stack([_some(by_owner[member], size, random) for member in members])
        regulariser = self._regulariser if config.regularisation.is_due(self.steps_done + 1) else self._mean
        held_out = None
        if regulariser.needs_held_out:
            random = generator(self._seed, "learn", "held out", self.steps_done)
            teacher = _another(members, (partition.groups[number], sum(partition.groups, ())), random)
            if teacher is not None:
                held_out = _some(by_owner[teacher], size, random).unsqueeze(0)
        rate = config.learning_rate * self._schedule()
        step = MemberStep(
            members,
            lambda positions: self._direct(regulariser, pool, indices[list(positions)], held_out),
            lambda: self._losses(pool, indices),
            self._optimiser,
            learning_rate=rate,
            grouping=self._grouping,
        )
        self._update.step(step)
        self.steps_done += 1
        return StepReport(self.steps_done, *step.figures(), rate)

    def _current_pool(self, partition: Partition) -> tuple[AugmentedImages, list[Tensor]]:
        number = self.steps_done // self._config.steps_per_views
        if self._mixed is None or self._mixed[0] != number:
            self._mixed = number, partition.groups
        if self._pool is None or self._pool[0] != number:
            self._forget_pool()  # two pools must not be in memory at once
            images, owners = self._draw("views", number, self._config.views, self._mixed[1])
            pool = add_teacher_outputs(images, owners, self._targets, folder=self._bank.folder, check=self._check)
            give_back_memory(images.device)
            self._pool = (number, pool, [pool.of(owner) for owner in range(len(self._bank.names))])
        return self._pool[1:]

    def _forget_pool(self) -> None:
        self._pool = None
        self._directed.clear()
        give_back_memory(self._bank.images.device)

    def _direct(
        self,
        regulariser: Regulariser,
        pool: AugmentedImages,
        indices: Tensor,
        held_out: Tensor | None,
    ) -> Direction:
        """Direction of members that each see the images of a row of `indices`, valid until the next call."""
        device = self._bank.images.device
        key = regulariser, held_out is not None
        if key not in self._directed:

            def direct(rows: Tensor) -> Direction:
                losses = [self._loss(pool, row) for row in rows]
                last = losses.pop() if key[1] else None
                return regulariser.direction(losses, self._parameters, self._threads, held_out=last)

            self._directed[key] = Repeated(direct, device, recordable=regulariser.recordable)
        rows = (indices if held_out is None else torch.cat([indices, held_out])).to(device)
        found = self._directed[key](rows)
        if not bool(found.losses.isfinite().all()):
            raise DataError(
                "meta-model",
                f"the loss is not finite at step {self.steps_done}",
                f"{lower_rates(self._config.update)} or learning.regularisation.strength",
            )
        return found

    def _losses(self, pool: AugmentedImages, indices: Tensor) -> Tensor:
        with torch.no_grad():
            losses = [self._loss(pool, row) for row in indices.to(self._bank.images.device)]
            return torch.stack(list(self._threads.map(lambda loss: loss(self._parameters), losses)))

    def _draw(self, purpose: str, number: int, count: int, groups: Groups) -> tuple[Tensor, Tensor]:
        return draw_augmented_images(
            self._bank,
            groups,
            max(count, len(self._bank.names)),
            generator(self._seed, "learn", purpose, number),
            shift=round(self._config.shift * self._bank.images.shape[-1]),
            mix=self._config.mix,
        )

    def calibrate(self) -> None:
        """Give the student's network stored batch-norm statistics, if it has batch norm, from new augmented images.

        Recovered images without augmentation have a higher contrast and are worse for this.
        """
        self._forget_pool()
        if not has_batch_norm(self.student.classifier):
            return
        random = generator(self._seed, "learn", "calibration groups", 0)
        groups = self._mixed[1] if self._mixed else self._grouping.draw(self.steps_done, random).groups
        images, _ = self._draw("calibration", 0, self._config.calibration_images, groups)
        at_once = max(2, min(_CALIBRATION_BATCH, _CALIBRATION_PIXELS // images.shape[-1] ** 2))
        parts = images.tensor_split(-(-len(images) // at_once))  # of nearly equal sizes, none of a single image
        calibrate_statistics(self.student.classifier, (part.float() / 255 for part in parts))

    def _loss(self, pool: AugmentedImages, indices: Tensor) -> Loss:
        config, weights = self._config, self._target_weights
        images = pool.images[indices].float() / 255
        features, logits = pool.features[indices].float(), pool.logits[indices]

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

    def _schedule(self) -> float:
        rising = min(1.0, (self.steps_done + 1) / max(1, self._config.warm_up_steps))
        return rising * 0.5 * (1 + math.cos(math.pi * self.steps_done / self._config.steps))

    def state(self) -> dict[str, Tensor]:
        """Tensors by name, for a checkpoint: parameters, moments, and the state of regulariser and grouping."""
        tensors = self._optimiser.state() | with_prefix(REGULARISER, self._regulariser.state())
        if self._mixed is not None and not isinstance(self._grouping, FixedGrouping):
            pairs = [(number, index) for number, group in enumerate(self._mixed[1]) for index in group]
            tensors[_MIXED_GROUPS] = torch.tensor(pairs)
        return tensors | with_prefix(GROUPING, self._grouping.state())

    def restore(self, steps_done: int, tensors: Mapping[str, Tensor]) -> None:
        """Resume from `state` after `steps_done` steps.

        Raises:
            DataError: the tensors are not a state of this student, regulariser or grouping.
        """
        self._optimiser.restore(tensors)
        self._regulariser.restore(of_prefix(REGULARISER, tensors))
        self._grouping.restore(of_prefix(GROUPING, tensors))
        self.steps_done, self._mixed = steps_done, None
        if _MIXED_GROUPS in tensors:
            groups: dict[int, list[int]] = {}
            for number, index in tensors[_MIXED_GROUPS].tolist():
                groups.setdefault(number, []).append(index)
            self._mixed = (steps_done - 1) // self._config.steps_per_views, tuple(groups.values())


def _some(indices: Tensor, count: int, random: torch.Generator) -> Tensor:
    return indices[torch.randint(len(indices), (count,), generator=random)]


def _another(members: Sequence[int], groups: Sequence[Sequence[int]], random: torch.Generator) -> int | None:
    """Draw a teacher that is not in `members` from the first group with one; None if there is none."""
    others = ([index for index in group if index not in members] for group in groups)
    candidates = next(filter(None, others), [])
    return candidates[int(torch.randint(len(candidates), (1,), generator=random))] if candidates else None
