"""The stage of learning from interpolated tasks: refills from chosen models, the reward of a choice, and the plan."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field

from metazoo.bank import Bank
from metazoo.data import ImageSet
from metazoo.errors import UsageError
from metazoo.execution.randomness import generator
from metazoo.learn.episode_memory import EpisodeMemory
from metazoo.learn.interpolated_learning import InterpolationConfig, InterpolationLearner
from metazoo.learn.model_choice import ChoiceConfig, Reward, RewardEpisode
from metazoo.learn.replay_learning import Visit
from metazoo.models import ClassifierSpec, ImageClassifier, build_classifier
from metazoo.pipeline.class_stage import check_ways, recovered_classes
from metazoo.pipeline.layout import CHOICE
from metazoo.pipeline.reward_episodes import recovered_episodes, split_bank, validation_episodes
from metazoo.pipeline.shared_config import MetaModelConfig
from metazoo.pipeline.stage_plan import PlanContext, StagePlan, UnitCost, processor_seconds, shared
from metazoo.pipeline.stepping import learn_in_steps
from metazoo.pipeline.visits import BankVisits, InvertedVisits, Labelled, VisitDrawConfig
from metazoo.pipeline.workspace import Workspace
from metazoo.recover import GeneratorConfig, RecoveryBudget, RecoveryConfig
from metazoo.taskspace import one_group
from metazoo.zoo import ClassIdentity, Zoo

# A checkpoint holds the whole memory.
_SECONDS_BETWEEN_CHECKPOINTS, _STEPS_BETWEEN_METRICS = 120.0, 10
_PUBLISHED_BASELINE = 40.0
"""Accuracy in percent that the published reward is compared with before the second refill, twice that of chance with
five ways; with other ways, twice that of chance."""
_REFILL_EVERY = 25
"""Steps between two refills that a plan assumes; 20 to 30 were measured with a patience of 10."""
_TIMED_STEPS = 2


class RefillConfig(BaseModel):
    """Options of a refill of the memory. The defaults are those published with Trustworthy-DFML (TPAMI 2025)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reinversion: bool = Field(
        default=True, description="whether a refill recovers new images; otherwise it draws from the bank"
    )
    images_per_class: int = Field(
        default=16, ge=2, description="images per class of a chosen model (published: shots + queries)"
    )


def check_interpolation(
    zoo: Zoo,
    identity: ClassIdentity,
    refill: RefillConfig,
    config: InterpolationConfig,
    meta_model: MetaModelConfig,
    seed: int,
    *,
    budget: RecoveryBudget | None,
    rewarded: bool,
) -> None:
    """Check that the memory and the reward can hold an episode.

    Args:
        zoo: the teachers.
        identity: classes of all teachers.
        refill: options of a refill.
        config: options of the learning.
        meta_model: options of the meta-model.
        seed: seed of the run.
        budget: numbers of images and classes of the bank; None if the run has none.
        rewarded: whether images of the bank are kept for the reward.

    Raises:
        UsageError: too few classes are known to differ, or too few images are recovered.
    """
    needed = config.shots + config.queries
    if refill.images_per_class < needed:
        raise UsageError(
            "refill.images_per_class",
            f"is {refill.images_per_class}, and an episode needs {needed} images per class",
            "raise it, or lower learning.shots or learning.queries",
        )
    kept = (needed if rewarded else 0) + (0 if refill.reinversion else needed)
    if budget is not None and budget.images_per_class < kept:
        raise UsageError(
            "budget.images_per_class",
            f"is {budget.images_per_class}, and {kept} are needed: {needed} for learning and as many for the reward"
            if kept > needed
            else f"is {budget.images_per_class}, and an episode needs {needed}",
            "raise it, or lower learning.shots or learning.queries",
        )
    most = budget.classes_per_teacher if budget is not None else max(contract.spec.classes for contract in zoo)
    if rewarded and all(min(contract.spec.classes, most) < 2 for contract in zoo):
        problem = "no model has 2 recovered classes to measure the meta-model on"
        raise UsageError("reward", problem, "choose reward validation, or raise budget.classes_per_teacher")
    from_bank = budget if not refill.reinversion else None
    recovered = None if from_bank is None else recovered_classes(zoo, identity, from_bank, seed)
    check_ways(identity, meta_model.ways, recovered)


def learn_by_interpolation(
    workspace: Workspace,
    bank: Bank | None,
    identity: ClassIdentity,
    refill: RefillConfig,
    recovery: RecoveryConfig | GeneratorConfig,
    choice: ChoiceConfig,
    config: InterpolationConfig,
    meta_model: MetaModelConfig,
    validation: ImageSet | None,
) -> ImageClassifier:
    """Train the meta-model, give it stored batch-norm statistics, and record which models were chosen.

    From a model with more classes than the meta-model has ways, every visit draws as many classes as there are ways.

    Args:
        workspace: run at work; its zoo has the teachers.
        bank: recovered images of all teachers; None if neither refills nor the reward need it.
        identity: classes of all teachers.
        refill: options of a refill.
        recovery: options of the inversion at a refill.
        choice: options of the choice of models.
        config: options of the learning.
        meta_model: options of the meta-model.
        validation: labelled images of the reward; None: the reward is measured on recovered images of the bank.
    """
    zoo, seed, device = workspace.zoo, workspace.seed, workspace.compute.device
    spec = meta_model.spec(zoo)
    side, needed = spec.input_size, config.shots + config.queries
    classifier = build_classifier(spec, generator(seed, "meta-model", "weights"))
    classifier.to(device).to(memory_format=torch.contiguous_format)
    stored, held_out = ([], []) if bank is None else split_bank(bank, zoo, side, needed if validation is None else 0)
    if validation is None:
        reward = Reward(recovered_episodes(held_out, spec.classes, config, seed, device), len(zoo), centred=True)
    else:
        reward = Reward(validation_episodes(validation, spec.classes, config, seed, side, device))
    learner = InterpolationLearner(
        classifier,
        EpisodeMemory(len(identity.names), config.slots, identity.conflicts, device=device),
        refills(workspace, stored, identity, refill, recovery, spec),
        choice.build(len(zoo), 0.0 if validation is None else _PUBLISHED_BASELINE * 5 / spec.classes),
        reward,
        config,
        seed,
        models=len(zoo),
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
    _record_choice(workspace, learner, choice, "recovered images" if validation is None else "labelled images")
    return classifier.cpu().to(memory_format=torch.channels_last).eval().requires_grad_(False)


def _record_choice(workspace: Workspace, learner: InterpolationLearner, config: ChoiceConfig, reward: str) -> None:
    if workspace.folder.has(CHOICE):
        return
    shares = learner.choice.probabilities.tolist()
    rows = [
        {"model": contract.name, "probability": share, "visits": visits}
        for contract, share, visits in zip(workspace.zoo, shares, learner.visits.tolist(), strict=True)
    ]
    record = {"format_version": 1, "strategy": config.strategy, "reward": reward, "models": rows}
    workspace.folder.write_json(CHOICE, record)


def refills(
    workspace: Workspace,
    stored: Sequence[Labelled],
    identity: ClassIdentity,
    refill: RefillConfig,
    recovery: RecoveryConfig | GeneratorConfig,
    spec: ClassifierSpec,
) -> Callable[[int, Sequence[int]], list[Visit]]:
    """Function that visits chosen models, by inversion or with images of the bank.

    Support and query images are inverted together (published: the support alone, so that batch-norm statistics are
    those of five images for one shot).
    """
    draw = VisitDrawConfig(images_per_class=refill.images_per_class)
    shared = workspace, one_group(len(workspace.zoo)), identity, draw, spec
    visits = InvertedVisits(*shared, recovery) if refill.reinversion else BankVisits(*shared, stored)

    def visit(number: int, chosen: Sequence[int]) -> list[Visit]:
        return visits.to_teachers(number, chosen, generator(workspace.seed, "refill", "images", number))

    return visit


def interpolation_plans(
    zoo: Zoo,
    refill: RefillConfig,
    recovery: RecoveryConfig | GeneratorConfig,
    choice: ChoiceConfig,
    config: InterpolationConfig,
    meta_model: MetaModelConfig,
) -> list[StagePlan]:
    """Plan the steps, and the inversions of one refill in 25 steps; both rise and fall with the rewards."""
    chosen = min(choice.models, len(zoo))
    steps = StagePlan("learning", "step", config.steps, _InterpolatedStep(chosen, refill, config, meta_model))
    if not refill.reinversion:
        return [steps]
    again = -(-config.steps // _REFILL_EVERY) * chosen
    return [
        StagePlan("learning", "refill from a model", again, _RefillTime(refill, recovery, meta_model), chosen),
        steps,
    ]


@dataclass(frozen=True)
class _RefillTime:
    """Timing of the inversion of one model at a refill, the mean over up to three models of the zoo."""

    refill: RefillConfig
    recovery: RecoveryConfig | GeneratorConfig
    meta_model: MetaModelConfig

    def __call__(self, context: PlanContext) -> UnitCost:
        timed, seconds = min(3, self.recovery.iterations), []
        for index in sorted({0, len(context.zoo) // 2, len(context.zoo) - 1}):
            teacher, random = context.teachers[index], torch.Generator().manual_seed(0)
            classes = min(self.meta_model.ways, teacher.classes)
            labels = torch.arange(classes).repeat(self.refill.images_per_class)

            def invert(iterations: int, teacher=teacher, labels=labels, random=random) -> float:
                config = self.recovery.model_copy(update={"iterations": iterations})
                return processor_seconds(lambda: next(config.inversions(teacher, [labels], random)).run().best())

            once, more = invert(1), invert(1 + timed)
            seconds.append(once + (self.recovery.iterations - 1) * max(0.0, more - once) / max(1, timed))
        return UnitCost(sum(seconds) / len(seconds))


@dataclass(frozen=True)
class _InterpolatedStep:
    """Timing of a step on a memory of noise, with its share of a refill."""

    chosen: int
    refill: RefillConfig
    config: InterpolationConfig
    meta_model: MetaModelConfig

    def __call__(self, context: PlanContext) -> UnitCost:
        spec, config, random = self.meta_model.spec(context.zoo), self.config, torch.Generator().manual_seed(0)
        ways, side, needed = spec.classes, spec.input_size, config.shots + config.queries
        labels = torch.arange(2 * ways).repeat_interleave(max(needed, self.refill.images_per_class))
        noise = torch.randint(0, 256, (len(labels), 3, side, side), generator=random, dtype=torch.uint8)
        own = labels < ways
        logits = torch.zeros(int(own.sum()), ways)
        visit = Visit(noise[own], labels[own], labels[own], lambda _: logits, 0)
        memory = EpisodeMemory(2 * ways)
        memory.add(noise, labels)
        asked = [RewardEpisode(0, memory.draw(ways, config.shots, config.queries, random))]
        learner = InterpolationLearner(
            build_classifier(spec, random).to(memory_format=torch.contiguous_format),
            memory,
            lambda *_: [visit] * self.chosen,
            ChoiceConfig(strategy="uniform", models=1).build(1),
            Reward(lambda *_: asked * config.reward_episodes),
            config.model_copy(update={"patience": 10**9}),
            0,
            models=1,
            threads=context.threads,
        )

        refill = processor_seconds(learner.step)  # the first step is a refill
        step = processor_seconds(lambda: [learner.step() for _ in range(_TIMED_STEPS)]) / _TIMED_STEPS
        calls = config.tasks_per_step
        seconds = shared(step + refill / _REFILL_EVERY, calls, context.threads)
        classes = sum(contract.spec.classes for contract in context.zoo)
        memory_bytes = 3.0 * side**2 * classes * config.slots * self.refill.images_per_class
        return UnitCost(seconds, memory_bytes, 2 * memory_bytes)
