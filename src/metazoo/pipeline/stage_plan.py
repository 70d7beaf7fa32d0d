"""Plans of stages that a method declares before a run, and the timing of one unit of each on this machine.

Times are processor times, which other running programs hardly change.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from metazoo.bank import Bank, ResidentBank, fitted
from metazoo.data.augment import shift_and_flip
from metazoo.execution.compute import CPU, images_at_once
from metazoo.execution.threads import WorkerThreads
from metazoo.learn.augmented_images import bytes_of_pool
from metazoo.learn.episode_memory import EpisodeMemory
from metazoo.learn.group_learning import GroupLearner, Student
from metazoo.learn.learning_config import LearningConfig
from metazoo.learn.replay_learning import ReplayLearner, ReplayLearningConfig, Visit
from metazoo.models import ClassifierSpec, build_classifier
from metazoo.pipeline.audit_stage import DomainConfig, TrustConfig, most_merged_domains, per_domain_learning
from metazoo.pipeline.learning_stage import teacher_targets
from metazoo.pipeline.shared_config import GroupingConfig, MetaModelConfig
from metazoo.pipeline.visits import VisitConfig
from metazoo.recover import GeneratorConfig, RecoveryBudget, RecoveryConfig, guides_for, plan_recovery
from metazoo.recover.budget import plan_buckets
from metazoo.taskspace import ImageNetProbe, ProbeConfig, one_group, train_probe
from metazoo.zoo import ModelContract, WhiteBoxTeacher, Zoo

_ITERATIONS, _STEPS, _TRUST_IMAGES, _IMAGES_PER_TEACHER = 4, 6, 64, 150
_BANK_OVERHEAD, _SHEET_BYTES = 1.1, 0.3e6
_UNSHARED = 0.15
"""Share of the time of a step, replay or teacher outputs that further threads do not shorten (0.1 to 0.25 for two)."""


@dataclass(frozen=True)
class PlanContext:
    """Inputs for timing a unit.

    Attributes:
        zoo: the teachers.
        teachers: the same teachers, each loaded when it is used.
        bank: noise instead of recovered images, at most 150 per teacher, in a temporary folder.
        capacity: units that the executor of the run works on at once.
        threads: threads that share the calls of learning.
    """

    zoo: Zoo
    teachers: Sequence[WhiteBoxTeacher]
    bank: Bank
    capacity: int
    threads: WorkerThreads

    @classmethod
    def prepare(cls, zoo: Zoo, folder: Path, capacity: int, threads: WorkerThreads) -> "PlanContext":
        """Fill a bank in `folder` with noise, and make the context."""
        bank, random = Bank.create(folder), torch.Generator().manual_seed(0)
        for contract in zoo:
            labels = torch.arange(_IMAGES_PER_TEACHER) % contract.spec.classes
            images = torch.randint(0, 256, (len(labels), 3, 16, 16), generator=random, dtype=torch.uint8)
            bank.add(contract.name, 0, 0, images, labels)
        return cls(zoo, zoo.teachers_in_turn(), bank, capacity, threads)

    def images_at(self, side: int) -> ResidentBank:
        """Images of the bank at `side` pixels."""
        return ResidentBank.load(self.bank, [contract.name for contract in self.zoo], side)


@dataclass(frozen=True)
class UnitCost:
    """Seconds of one unit, and further bytes of memory and disk that the whole stage needs."""

    seconds: float
    memory: float = 0.0
    disk: float = 0.0


@dataclass(frozen=True)
class StagePlan:
    """Equal units of work in one stage. Several plans may have the same `stage`.

    Attributes:
        stage: name, such as `recovery`.
        unit: noun in the singular, such as `image` or `step`.
        units: number of units.
        measure: function that times one unit; equal functions are called once. None: the time is not known in advance.
        parts: number of independent parts that processes work on at once; 1 for work of the main process.
        disk: bytes on disk of all units that are known without timing.
    """

    stage: str
    unit: str
    units: int
    measure: Callable[[PlanContext], UnitCost] | None = None
    parts: int = 1
    disk: float = 0.0


def recovery_plans(zoo: Zoo, config: RecoveryConfig | GeneratorConfig, budget: RecoveryBudget) -> list[StagePlan]:
    """Plan the recovery of every teacher, one plan for all teachers that take equally long."""
    parts = len(zoo) if isinstance(config, GeneratorConfig) else plan_recovery(zoo, budget).buckets
    plans = []
    for timing, contracts in _inversions(zoo, config, budget).items():
        wanted = plan_recovery(Zoo(zoo.folder, contracts), budget)
        disk = _BANK_OVERHEAD * wanted.bytes + _SHEET_BYTES * len(contracts)
        plans.append(StagePlan("recovery", "image", wanted.images, timing, parts, disk))
    return plans


@dataclass(frozen=True)
class _Inversion:
    """Timing of the inversion of one image, with `images` of one teacher inverted together."""

    teacher: int
    guide: int | None
    config: RecoveryConfig | GeneratorConfig
    images: int

    def __call__(self, context: PlanContext) -> UnitCost:
        teacher = context.teachers[self.teacher]
        guide = None if self.guide is None else context.teachers[self.guide]
        labels, random = torch.arange(self.images) % teacher.contract.spec.classes, torch.Generator().manual_seed(0)
        timed = min(_ITERATIONS, self.config.iterations)

        def invert(iterations: int) -> object:
            config = self.config.model_copy(update={"iterations": iterations})
            return next(config.inversions(teacher, [labels], random, guide=guide)).run().best()

        invert(min(1, timed))
        seconds = processor_seconds(lambda: invert(timed)) / self.images
        return UnitCost(seconds * self.config.iterations / timed if timed else seconds)


def _inversions(
    zoo: Zoo, config: RecoveryConfig | GeneratorConfig, budget: RecoveryBudget
) -> dict[_Inversion, list[ModelContract]]:
    """Models that take equally long, by the timing of the first of them."""
    guides = guides_for(zoo, config, 0)
    indices = {contract.name: index for index, contract in enumerate(zoo)}
    first: dict[tuple[object, ...], _Inversion] = {}
    found: dict[_Inversion, list[ModelContract]] = {}
    for index, contract in enumerate(zoo):
        spec, guide = contract.spec, guides.get(contract.name)
        images = len(plan_buckets(spec.classes, budget, 0, contract.name, spec.input_size)[0])
        key = (_network_key(spec), None if guide is None else _network_key(guide.spec), images)
        own = _Inversion(index, None if guide is None else indices[guide.name], config, images)
        found.setdefault(first.setdefault(key, own), []).append(contract)
    return found


def _network_key(spec: ClassifierSpec) -> tuple[object, ...]:
    return (spec.architecture, tuple(spec.arguments.items()), spec.input_size, spec.channels)


def trust_plans(zoo: Zoo, config: TrustConfig, budget: RecoveryBudget, side: int) -> list[StagePlan]:
    """Plan the trust stage, in which models judge each other's images of `side` pixels."""
    classes = sum(min(contract.spec.classes, budget.classes_per_teacher) for contract in zoo) / len(zoo)
    asked = classes * min(config.images_per_class, budget.images_per_class) * min(config.partners, len(zoo) - 1)

    def measure(context: PlanContext) -> UnitCost:
        targets = teacher_targets(context.teachers, CPU)
        images = torch.rand(_TRUST_IMAGES, 3, side, side, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            targets(images)
            seconds_per_image = processor_seconds(lambda: targets(images)) / len(images)
        return UnitCost(seconds_per_image * asked / len(zoo))

    return [StagePlan("trust", "model", len(zoo), measure, len(zoo))]


def embedding_plans(zoo: Zoo, config: ProbeConfig, budget: RecoveryBudget) -> list[StagePlan]:
    """Plan the training of the probe, unless its weights are given, and the embedding of every model."""
    counts = {contract.name: contract.spec.classes for contract in zoo}
    images = min(config.fisher_images, budget.images_per_class * max(counts.values()))

    def measure_step(context: PlanContext) -> UnitCost:
        resident, few = context.images_at(config.input_size), config.model_copy(update={"steps": 3})
        train_probe(resident, counts, few, 0)
        return UnitCost(processor_seconds(lambda: train_probe(resident, counts, few, 0)) / few.steps)

    def measure_embedding(context: PlanContext) -> UnitCost:
        resident, name = context.images_at(config.input_size), zoo.contracts[0].name
        sample = slice(0, min(16, resident.indices_of(0).stop))
        shown, labels = resident.images[sample], resident.labels[sample]
        once = config.model_copy(update={"steps": 1})
        probe = train_probe(resident, counts, once, 0) if config.trained else ImageNetProbe.load(config.weights)
        return UnitCost(processor_seconds(lambda: probe.embed(name, shown, labels, config)) / len(labels) * images)

    training = [StagePlan("task space", "step", config.steps, measure_step)] if config.trained else []
    return [*training, StagePlan("task space", "model", len(zoo), measure_embedding, len(zoo))]


def group_learning_plans(
    zoo: Zoo, config: LearningConfig, meta_model: MetaModelConfig, grouping: GroupingConfig | None = None
) -> list[StagePlan]:
    """Plan the steps on groups of teachers, and the teacher outputs that these steps use.

    The options `grouping` matter if groups change while the meta-model learns; None: they do not.
    """
    outputs = config.views * math.ceil(config.steps / config.steps_per_views)
    # The number of steps and the learning rate do not change the time of a step, so equal stages are timed once.
    alike = config.model_copy(update={"steps": 10_000, "learning_rate": 1e-3})
    return [
        StagePlan("learning", "step", config.steps, _GroupStep(alike, meta_model, grouping)),
        StagePlan("learning", "augmented image", outputs, _TeacherOutputs(alike, meta_model)),
    ]


def per_domain_plans(
    zoo: Zoo,
    learning: LearningConfig,
    meta_model: MetaModelConfig,
    config: DomainConfig,
    grouping: GroupingConfig | None = None,
) -> list[StagePlan]:
    """Plan an upper bound of the per-domain models: as many as possible, each learning from the whole zoo."""
    domains, more = most_merged_domains(zoo, config), per_domain_learning(learning, config)
    plans = group_learning_plans(zoo, more, meta_model, grouping) if domains > 1 else []
    return [dataclasses.replace(plan, stage="per-domain models", units=domains * plan.units) for plan in plans]


@dataclass(frozen=True)
class _GroupStep:
    """Timing of a step on a group."""

    config: LearningConfig
    meta_model: MetaModelConfig
    grouping: GroupingConfig | None

    def __call__(self, context: PlanContext) -> UnitCost:
        spec, config = self.meta_model.spec(context.zoo), self.config
        changing = self.grouping.changing(len(context.zoo)) if self.grouping is not None else None
        members = min(config.teachers_per_step, len(context.zoo))
        images = images_at_once(torch.device("cpu"), spec.input_size)
        learner = GroupLearner(
            Student(spec, _feature_sizes(context), [contract.spec.classes for contract in context.zoo], 0),
            context.images_at(spec.input_size),
            changing or one_group(len(context.zoo)),
            teacher_targets(context.teachers, CPU, context.threads),
            config.model_copy(update={"views": max(images, len(context.zoo))}),
            0,
            threads=context.threads,
        )
        learner.step()
        steps = math.ceil(_STEPS / config.regularisation.every) * config.regularisation.every
        seconds = processor_seconds(lambda: [learner.step() for _ in range(steps)]) / steps
        calls = members if config.update == "joint" else min(members, config.teachers_per_update)
        return UnitCost(shared(seconds, calls, context.threads), disk=3 * _bytes_of(learner.state()))


@dataclass(frozen=True)
class _TeacherOutputs:
    """Timing of the outputs of all teachers for one image."""

    config: LearningConfig
    meta_model: MetaModelConfig

    def __call__(self, context: PlanContext) -> UnitCost:
        spec, count = self.meta_model.spec(context.zoo), self.config.views
        resident, targets = context.images_at(spec.input_size), teacher_targets(context.teachers, CPU, context.threads)
        pixels = resident.pixels(resident.in_parts(torch.arange(len(resident)))[0])
        images = shift_and_flip(pixels, 2, torch.Generator().manual_seed(0))
        with torch.no_grad():
            targets(images)
            seconds = processor_seconds(lambda: targets(images)) / len(images)
        memory, disk = bytes_of_pool(count, spec.input_size, sum(_feature_sizes(context)))
        # Logits are in memory twice while their parts are joined.
        memory += count * 8.0 * sum(contract.spec.classes for contract in context.zoo)
        memory = max(memory, bytes_of_pool(self.config.calibration_images, spec.input_size, 0)[0])
        return UnitCost(shared(seconds, len(context.zoo), context.threads), memory, disk)


def _feature_sizes(context: PlanContext) -> list[int]:
    return [teacher.classifier.network.feature_size for teacher in context.teachers]


def replay_plans(
    zoo: Zoo,
    visits: VisitConfig,
    recovery: GeneratorConfig | RecoveryConfig,
    budget: RecoveryBudget,
    config: ReplayLearningConfig,
    meta_model: MetaModelConfig,
) -> list[StagePlan]:
    """Plan the meta-iterations, with a replay of twice the shortest length, and their inversions."""
    again = config.iterations * visits.teachers * visits.images_per_class * meta_model.ways / len(zoo)
    plans = [
        StagePlan("learning", "re-inverted image", round(again * len(contracts)), timing, visits.teachers)
        for timing, contracts in _inversions(zoo, recovery, budget).items()
        if visits.reinversion
    ]
    iteration = _MetaIteration(visits, config, meta_model)
    return [*plans, StagePlan("learning", "meta-iteration", config.iterations, iteration)]


@dataclass(frozen=True)
class _MetaIteration:
    """Timing of a step on synthetic visits and of an update of the replay."""

    visits: VisitConfig
    config: ReplayLearningConfig
    meta_model: MetaModelConfig

    def __call__(self, context: PlanContext) -> UnitCost:
        zoo, visits, config, threads = context.zoo, self.visits, self.config, context.threads
        spec, random = self.meta_model.spec(zoo), torch.Generator().manual_seed(0)
        ways, side, replay = spec.classes, spec.input_size, config.replay
        labels = torch.arange(ways).repeat(max(visits.images_per_class, replay.shots + replay.queries))
        images = fitted(context.bank.images_of(zoo.contracts[0].name)[0], side)
        some = images[torch.randint(len(images), (len(labels),), generator=random)]
        visit = Visit(some, labels, labels, lambda pixels: torch.zeros(len(pixels), ways), 0)

        def time_step(updates: int) -> tuple[float, ReplayLearner]:
            options = replay.model_copy(update={"most_updates": updates, "patience": max(1, updates)})
            learner = ReplayLearner(
                build_classifier(spec, random).to(memory_format=torch.contiguous_format),
                EpisodeMemory(ways),
                lambda _: [visit] * visits.teachers,
                config.model_copy(update={"replay": options}),
                0,
                threads=threads,
            )
            learner.step()
            return processor_seconds(learner.step), learner

        (step, _), (with_update, learner) = time_step(0), time_step(1)
        updates = min(replay.most_updates, 2 * (replay.patience + 1))
        calls = visits.teachers if config.update == "joint" else min(visits.teachers, config.teachers_per_update)
        seconds = shared(step, calls, threads)
        seconds += updates * shared(max(0.0, with_update - step), replay.episodes_per_update, threads)
        classes = sum(contract.spec.classes for contract in zoo)
        kept = classes * min(replay.slots, config.iterations) * visits.images_per_class
        memory = 3.0 * side**2 * min(kept, config.iterations * visits.teachers * len(labels))
        return UnitCost(seconds, memory, 2 * (memory + _bytes_of(learner.state())))


def shared(seconds: float, calls: int, threads: WorkerThreads) -> float:
    """Elapsed seconds of `seconds` of processor time in `calls` equal calls that threads share."""
    at_once = calls / math.ceil(calls / threads.count)
    return seconds * (_UNSHARED + (1 - _UNSHARED) / at_once)


def _bytes_of(tensors: Mapping[str, Tensor]) -> float:
    return sum(float(tensor.numel() * tensor.element_size()) for tensor in tensors.values())


def processor_seconds(function: Callable[[], object]) -> float:
    """Processor seconds of a call, per torch thread."""
    start = time.process_time()
    function()
    return (time.process_time() - start) / torch.get_num_threads()
