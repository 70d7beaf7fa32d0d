"""Visits whose images a meta-generator makes (FREE, Wei et al., CVPR 2024), and their plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from metazoo.bank import Bank
from metazoo.choices import PERMISSIONS
from metazoo.errors import DataError
from metazoo.execution.randomness import generator
from metazoo.learn.learners import FunctionalClassifier
from metazoo.learn.losses import adversarial_divergence
from metazoo.learn.regularisers import Parameters
from metazoo.learn.replay_learning import ReplayLearningConfig
from metazoo.models import ImageClassifier, build_classifier
from metazoo.pipeline.layout import BANK, HEALTH
from metazoo.pipeline.recovery_stage import record_health
from metazoo.pipeline.shared_config import MetaModelConfig
from metazoo.pipeline.stage_plan import PlanContext, StagePlan, UnitCost, processor_seconds, replay_plans, shared
from metazoo.pipeline.visits import Chosen, Labelled, TeacherVisits, VisitConfig, VisitDrawConfig
from metazoo.pipeline.workspace import Workspace
from metazoo.recover import (
    Adaptation,
    GeneratorConfig,
    MetaGenerator,
    MetaGeneratorConfig,
    Objective,
    RecoveryBudget,
    TeacherOutputs,
)
from metazoo.recover.budget import plan_buckets
from metazoo.recover.meta_generator import generator_side
from metazoo.taskspace import Grouping
from metazoo.zoo import ClassIdentity, ModelContract, Zoo

_WARMED_UP = "warmed_up"
_SHOWN = RecoveryBudget(images_per_class=10)
_SHEET_BYTES = 0.3e6


@final
class Adversary:
    """Weighted `adversarial_divergence` of meta-model and teacher, as a term of an inversion loss.

    Args:
        model: meta-model, which normalises a batch by its own statistics.
        chosen: classes of the teacher, in the order of the meta-model's outputs.
        weight: weight, at least 0.
    """

    def __init__(self, model: FunctionalClassifier, chosen: Chosen, weight: float) -> None:
        self._model, self._chosen, self._weight = model, chosen, weight
        self._parameters: Parameters = dict(model.classifier.named_parameters())

    def __call__(  # noqa: D102
        self, images: Float[Tensor, "n channels h w"], outputs: TeacherOutputs, step: Int64[Tensor, " 1"]
    ) -> Float[Tensor, ""]:
        with torch.no_grad():
            logits = self._model.logits(self._parameters, outputs.images.detach())
        own = logits[:, : len(self._chosen.classes)]
        return self._weight * adversarial_divergence(own, self._chosen.logits(outputs.logits))


@final
class GeneratedVisits(TeacherVisits):
    """Images of every visit by a meta-generator, which learns from all visits.

    Before the first visit, the meta-generator is warmed up: some iterations train it without the adversarial term.
    Neither the meta-model nor the memory takes part. A run that is stopped meanwhile repeats them.

    Args:
        options: options of the meta-generator.
        classifier: meta-model, whose parameters at the time of a visit count; for the others see `TeacherVisits`.
    """

    def __init__(
        self,
        workspace: Workspace,
        grouping: Grouping,
        identity: ClassIdentity,
        config: VisitDrawConfig,
        options: MetaGeneratorConfig,
        classifier: ImageClassifier,
    ) -> None:
        super().__init__(workspace, grouping, identity, config, classifier.spec)
        self._options, self._model = options, FunctionalClassifier(classifier)
        self._generator = MetaGenerator(
            generator_side(self.spec.input_size),
            options,
            generator(workspace.seed, "meta-generator", "weights"),
            compute=workspace.compute,
            threads=workspace.worker_threads(),
        )
        self._is_warm = False

    def images_of(self, iteration: int, chosen: Sequence[Chosen], random: torch.Generator) -> Sequence[Labelled]:
        """Images by copies of the meta-generator that are adapted to the teachers."""
        if not self._is_warm:
            for number in range(self._options.warm_up):
                self._warm_up(number)
            self._is_warm = True
        weight = self._options.adversarial
        adaptations = [
            self._adaptation(
                visit, "iteration", iteration, index, [Adversary(self._model, visit, weight)] * bool(weight)
            )
            for index, visit in enumerate(chosen)
        ]
        found = self._generator.step(adaptations, self.workspace.check)
        return [(recovered.images, recovered.labels) for recovered in found]

    def _warm_up(self, number: int) -> None:
        random = generator(self.workspace.seed, "visits", "warm-up", number)
        chosen = self.draw(number, random)
        adaptations = [self._adaptation(visit, "warm-up", number, index, []) for index, visit in enumerate(chosen)]
        self._generator.step(adaptations, self.workspace.check)

    def _adaptation(
        self, visit: Chosen, stage: str, number: int, index: int, objectives: Sequence[Objective]
    ) -> Adaptation:
        random = generator(self.workspace.seed, "adapt", f"{stage} {number}", index)
        return Adaptation(self.teachers[visit.teacher], self.wanted(visit), objectives, random)

    def state(self) -> dict[str, Tensor]:
        """Tensors of the meta-generator by name, and whether it is warmed up."""
        return self._generator.state() | {_WARMED_UP: torch.tensor(self._is_warm)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Resume from `state`.

        Raises:
            DataError: the tensors are not a state of this meta-generator.
        """
        if _WARMED_UP not in tensors:
            raise DataError("checkpoint", "has no meta-generator", "start the run again")
        self._generator.restore(tensors)
        self._is_warm = bool(tensors[_WARMED_UP])

    def finish(self) -> None:
        """Store some images of the final meta-generator, for health figures and contact sheets.

        The meta-generator has learned from all teachers, so only those with the strictest contract of the zoo get some.
        """
        workspace = self.workspace
        bank = Bank.open_or_create(workspace.folder.path / BANK)
        strictness = [PERMISSIONS.index(contract.recovered_images) for contract in workspace.zoo]
        with workspace.progress_of("images", len(strictness)) as advance:
            for teacher, contract in enumerate(workspace.zoo):
                buckets = _shown(contract, self.spec.input_size, workspace.seed)
                for bucket, labels in enumerate(buckets if strictness[teacher] == max(strictness) else ()):
                    if not bank.has(contract.name, 0, bucket):
                        random = generator(workspace.seed, "adapt", f"shown {contract.name}", bucket)
                        adaptation = Adaptation(self.teachers[teacher], labels, [], random)
                        (found,) = self._generator.images([adaptation], workspace.check)
                        health = found.health.figures()
                        bank.add(contract.name, 0, bucket, found.images, found.labels, health=health)
                advance()
        if not workspace.folder.has(HEALTH):
            record_health(workspace, bank, "raise generator.steps")


def _shown(contract: ModelContract, side: int, seed: int) -> list[Tensor]:
    """Classes of the images of a model that are stored after a run, in parts that are generated together."""
    return plan_buckets(contract.spec.classes, _SHOWN, seed, contract.name, side)


def generated_visit_plans(
    zoo: Zoo,
    visits: VisitDrawConfig,
    options: MetaGeneratorConfig,
    config: ReplayLearningConfig,
    meta_model: MetaModelConfig,
) -> list[StagePlan]:
    """Plan the meta-iterations on generated images, the warm-up, and the images that are stored in the end."""
    side = meta_model.spec(zoo).input_size
    alike: dict[str, list[int]] = {}
    for index, contract in enumerate(zoo):
        key = contract.spec.model_dump_json(include={"architecture", "arguments", "input_size", "channels"})
        alike.setdefault(key, []).append(index)
    visited = (options.warm_up + config.iterations) * visits.teachers * visits.images_per_class / len(zoo)
    plans = []
    for indices in alike.values():
        contracts = [zoo.contracts[index] for index in indices]
        of_visits = sum(visited * min(meta_model.ways, contract.spec.classes) for contract in contracts)
        stored = sum(len(labels) for contract in contracts for labels in _shown(contract, side, 0))
        timing = _AdaptedImage(indices[0], visits, options, meta_model)
        disk = 1.1 * 3 * side**2 * stored + _SHEET_BYTES * len(contracts)
        plans.append(StagePlan("learning", "generated image", round(of_visits + stored), timing, disk=disk))
    iterations = replay_plans(
        zoo,
        VisitConfig(**visits.model_dump(), reinversion=False),
        GeneratorConfig(),
        RecoveryBudget(),
        config,
        meta_model,
    )
    return [*plans, *iterations]


@dataclass(frozen=True)
class _AdaptedImage:
    """Timing of one image of an adapted copy, with the images of all visits of an iteration made together."""

    teacher: int
    visits: VisitDrawConfig
    options: MetaGeneratorConfig
    meta_model: MetaModelConfig

    def __call__(self, context: PlanContext) -> UnitCost:
        spec, random = self.meta_model.spec(context.zoo), torch.Generator().manual_seed(0)
        made = MetaGenerator(generator_side(spec.input_size), self.options, random)
        teacher, threads = context.teachers[self.teacher], context.threads
        classes = torch.arange(min(spec.classes, teacher.classes))
        labels = classes.repeat(self.visits.images_per_class)
        model = FunctionalClassifier(build_classifier(spec, random))
        adversary = Adversary(model, Chosen(self.teacher, classes), self.options.adversarial)
        adaptation = Adaptation(teacher, labels, [adversary] * bool(self.options.adversarial), random)
        made.images([adaptation])
        seconds = processor_seconds(lambda: made.step([adaptation]))
        state = sum(float(tensor.numel() * tensor.element_size()) for tensor in made.state().values())
        return UnitCost(shared(seconds, self.visits.teachers, threads) / len(labels), disk=2 * state)
