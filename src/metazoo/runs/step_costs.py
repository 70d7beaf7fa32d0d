"""Timing a few steps of each stage, to tell what all of them would take.

Seconds are of the processor, which other programs that are at work meanwhile hardly change. Of work that threads share
they are counted down to those that one waits for.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import psutil
import torch
from torch import Tensor

from metazoo.bank import Bank, ResidentBank, fitted
from metazoo.data.augment import shift_and_flip
from metazoo.execution.compute import CPU
from metazoo.execution.threads import WorkerThreads
from metazoo.features.heads import query_features
from metazoo.learn.episode_memory import EpisodeMemory
from metazoo.learn.group_learning import GroupLearner, Student
from metazoo.learn.replay_learning import ReplayLearner, Visit
from metazoo.learn.views import bytes_of_pool
from metazoo.methods.tgr import TgrConfig
from metazoo.methods.tgr_reference import PublishedTgrConfig
from metazoo.models import ClassifierSpec, build_classifier
from metazoo.pipeline.learning_stage import teacher_targets
from metazoo.recover import GeneratorConfig, RecoveredImages, RecoveryBudget, RecoveryConfig
from metazoo.recover.budget import plan_buckets
from metazoo.taskspace import ProbeConfig, train_probe
from metazoo.zoo import ModelContract, WhiteBoxTeacher, Zoo

Result = TypeVar("Result")
_ITERATIONS, _STEPS, _VIEWS, _TRUST_IMAGES = 4, 6, 256, 64
_UNSHARED = 0.15
"""Share of a step, of replay, or of what teachers say that further threads make no shorter (0.1 to 0.25 by two)."""


@dataclass(frozen=True)
class InversionCost:
    """On one core: `seconds` of all buckets, of one iteration on an image by teacher, and the bytes of a bucket."""

    seconds: float
    of_an_image: Sequence[float]
    memory: float


@dataclass(frozen=True)
class LearningCost:
    """Seconds, and bytes of memory and disk beyond what this process held at most while it was timed."""

    seconds: float
    memory: float
    disk: float


def time_recovery(
    teachers: Sequence[WhiteBoxTeacher],
    guides: Mapping[str, ModelContract],
    config: RecoveryConfig | GeneratorConfig,
    budget: RecoveryBudget,
    bank: Bank,
) -> InversionCost:
    """Time some iterations for each kind of teacher; of every teacher a bucket of what may come goes into `bank`."""
    seconds, of_an_image, before = 0.0, [], resident_bytes()
    known: dict[tuple[object, ...], float] = {}
    short = config.model_copy(update={"iterations": _ITERATIONS})
    wanted = {guide.name for guide in guides.values()}
    by_name = {own.contract.name: own for own in teachers if own.contract.name in wanted} if wanted else {}
    for teacher in teachers:
        spec = teacher.contract.spec
        buckets = plan_buckets(spec.classes, budget, 0, teacher.contract.name)
        labels, images_in_all = buckets[0], sum(map(len, buckets))
        guide = by_name[guides[teacher.contract.name].name] if teacher.contract.name in guides else None
        kind = (_kind(spec), None if guide is None else _kind(guide.contract.spec), len(labels))
        random = torch.Generator().manual_seed(0)
        if kind in known:
            images = torch.randint(0, 256, (len(labels), 3, 16, 16), generator=random, dtype=torch.uint8)
        else:
            _recover(config.model_copy(update={"iterations": 1}), teacher, labels, random, guide)
            of_all, found = _timed(partial(_recover, short, teacher, labels, random, guide))
            images, known[kind] = found.images, of_all / _ITERATIONS / len(labels)
        bank.add(teacher.contract.name, 0, 0, images, labels)
        of_an_image.append(known[kind])
        seconds += known[kind] * images_in_all * config.iterations
    # Freed memory is kept, so this is the most that any of them took.
    return InversionCost(seconds, of_an_image, resident_bytes() - before)


def _recover(
    config: RecoveryConfig | GeneratorConfig,
    teacher: WhiteBoxTeacher,
    labels: Tensor,
    random: torch.Generator,
    guide: WhiteBoxTeacher | None,
) -> RecoveredImages:
    return next(config.inversions(teacher, [labels], random, guide=guide)).run().best()


def _kind(spec: ClassifierSpec) -> tuple[object, ...]:
    return (spec.architecture, tuple(spec.arguments.items()), spec.input_size, spec.channels)


def time_task_space(zoo: Zoo, config: ProbeConfig, budget: RecoveryBudget, bank: Bank) -> float:
    """Seconds of training a probe and embedding every teacher (of a probe that is not trained here: an upper bound)."""
    counts = {contract.name: contract.spec.classes for contract in zoo}
    resident = ResidentBank.load(bank, list(counts), config.input_size)
    own_probe = ProbeConfig() if not config.trained else config
    few = own_probe.model_copy(update={"steps": 3, "input_size": config.input_size})
    probe = train_probe(resident, counts, few, 0)
    a_step = _seconds(lambda: train_probe(resident, counts, few, 0)) / 3
    own = resident.places_of(0)
    sample = min(16, len(resident.labels[own]))
    embed = _seconds(
        lambda: probe.embed(zoo.contracts[0].name, resident.images[own][:sample], resident.labels[own][:sample], config)
    )
    most = min(config.fisher_images, budget.images_per_class * max(counts.values()))
    return a_step * config.steps + embed / sample * most * len(zoo)


def time_trust(zoo: Zoo, teachers: Sequence[WhiteBoxTeacher], config: TgrConfig, threads: WorkerThreads) -> float:
    """Seconds in which the models judge each other."""
    if not config.source.shows_classes:
        return 0.0
    side, targets = config.meta_model.spec(zoo).input_size, teacher_targets(teachers, CPU)
    images = torch.rand(_TRUST_IMAGES, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        targets(images)
        of_all = _seconds(lambda: targets(images)) / len(images)
    classes = [min(contract.spec.classes, config.budget.classes_per_teacher) for contract in zoo]
    asked = sum(classes) / len(zoo) * min(config.trust.images_per_class, config.budget.images_per_class)
    return _shared(of_all, len(zoo), threads) * asked * min(config.trust.partners, len(zoo) - 1)


def time_selection(zoo: Zoo, config: TgrConfig) -> float:
    """Seconds in which the meta-model is measured to select models; an upper bound where episodes share images."""
    own, spec = config.selection, config.meta_model.spec(zoo)
    if own.validation is None:
        return 0.0
    random = torch.Generator().manual_seed(0)
    classifier, side = build_classifier(spec, random), spec.input_size
    size = own.episodes * own.ways * (own.shots + own.queries)
    images = torch.randint(0, 256, (size, 3, side, side), generator=random, dtype=torch.uint8)
    query_features(classifier, images, "query")
    return _seconds(lambda: query_features(classifier, images, "query")) * config.learning.steps / own.steps_per_draw


def time_group_learning(
    zoo: Zoo, teachers: Sequence[WhiteBoxTeacher], config: TgrConfig, bank: Bank, threads: WorkerThreads
) -> LearningCost:
    """Time some steps on groups, and the teachers' outputs for some views."""
    spec, targets, learning = config.meta_model.spec(zoo), teacher_targets(teachers, CPU, threads), config.learning
    members = min(learning.teachers_per_step, len(zoo))
    counts = {contract.name: contract.spec.classes for contract in zoo}
    sizes = [teacher.classifier.network.feature_size for teacher in teachers]
    resident = ResidentBank.load(bank, list(counts), spec.input_size)
    learner = GroupLearner(
        Student(spec, sizes, list(counts.values()), 0),
        resident,
        [list(range(len(zoo)))],
        lambda _: tuple(range(members)),
        targets,
        learning.model_copy(update={"views": max(_VIEWS, len(zoo))}),
        0,
        threads=threads,
    )
    learner.step()
    steps = -(-_STEPS // learning.regularisation.every) * learning.regularisation.every
    step = _seconds(lambda: [learner.step() for _ in range(steps)]) / steps
    images = shift_and_flip(resident.pixels(torch.arange(len(resident))[:_VIEWS]), 2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        view = _seconds(lambda: targets(images)) / len(images)
    pools = -(-learning.steps // learning.steps_per_views)
    memory, disk = bytes_of_pool(learning.views, spec.input_size, sum(sizes))
    # The logits twice, until their parts are joined.
    memory += learning.views * 8.0 * sum(counts.values())
    seconds = _shared(step, members, threads) * learning.steps
    seconds += _shared(view, len(zoo), threads) * learning.views * pools
    return LearningCost(seconds, memory, 3 * _bytes_of(learner.state()) + disk)


def time_replay_learning(
    zoo: Zoo,
    config: PublishedTgrConfig,
    bank: Bank,
    inversion: InversionCost,
    workers: int,
    threads: WorkerThreads,
) -> LearningCost:
    """Time a step on made-up visits and an update of the replay; a replay is taken for twice the shortest."""
    spec, visits, learning = config.meta_model.spec(zoo), config.visits, config.learning
    random, ways, side = torch.Generator().manual_seed(0), spec.classes, spec.input_size
    labels = torch.arange(ways).repeat(max(visits.images_per_class, learning.replay.shots + learning.replay.queries))
    images = fitted(bank.images_of(zoo.contracts[0].name)[0], side)
    some = images[torch.randint(len(images), (len(labels),), generator=random)]
    visit = Visit(some, labels, labels, lambda pixels: torch.zeros(len(pixels), ways))

    def seconds(updates: int) -> tuple[float, ReplayLearner]:
        replay = learning.replay.model_copy(update={"most_updates": updates, "patience": max(1, updates)})
        options = learning.model_copy(update={"replay": replay})
        classifier = build_classifier(spec, random).to(memory_format=torch.contiguous_format)
        visiting = [visit] * visits.teachers
        learner = ReplayLearner(classifier, EpisodeMemory(ways), lambda _: visiting, options, 0, threads=threads)
        learner.step()
        return _seconds(learner.step), learner

    (step, _), (with_update, learner) = seconds(0), seconds(1)
    updates = min(learning.replay.most_updates, 2 * (learning.replay.patience + 1))
    parallel = min(workers, visits.teachers)
    of_update = _shared(max(0.0, with_update - step), learning.replay.episodes_per_update, threads)
    an_image = sum(inversion.of_an_image) / len(inversion.of_an_image) * config.recovery.iterations
    again = visits.reinversion * an_image * visits.images_per_class * ways * visits.teachers / parallel
    waiting = 4 * (visits.reinversion and parallel > 1)
    classes = sum(contract.spec.classes for contract in zoo)
    per_class = min(learning.replay.slots, learning.iterations) * visits.images_per_class
    memory = 3.0 * side**2 * min(classes * per_class, learning.iterations * visits.teachers * len(labels))
    return LearningCost(
        learning.iterations * (again + waiting + _shared(step, visits.teachers, threads) + updates * of_update),
        memory,
        2 * (memory + _bytes_of(learner.state())),
    )


def _shared(seconds: float, calls: int, threads: WorkerThreads) -> float:
    """How long work that the processor has so many seconds of takes threads that share `calls` calls alike."""
    at_once = calls / math.ceil(calls / threads.count)
    return seconds * (_UNSHARED + (1 - _UNSHARED) / at_once)


def _bytes_of(tensors: dict[str, Tensor]) -> float:
    return sum(float(tensor.numel() * tensor.element_size()) for tensor in tensors.values())


def resident_bytes() -> float:
    """What this process holds in memory."""
    return float(psutil.Process().memory_info().rss)


def _seconds(function: Callable[[], object]) -> float:
    return _timed(function)[0]


def _timed(function: Callable[[], Result]) -> tuple[float, Result]:
    start = time.process_time()
    result = function()
    return (time.process_time() - start) / torch.get_num_threads(), result
