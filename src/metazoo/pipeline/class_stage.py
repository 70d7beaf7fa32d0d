"""The stages that find which classes of different teachers are, or may be, the same."""

from collections.abc import Callable

import torch
from jaxtyping import Int64
from torch import Tensor

from metazoo.audit import class_conflicts, joint_class_means
from metazoo.bank import ResidentBanks
from metazoo.errors import UsageError
from metazoo.learn.episode_memory import draw_classes
from metazoo.pipeline.layout import CLASSES, CONFLICTS
from metazoo.pipeline.learning_stage import teacher_targets
from metazoo.pipeline.workspace import Workspace
from metazoo.recover import RecoveryBudget
from metazoo.recover.budget import chosen_classes
from metazoo.zoo import ClassIdentity, Zoo


def check_ways(identity: ClassIdentity, ways: int, recovered: Int64[Tensor, " _"] | None = None) -> None:
    """Check that episodes of `ways` classes can be drawn.

    Args:
        identity: classes of all models.
        ways: classes of an episode.
        recovered: classes of which images are recovered; None: all.

    Raises:
        UsageError: fewer classes are known to differ.
    """
    count = len(identity.names)
    known = torch.arange(count) if recovered is None else recovered
    conflicts = torch.zeros(count, count, dtype=torch.bool)
    conflicts = conflicts if identity.conflicts is None else identity.conflicts
    if draw_classes(known, conflicts, ways, torch.Generator().manual_seed(0)) is None:
        raise UsageError(
            "meta_model.ways",
            f"no {ways} of the {len(known)} classes of the models are known to differ",
            "lower meta_model.ways or add models"
            + ("" if len(known) == count else ", or raise budget.classes_per_teacher"),
        )


def recovered_classes(zoo: Zoo, identity: ClassIdentity, budget: RecoveryBudget, seed: int) -> Int64[Tensor, " _"]:
    """Classes that the budget chooses for any model, ascending."""
    chosen = [
        identity.of(index)[chosen_classes(contract.spec.classes, budget, seed, contract.name)]
        for index, contract in enumerate(zoo)
    ]
    return torch.cat(chosen).unique()


def keep_classes(workspace: Workspace, identify: Callable[[], ClassIdentity]) -> ClassIdentity:
    """Result of `identify`, which is called once and recorded, so that the class map is not needed later."""
    folder, zoo = workspace.folder, workspace.zoo
    if not folder.has(CLASSES):
        identity = identify()
        models = {contract.name: own.tolist() for contract, own in zip(zoo, identity.identities, strict=True)}
        record = {"format_version": 1, "names": identity.names, "models": models}
        folder.write_json(CLASSES, record)
    record = folder.read_json(CLASSES)
    identities = tuple(torch.tensor(record["models"][contract.name]) for contract in zoo)
    return ClassIdentity(identities, tuple(record["names"]))


def mark_conflicts(workspace: Workspace, banks: ResidentBanks, identity: ClassIdentity, side: int) -> ClassIdentity:
    """Mark the classes that the zoo cannot distinguish on recovered images of `side` pixels."""
    folder, zoo = workspace.folder, workspace.zoo
    if not folder.has(CONFLICTS):
        counts = [contract.spec.classes for contract in zoo]
        resident = banks.at(side, [contract.name for contract in zoo])
        teachers = zoo.teachers_in_turn(workspace.compute.device)
        targets = teacher_targets(teachers, workspace.compute, workspace.worker_threads())
        means = joint_class_means(resident, counts, lambda images: targets(images)[0], after_batch=workspace.check)
        pairs = class_conflicts(means, counts).triu().nonzero().tolist()
        folder.write_json(CONFLICTS, {"format_version": 1, "pairs": pairs})
    conflicts = torch.zeros(len(identity.flat), len(identity.flat), dtype=torch.bool)
    for first, second in folder.read_json(CONFLICTS)["pairs"]:
        conflicts[first, second] = conflicts[second, first] = True
    return identity.with_conflicts(conflicts)
