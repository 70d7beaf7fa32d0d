"""Recovery units, each done by one process."""

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64
from torch import Tensor

from metazoo.execution.compute import CPU, Compute
from metazoo.execution.executor import Executor, in_order
from metazoo.execution.process_memory import give_back_memory
from metazoo.execution.randomness import generator
from metazoo.execution.signals import check_stop
from metazoo.recover.generated import GeneratorConfig
from metazoo.recover.inversion import GuideError, RecoveredImages
from metazoo.recover.pixels import RecoveryConfig
from metazoo.zoo import ModelContract, WhiteBoxTeacher, Zoo, ZooReference


@dataclass(frozen=True)
class RecoveryUnit:
    """Buckets to recover from one teacher, sent to a worker process; `zoo` has the teacher and its guide."""

    zoo: ZooReference
    contract: ModelContract
    generation: int
    buckets: tuple[int, ...]
    labels: tuple[Int64[Tensor, " _"], ...]
    config: RecoveryConfig | GeneratorConfig
    stored_side: int
    seed: int
    guide: ModelContract | None = None
    stage: str = "recover"
    compute: Compute = CPU


def _name_of(unit: RecoveryUnit) -> str:
    return f"recovery from model {unit.contract.name!r} (bucket {unit.buckets[0]})"


def recover_unit(unit: RecoveryUnit) -> list[RecoveredImages]:
    """Recover the images of each bucket; results do not depend on the process and the order of units.

    A guide is rejected, and the images are recovered without it, if they are not finite or not nearer to the statistics
    of both models than at the start. Guides with damaged weights cause this.
    """
    teacher, *guides = _teachers(unit.zoo, unit.compute.device)
    found: list[RecoveredImages] = []
    for guide in guides:
        with contextlib.suppress(GuideError):
            guided = _recovered(unit, teacher, guide)
            found = [] if any(recovered.health.is_worse_than_start for recovered in guided) else guided
    if not found:
        alone = _recovered(unit, teacher, None)
        found = [replace(one, health=replace(one.health, guide_rejected=bool(guides))) for one in alone]
    give_back_memory(torch.device(unit.compute.device))
    return found


def _recovered(unit: RecoveryUnit, teacher: WhiteBoxTeacher, guide: WhiteBoxTeacher | None) -> list[RecoveredImages]:
    random = generator(unit.seed, unit.stage, f"{unit.contract.name}/{unit.generation}", unit.buckets[0])
    with unit.compute.mixed():
        inversions = unit.config.inversions(teacher, unit.labels, random, guide=guide, stored_side=unit.stored_side)
        return [inversion.run(check_stop).best() for inversion in inversions]


def recover_units(
    units: Sequence[RecoveryUnit],
    executor: Executor,
    *,
    threads: int = 1,
    short: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Generator[tuple[int, list[RecoveredImages]]]:
    """Yield the index of a unit and its images in order of completion; see `metazoo.execution.executor.Executor.map`.

    Close the generator after an early exit, to release the current teacher.
    """
    try:
        yield from executor.map(recover_unit, units, name_of=_name_of, threads=threads, short=short, check=check)
    finally:
        _held.clear()


@dataclass(frozen=True)
class Request:
    """Request for images of one teacher: its name and the target classes."""

    teacher: str
    labels: Int64[Tensor, " n"]


def recover_requests(
    zoo: Zoo,
    requests: Sequence[Request],
    config: RecoveryConfig | GeneratorConfig,
    seed: int,
    iteration: int,
    *,
    executor: Executor,
    stored_side: int,
    compute: Compute = CPU,
    check: Callable[[], None] = lambda: None,
) -> list[RecoveredImages]:
    """Recover images for the requests of one meta-iteration, without storing them; see `recover_zoo`.

    The images of a request depend on the seed, the iteration and the index of the request.
    """
    contracts = [zoo.contract(request.teacher) for request in requests]
    units = [
        RecoveryUnit(
            zoo.reference(contract),
            contract,
            iteration,
            (index,),
            (request.labels,),
            config,
            stored_side,
            seed,
            stage="recover again",
            compute=compute,
        )
        for index, (contract, request) in enumerate(zip(contracts, requests, strict=True))
    ]
    # Starting a process on a GPU takes longer than doing these short units one after the other.
    results = recover_units(units, executor, short=compute.device != "cpu", check=check)
    with contextlib.closing(results):
        return [recovered for (recovered,) in in_order(results)]


# The last teacher of this process and its guide, since the buckets of one teacher follow each other.
_held: list[tuple[ZooReference, str, list[WhiteBoxTeacher]]] = []


def _teachers(zoo: ZooReference, device: str) -> list[WhiteBoxTeacher]:
    if [held[:2] for held in _held] != [(zoo, device)]:
        _held.clear()
        opened = zoo.open()
        _held.append((zoo, device, [opened.teacher(name).to(device) for name, _ in zoo.models]))
    return _held[0][2]
