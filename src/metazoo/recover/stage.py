"""Recovering a whole zoo into the bank: one bucket of one teacher is a unit of work, and every unit stands alone."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from metazoo.bank import Bank, Setting
from metazoo.errors import RunError, UsageError
from metazoo.recover.budget import RecoveryBudget, plan_buckets
from metazoo.recover.pixels import RecoveredImages, RecoveryRecipe, recover_images
from metazoo.run.artefacts import remove_stale_temporaries
from metazoo.run.executor import default_workers, map_units
from metazoo.run.progress import Progress
from metazoo.run.randomness import generator
from metazoo.run.signals import graceful
from metazoo.zoo import ModelContract, WhiteBoxTeacher, Zoo

# Of a shard: its header, and what every image has beside its pixels.
_HEADER_BYTES, _LABEL_BYTES = 280, 8


@dataclass(frozen=True)
class RecoveryPlan:
    """What `recover_zoo` brings a bank to hold of one generation; `stored_buckets` of it are there already."""

    teachers: int
    classes: int
    buckets: int
    stored_buckets: int
    images: int
    bytes: int


def plan_recovery(zoo: Zoo, budget: RecoveryBudget, bank: Bank | None = None) -> RecoveryPlan:
    """The figures of a recovery, without doing any of it; `bytes` is right within a few thousandths."""
    classes = buckets = stored = images = size = 0
    for contract in zoo:
        plan = plan_buckets(contract.spec.classes, budget, 0, contract.name)
        classes += min(contract.spec.classes, budget.classes_per_teacher)
        buckets += len(plan)
        images += sum(map(len, plan))
        size += sum(_bytes_of(contract, budget, len(labels)) for labels in plan)
        if bank is not None:
            stored += sum(bank.has(contract.name, budget.generation, bucket) for bucket in range(len(plan)))
    return RecoveryPlan(len(zoo), classes, buckets, stored, images, size)


def recover_zoo(
    zoo: Zoo,
    bank: Bank,
    recipe: RecoveryRecipe,
    budget: RecoveryBudget,
    seed: int,
    *,
    workers: int | None = None,
    threads: int = 1,
    check: Callable[[], None] = lambda: None,
    progress: bool = False,
) -> None:
    """Recover every bucket that the bank lacks, and store each as it comes.

    What is stored depends neither on the number of workers nor on how often this was interrupted and called again.

    Args:
        zoo: the teachers.
        bank: with this process as its only writer, such as the holder of its run folder.
        recipe: how a bucket is recovered.
        budget: what is recovered, and the disk that it may take.
        seed: of the run.
        workers: processes; one a core if None.
        threads: torch threads of each process; with another number images may differ by rounding.
        check: called between buckets and while waiting; what it raises ends the recovery, and finished buckets stay.
        progress: whether to say on standard error how far it is.

    Raises:
        UsageError: the images would take more disk than the budget allows; then nothing has been recovered.
        RunError: the bank holds images of this generation that were made otherwise, or a worker process failed.
        ZooError: the outputs of a teacher are not finite.
        Interrupted: a stop was asked for; finished buckets stay.
        ArtefactError: a model is missing or damaged, or the bank cannot be written.
    """
    _check_settings(zoo, bank, recipe, budget, seed)
    units = _missing_units(zoo, bank, recipe, budget, seed)
    _check_disk(bank, units, budget)
    remove_stale_temporaries(bank.folder)
    workers = default_workers() if workers is None else workers
    total = plan_recovery(zoo, budget).buckets
    bar = Progress("recovering", total, total - len(units)) if progress else None
    with graceful() as stop, bar or contextlib.nullcontext():

        def checked() -> None:
            check()
            stop.check()

        inline = workers == 1 or len(units) == 1
        function = functools.partial(_recover, check=checked) if inline else _recover
        try:
            for index, recovered in map_units(function, units, workers, name_of=_name, threads=threads, check=checked):
                unit = units[index]
                bank.add(
                    unit.contract.name,
                    unit.generation,
                    unit.bucket,
                    recovered.images,
                    recovered.labels,
                    health=dataclasses.asdict(recovered.health),
                    made_with=_settings(unit.contract, recipe, budget, seed),
                )
                if bar is not None:
                    bar.advance(note=f"{unit.contract.name} {100 * recovered.health.agreement:.0f} %")
        finally:
            _held.clear()


@dataclass(frozen=True)
class _Unit:
    """One bucket to recover; it travels to a worker process."""

    zoo: Path
    contract: ModelContract
    generation: int
    bucket: int
    labels: Tensor
    recipe: RecoveryRecipe
    stored_side: int
    seed: int


def _missing_units(zoo: Zoo, bank: Bank, recipe: RecoveryRecipe, budget: RecoveryBudget, seed: int) -> list[_Unit]:
    """Teacher by teacher, so that a process seldom loads another one."""
    return [
        _Unit(zoo.folder, contract, budget.generation, bucket, labels, recipe, budget.stored_side, seed)
        for contract in zoo
        for bucket, labels in enumerate(plan_buckets(contract.spec.classes, budget, seed, contract.name))
        if not bank.has(contract.name, budget.generation, bucket)
    ]


def _name(unit: _Unit) -> str:
    return f"recovery from model {unit.contract.name!r} (bucket {unit.bucket})"


def _recover(unit: _Unit, check: Callable[[], None] = lambda: None) -> RecoveredImages:
    random = generator(unit.seed, "recover", f"{unit.contract.name}/{unit.generation}", unit.bucket)
    teacher = _teacher(unit.zoo, unit.contract)
    return recover_images(teacher, unit.labels, unit.recipe, random, stored_side=unit.stored_side, check=check)


# The last teacher of this process, because the buckets of one follow each other.
_held: list[tuple[Path, WhiteBoxTeacher]] = []


def _teacher(folder: Path, contract: ModelContract) -> WhiteBoxTeacher:
    if not _held or _held[0][0] != folder or _held[0][1].contract != contract:
        _held.clear()
        # Of all contracts this one only: nothing of a large zoo is read for each of its models.
        _held.append((folder, Zoo(folder, [contract]).teacher(contract.name)))
    return _held[0][1]


def _settings(contract: ModelContract, recipe: RecoveryRecipe, budget: RecoveryBudget, seed: int) -> dict[str, Setting]:
    """All that decides what one generation of a teacher's images is like."""
    of_budget = budget.model_dump(include={"images_per_class", "classes_per_teacher", "bucket_size", "stored_side"})
    return {"seed": seed, "weights_sha256": contract.weights_sha256, **of_budget, **recipe.model_dump()}


def _check_settings(zoo: Zoo, bank: Bank, recipe: RecoveryRecipe, budget: RecoveryBudget, seed: int) -> None:
    for contract in zoo:
        generations = bank.generations_of(contract.name)
        if budget.generation not in generations:
            continue
        found, wanted = bank.made_with(contract.name, budget.generation), _settings(contract, recipe, budget, seed)
        other = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
        if other:
            raise RunError(
                f"{bank.folder} holds images of {contract.name!r} made with {other[0]} {found.get(other[0])}, not "
                f"{wanted.get(other[0])}; ask for generation {generations[-1] + 1}, or choose another folder"
            )


def _check_disk(bank: Bank, units: list[_Unit], budget: RecoveryBudget) -> None:
    needed = sum(_bytes_of(unit.contract, budget, len(unit.labels)) for unit in units) + bank.total_bytes
    if units and needed > budget.disk_megabytes * 1_000_000:
        raise UsageError(
            f"the recovered images would take {needed / 1e6:,.0f} MB of disk, more than disk_megabytes "
            f"{budget.disk_megabytes} allows; raise it, or lower images_per_class, classes_per_teacher or stored_side"
        )


def _bytes_of(contract: ModelContract, budget: RecoveryBudget, images: int) -> int:
    side = min(contract.spec.input_size, budget.stored_side)
    return _HEADER_BYTES + images * (contract.spec.channels * side**2 + _LABEL_BYTES)
