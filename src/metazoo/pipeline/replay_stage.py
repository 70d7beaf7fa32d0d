"""The stage of meta-iterations: invert teachers of a group, join their gradients, and replay episodes."""

import torch
from pydantic import BaseModel, ConfigDict, Field

from metazoo.bank import Bank, fitted
from metazoo.data.images import draw_of_each
from metazoo.errors import UsageError
from metazoo.execution.randomness import generator
from metazoo.learn.episode_memory import EpisodeMemory
from metazoo.learn.regularisers import Regulariser
from metazoo.learn.replay_learning import ReplayLearner, ReplayLearningConfig, Visit
from metazoo.learn.update_rules import UpdateRule
from metazoo.models import ImageClassifier, build_classifier
from metazoo.pipeline.shared_config import MetaModelConfig
from metazoo.pipeline.stepping import learn_in_steps
from metazoo.pipeline.workspace import Workspace
from metazoo.recover import GeneratorConfig, RecoveryConfig, Request, recover_requests
from metazoo.taskspace import Grouping, draw_members
from metazoo.zoo import ClassIdentity, Zoo

_STORED_SIDE = 1024
# A checkpoint holds the whole memory, a hundred megabytes or more at the published length.
_SECONDS_BETWEEN_CHECKPOINTS = 120.0


class VisitConfig(BaseModel):
    """Options of the visits of a meta-iteration to teachers. The defaults are those published with TGR (ICML 2024)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    teachers: int = Field(default=4, ge=1, description="number of visits in a meta-iteration")
    replacement: bool = Field(default=True, description="whether a meta-iteration may visit a teacher twice")
    reinversion: bool = Field(
        default=True,
        description="whether every visit recovers new images; otherwise visits and replay draw from the bank",
    )
    images_per_class: int = Field(default=30, ge=1, description="images per class of a visited teacher")


def check_episodes(
    zoo: Zoo, identity: ClassIdentity, images_kept: int, config: ReplayLearningConfig, meta_model: MetaModelConfig
) -> None:
    """Check that a memory of `images_kept` images per class can hold an episode.

    Raises:
        UsageError: a model has a single class, too few classes are known to differ, or too few images are kept.
    """
    single = next((contract.name for contract in zoo if contract.spec.classes < 2), None)
    if single is not None:
        raise UsageError(
            f"model {single!r}",
            "has 1 class, and a meta-iteration needs at least 2",
            f"remove it with `metazoo zoo remove {zoo.folder} {single}`",
        )
    replay, ways, names = config.replay, meta_model.ways, len(identity.names)
    needed = replay.shots + replay.queries
    if images_kept < needed:
        raise UsageError(
            "learning.replay",
            f"an episode needs {needed} images per class, and the memory keeps {images_kept}",
            "lower learning.replay.shots or learning.replay.queries, or raise visits.images_per_class "
            "(budget.images_per_class without reinversion)",
        )
    full = EpisodeMemory(names, conflicts=identity.conflicts)
    full.add(torch.zeros(names, 3, 1, 1, dtype=torch.uint8), torch.arange(names))
    if not full.holds(ways, 1):
        raise UsageError(
            "meta_model.ways",
            f"no {ways} of the {names} classes of the models are known to differ",
            "lower meta_model.ways or add models",
        )


def learn_by_replay(
    workspace: Workspace,
    bank: Bank,
    grouping: Grouping,
    identity: ClassIdentity,
    visits: VisitConfig,
    recovery: GeneratorConfig | RecoveryConfig,
    config: ReplayLearningConfig,
    meta_model: MetaModelConfig,
    *,
    regulariser: Regulariser | None = None,
    update: UpdateRule | None = None,
) -> ImageClassifier:
    """Train the meta-model with its head by meta-iterations, and give it stored batch-norm statistics.

    From a teacher with more classes than the meta-model has outputs, every visit draws as many classes as there are
    outputs. A teacher with fewer classes uses the first outputs.

    Args:
        workspace: run at work; its zoo has the teachers.
        bank: recovered images of all teachers.
        grouping: groups of the teachers.
        identity: classes of all teachers.
        visits: options of the visits.
        recovery: options of the inversion at a visit.
        config: options of the learning.
        meta_model: options of the meta-model.
        regulariser: regulariser of this stage; None: the regulariser of `config`.
        update: rule by which the visits move the parameters; None: the rule of `config`.
    """
    zoo, seed = workspace.zoo, workspace.seed
    spec = meta_model.spec(zoo)
    classifier = build_classifier(spec, generator(seed, "meta-model", "weights"))
    device = workspace.compute.device
    # Second derivatives of convolutions are slower with channels last.
    classifier.to(device).to(memory_format=torch.contiguous_format)
    teachers = zoo.teachers_in_turn(device)
    stored = [] if visits.reinversion else [bank.images_of(contract.name) for contract in zoo]

    def visit(iteration: int) -> list[Visit]:
        random = generator(seed, "visits", "iteration", iteration)
        partition = grouping.draw(iteration, random)
        members = draw_members(partition, visits.teachers, random, replacement=visits.replacement)[1]
        contracts = [zoo.contracts[member] for member in members]
        offered = [
            torch.arange(contract.spec.classes) if visits.reinversion else stored[member][1].unique()
            for member, contract in zip(members, contracts, strict=True)
        ]
        chosen = [own[torch.randperm(len(own), generator=random)[: spec.classes]] for own in offered]
        if visits.reinversion:
            requests = [
                Request(contract.name, classes.repeat(visits.images_per_class))
                for contract, classes in zip(contracts, chosen, strict=True)
            ]
            found = recover_requests(
                zoo,
                requests,
                recovery,
                seed,
                iteration,
                executor=workspace.executor,
                stored_side=_STORED_SIDE,
                compute=workspace.compute,
                check=workspace.check,
            )
            pairs = [(recovered.images, recovered.labels) for recovered in found]
        else:
            pairs = []
            for member, classes in zip(members, chosen, strict=True):
                images, labels = stored[member]
                drawn = torch.cat(draw_of_each(labels, classes.tolist(), visits.images_per_class, random))
                pairs.append((images[drawn], labels[drawn]))
        return [
            Visit(
                fitted(images, spec.input_size),
                (labels.unsqueeze(1) == classes).int().argmax(1),
                identity.of(member)[labels],
                lambda pixels, member=member, classes=classes: teachers[member](pixels)[:, classes],
                member,
            )
            for (images, labels), member, classes in zip(pairs, members, chosen, strict=True)
        ]

    slots = config.replay.slots if visits.reinversion else len(teachers)
    memory = EpisodeMemory(len(identity.names), slots, identity.conflicts, device=device)
    for member, (images, labels) in enumerate(stored):
        memory.add(fitted(images, spec.input_size), identity.of(member)[labels])
    learner = ReplayLearner(
        classifier,
        memory,
        visit,
        config,
        seed,
        grouping=grouping,
        regulariser=regulariser,
        update=update,
        grows=visits.reinversion,
        threads=workspace.worker_threads(),
        check=workspace.check,
    )
    learn_in_steps(
        workspace,
        learner,
        config.iterations,
        steps_between_checkpoints=1,
        steps_between_metrics=1,
        seconds_between_checkpoints=_SECONDS_BETWEEN_CHECKPOINTS,
    )
    learner.calibrate()
    return classifier.cpu().to(memory_format=torch.channels_last).eval().requires_grad_(False)
