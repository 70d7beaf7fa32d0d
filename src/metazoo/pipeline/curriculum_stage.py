"""The stage that learns from images of all teachers that get harder with the meta-model, and its plan."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metazoo.bank import Bank, fitted
from metazoo.choices import PERMISSIONS
from metazoo.data.images import evenly_of_each
from metazoo.errors import UsageError
from metazoo.execution.randomness import generator
from metazoo.fusion import average_parameters, check_same_features
from metazoo.learn.curriculum import CurriculumConfig, CurriculumLearner
from metazoo.models import ClassifierSpec, ImageClassifier, build_classifier
from metazoo.pipeline.class_stage import check_ways, recovered_classes
from metazoo.pipeline.layout import BANK
from metazoo.pipeline.recovery_stage import record_health
from metazoo.pipeline.shared_config import MetaModelConfig
from metazoo.pipeline.stage_plan import PlanContext, StagePlan, UnitCost, processor_seconds, shared
from metazoo.pipeline.stepping import learn_in_steps
from metazoo.pipeline.workspace import Workspace
from metazoo.recover import RecoveryBudget
from metazoo.recover.shared_pixels import SharedPixels, SharedPixelsConfig
from metazoo.recover.start_images import start_images
from metazoo.zoo import ClassIdentity, Zoo

InitialWeights = Literal["random", "average"]
"""First weights of a meta-model: random ones, or the average of all models."""

_STEPS_BETWEEN_METRICS = 25
# A checkpoint holds all images with two moments each.
_SECONDS_BETWEEN_CHECKPOINTS = 120.0
_TIMED_STEPS = 3


def check_curriculum(
    zoo: Zoo,
    identity: ClassIdentity,
    budget: RecoveryBudget,
    config: CurriculumConfig,
    meta_model: MetaModelConfig,
    initial: InitialWeights,
    seed: int,
) -> None:
    """Check that episodes can be drawn, and that the models can be averaged if they are to be.

    Raises:
        UsageError: there are too few images or classes, or a model has another architecture than the meta-model.
    """
    if initial == "average":
        remedy = "choose initial_weights random, or a meta_model like the models"
        check_same_features(zoo, meta_model.spec(zoo), remedy)
    needed = config.shots + config.queries
    if budget.images_per_class < needed:
        raise UsageError(
            "budget.images_per_class",
            f"an episode needs {needed} images per class, and there are {budget.images_per_class}",
            "raise it, or lower learning.shots or learning.queries",
        )
    check_ways(identity, meta_model.ways, recovered_classes(zoo, identity, budget, seed))
    megabytes = _bytes_of_images(zoo, budget, min(meta_model.spec(zoo).input_size, budget.stored_side)) / 1e6
    if megabytes > budget.disk_megabytes:
        raise UsageError(
            "disk_megabytes",
            f"the final images would take {megabytes:,.0f} MB, more than {budget.disk_megabytes}",
            "raise it, or lower images_per_class, classes_per_teacher or stored_side",
        )


def _bytes_of_images(zoo: Zoo, budget: RecoveryBudget, side: int) -> float:
    """Bytes of the images of all models at `side` pixels."""
    classes = sum(min(contract.spec.classes, budget.classes_per_teacher) for contract in zoo)
    return 3.0 * side**2 * budget.images_per_class * classes


def learn_by_curriculum(
    workspace: Workspace,
    bank: Bank | None,
    identity: ClassIdentity,
    inversion: SharedPixelsConfig,
    budget: RecoveryBudget,
    config: CurriculumConfig,
    meta_model: MetaModelConfig,
    initial: InitialWeights = "random",
) -> ImageClassifier:
    """Train the meta-model with its head on shared images, invert these further, and store them in the bank.

    The final images are the next generation of `bank`, or the first one of the bank of the run. A class that several
    models know is stored for those whose contract is as strict as any of these models. The result has stored batch-norm
    statistics.

    Args:
        workspace: run at work; its zoo has the teachers.
        bank: recovered images of all teachers, from which the shared images start; None: they start as drawn.
        identity: classes of all teachers.
        inversion: options of the inversion steps.
        budget: numbers of images and classes.
        config: options of the learning.
        meta_model: options of the meta-model.
        initial: first weights of the meta-model.
    """
    zoo, device, seed = workspace.zoo, workspace.compute.device, workspace.seed
    spec = meta_model.spec(zoo)
    generation = budget.generation if bank is None else budget.generation + 1
    stored = Bank.open_or_create(workspace.folder.path / BANK) if bank is None else bank
    classes = recovered_classes(zoo, identity, budget, seed).repeat_interleave(budget.images_per_class)
    if bank is None:
        random = generator(seed, "shared pixels", "start")
        start = start_images(inversion.canvas, len(classes), 3, spec.input_size, random)
    else:
        start = _from_bank(bank, zoo, identity, classes, spec.input_size, budget, seed)
    classifier = _first_classifier(workspace, spec, initial)
    # Second derivatives of convolutions are slower with channels last.
    classifier.to(device).to(memory_format=torch.contiguous_format)
    images = SharedPixels(
        start.to(device),
        classes,
        zoo.teachers_in_turn(device),
        identity.identities,
        inversion,
        budget,
        seed,
        compute=workspace.compute,
        threads=workspace.worker_threads(),
    )
    learner = CurriculumLearner(
        classifier,
        images,
        config,
        seed,
        conflicts=identity.conflicts,
        threads=workspace.worker_threads(),
    )
    learn_in_steps(
        workspace,
        learner,
        config.steps,
        steps_between_checkpoints=1,
        steps_between_metrics=_STEPS_BETWEEN_METRICS,
        seconds_between_checkpoints=_SECONDS_BETWEEN_CHECKPOINTS,
    )
    learner.calibrate()
    _store(workspace, stored, images, _rounded(start), generation, budget.stored_side)
    record_health(workspace, stored, "lower learning.curriculum or inversion.learning_rate")
    return classifier.cpu().to(memory_format=torch.channels_last).eval().requires_grad_(False)


def _first_classifier(workspace: Workspace, spec: ClassifierSpec, initial: InitialWeights) -> ImageClassifier:
    classifier = build_classifier(spec, generator(workspace.seed, "meta-model", "weights"))
    if initial == "random":
        return classifier
    average = average_parameters((teacher.classifier for teacher in workspace.zoo.teachers_in_turn()), spec)
    assert average is not None  # see `check_curriculum`
    # Heads of the models stand for different classes, so their average has no meaning.
    average.network.head.load_state_dict(classifier.network.head.state_dict())
    return average.requires_grad_(True)


def _from_bank(
    bank: Bank, zoo: Zoo, identity: ClassIdentity, classes: Tensor, side: int, budget: RecoveryBudget, seed: int
) -> Tensor:
    """Recovered images for `classes` (ascending), drawn from those of all models that know a class, evenly."""
    images, identities, owners = [], [], []
    for index, contract in enumerate(zoo):
        own, labels = bank.images_of(contract.name, budget.generation)
        images.append(fitted(own, side))
        identities.append(identity.of(index)[labels])
        owners.append(torch.full_like(labels, index))
    pixels, known, owner = torch.cat(images), torch.cat(identities), torch.cat(owners)
    random = generator(seed, "shared pixels", "start")
    chosen = []
    for number, count in zip(*classes.unique(return_counts=True), strict=True):
        found = (known == number).nonzero().flatten()
        found = found[torch.randperm(len(found), generator=random)]
        chosen.append(found[evenly_of_each(owner[found], int(count))])
    return pixels[torch.cat(chosen)].float() / 255


def _store(
    workspace: Workspace, bank: Bank, images: SharedPixels, start: Tensor, generation: int, stored_side: int
) -> None:
    """Store the images as one generation of every model, except those that its contract would protect too little."""
    zoo, final = workspace.zoo, _rounded(images.pixels)
    strictness = [PERMISSIONS.index(contract.recovered_images) for contract in zoo]
    strictest = torch.zeros(len(final), dtype=torch.int64)
    for index, own in enumerate(strictness):
        rows, _ = images.shown_to(index)
        strictest[rows] = strictest[rows].clamp(min=own)
    for index, contract in enumerate(zoo):
        rows, labels = images.shown_to(index)
        kept = strictest[rows] <= strictness[index]
        if bank.has(contract.name, generation, 0) or not bool(kept.any()):
            continue
        health = images.health(index, start, final)
        assert health is not None  # it has rows
        workspace.check()
        bank.add(
            contract.name,
            generation,
            0,
            fitted(final[rows[kept]], min(final.shape[-1], stored_side)),
            labels[kept],
            health=health.figures(),
            made_with={"seed": workspace.seed, "weights_sha256": contract.weights_sha256, "shared_pixels": True},
        )


def _rounded(pixels: Tensor) -> Tensor:
    return (pixels * 255).round().clamp(0, 255).to(torch.uint8).cpu()


def curriculum_plans(
    zoo: Zoo,
    identity: ClassIdentity,
    inversion: SharedPixelsConfig,
    budget: RecoveryBudget,
    config: CurriculumConfig,
    meta_model: MetaModelConfig,
) -> list[StagePlan]:
    """Plan the meta-batches and the inversion steps between them."""
    steps = math.ceil(config.steps / config.steps_per_inversion)
    inverting = _InversionStep(inversion, budget, meta_model, len(recovered_classes(zoo, identity, budget, 0)))
    stored = 1.1 * _bytes_of_images(zoo, budget, meta_model.spec(zoo).input_size)
    return [
        StagePlan("learning", "inversion step", steps, inverting, disk=stored),
        StagePlan("learning", "update", config.steps, _MetaBatch(config, meta_model)),
    ]


@dataclass(frozen=True)
class _InversionStep:
    """Timing of an inversion step, with images of `classes` classes in all."""

    inversion: SharedPixelsConfig
    budget: RecoveryBudget
    meta_model: MetaModelConfig
    classes: int

    def __call__(self, context: PlanContext) -> UnitCost:
        zoo, side = context.zoo, self.meta_model.spec(context.zoo).input_size
        alike: dict[tuple[object, ...], list[int]] = {}
        for index, contract in enumerate(zoo):
            spec = contract.spec
            classes = min(spec.classes, self.budget.classes_per_teacher)
            arguments = tuple(spec.arguments.items())
            key = (spec.architecture, arguments, spec.input_size, spec.channels, classes)
            alike.setdefault(key, []).append(index)
        seconds = 0.0
        for (*_, classes), indices in alike.items():
            images = self._images(int(str(classes)), side, [indices[0]], context)
            seconds += len(indices) * _seconds(images.gradient) / len(zoo)
        members = min(self.inversion.teachers_per_step or len(zoo), len(zoo))
        everything = self._images(self.classes, side, [], context)
        moving = _seconds(everything.step)
        size = 4.0 * everything.pixels.numel()
        # Pixels, moments, gradients, and copies of them in the optimiser and in a checkpoint; two checkpoints on disk.
        return UnitCost(shared(seconds * members, members, context.threads) + moving, 8 * size, 2 * 3 * size)

    def _images(self, classes: int, side: int, teachers: Sequence[int], context: PlanContext) -> SharedPixels:
        labels = torch.arange(classes).repeat_interleave(self.budget.images_per_class)
        start = torch.rand(len(labels), 3, side, side, generator=torch.Generator().manual_seed(0))
        shown = [context.teachers[index] for index in teachers]
        own = [torch.arange(classes)] * len(teachers)
        return SharedPixels(start, labels, shown, own, self.inversion, self.budget, 0)


@dataclass(frozen=True)
class _MetaBatch:
    """Timing of the episodes of a meta-batch."""

    config: CurriculumConfig
    meta_model: MetaModelConfig

    def __call__(self, context: PlanContext) -> UnitCost:
        spec, config = self.meta_model.spec(context.zoo), self.config
        labels = torch.arange(spec.classes).repeat_interleave(config.shots + config.queries)
        random = torch.Generator().manual_seed(0)
        start = torch.rand(len(labels), 3, spec.input_size, spec.input_size, generator=random)
        images = SharedPixels(start, labels, [], [], SharedPixelsConfig(), RecoveryBudget(), 0)
        classifier = build_classifier(spec, random).to(memory_format=torch.contiguous_format)
        options = config.model_copy(update={"curriculum": 0.0, "steps_per_inversion": 1_000_000})
        learner = CurriculumLearner(classifier, images, options, 0, threads=context.threads)
        seconds = _seconds(lambda _: learner.step())
        return UnitCost(shared(seconds, config.episodes_per_step, context.threads))


def _seconds(function: Callable[[int], object]) -> float:
    """Processor seconds of a call with a number, per torch thread, after one that is not timed."""
    function(0)
    return processor_seconds(lambda: [function(number) for number in range(1, _TIMED_STEPS + 1)]) / _TIMED_STEPS
