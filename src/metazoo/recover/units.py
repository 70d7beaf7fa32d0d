"""Units of recovery work that a process does."""

import contextlib
import functools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from metazoo.errors import ZooError
from metazoo.execution.compute import CPU, Compute
from metazoo.execution.executor import map_units
from metazoo.execution.process_memory import give_back_memory
from metazoo.execution.randomness import generator
from metazoo.recover.generated import GeneratorConfig
from metazoo.recover.inversion import RecoveredImages
from metazoo.recover.pixels import RecoveryConfig
from metazoo.zoo import ModelContract, WhiteBoxTeacher, Zoo


@dataclass(frozen=True)
class RecoveryUnit:
    """Buckets to recover from one teacher, sent to a worker process."""

    zoo: Path
    contract: ModelContract
    generation: int
    buckets: tuple[int, ...]
    labels: tuple[Tensor, ...]
    config: RecoveryConfig | GeneratorConfig
    stored_side: int
    seed: int
    guide: ModelContract | None = None
    stage: str = "recover"
    compute: Compute = CPU


def _name_of(unit: RecoveryUnit) -> str:
    return f"recovery from model {unit.contract.name!r} (bucket {unit.buckets[0]})"


def recover_unit(unit: RecoveryUnit, check: Callable[[], None] = lambda: None) -> list[RecoveredImages]:
    """Recover the images of each of its buckets; the same in every process and for every order of units.

    A guide is rejected, and the images are recovered without it, if it keeps them from becoming finite or from coming
    nearer to the teacher's own statistics, as one of ruined weights does.
    """
    wanted = (unit.contract,) if unit.guide is None else (unit.contract, unit.guide)
    teacher, *guides = _teachers(unit.zoo, wanted, unit.compute.device)
    found: list[RecoveredImages] = []
    for guide in guides:
        with contextlib.suppress(ZooError):
            guided = _recovered(unit, teacher, guide, check)
            found = [] if any(recovered.health.is_worse_than_start for recovered in guided) else guided
    if not found:
        alone = _recovered(unit, teacher, None, check)
        found = [replace(one, health=replace(one.health, guide_rejected=bool(guides))) for one in alone]
    give_back_memory(torch.device(unit.compute.device))
    return found


def _recovered(
    unit: RecoveryUnit, teacher: WhiteBoxTeacher, guide: WhiteBoxTeacher | None, check: Callable[[], None]
) -> list[RecoveredImages]:
    random = generator(unit.seed, unit.stage, f"{unit.contract.name}/{unit.generation}", unit.buckets[0])
    with unit.compute.mixed():
        inversions = unit.config.inversions(teacher, unit.labels, random, guide=guide, stored_side=unit.stored_side)
        return [inversion.run(check).best() for inversion in inversions]


def recover_units(
    units: Sequence[RecoveryUnit], workers: int, *, threads: int = 1, check: Callable[[], None] = lambda: None
) -> Generator[tuple[int, list[RecoveredImages]]]:
    """Yield the index of a unit and its images as they come; see `metazoo.execution.executor.map_units`.

    Close it when it is left early, so that the teacher at hand is let go.
    """
    inline = workers == 1 or len(units) == 1
    function = functools.partial(recover_unit, check=check) if inline else recover_unit
    try:
        yield from map_units(function, units, workers, name_of=_name_of, threads=threads, check=check)
    finally:
        _held.clear()


@dataclass(frozen=True)
class Request:
    """Images wanted of one teacher at once: its name and the local classes, int64 [n]."""

    teacher: str
    labels: Tensor


def recover_requests(
    zoo: Zoo,
    requests: Sequence[Request],
    config: RecoveryConfig | GeneratorConfig,
    seed: int,
    iteration: int,
    *,
    workers: int,
    stored_side: int,
    compute: Compute = CPU,
    check: Callable[[], None] = lambda: None,
) -> list[RecoveredImages]:
    """Recover the requests of one meta-iteration afresh, without storing anything; as `recover_zoo` otherwise.

    What comes depends on the seed, the number of the iteration and the place of a request among the others.
    """
    units = [
        RecoveryUnit(
            zoo.folder,
            zoo.contract(request.teacher),
            iteration,
            (place,),
            (request.labels,),
            config,
            stored_side,
            seed,
            stage="recover again",
            compute=compute,
        )
        for place, request in enumerate(requests)
    ]
    # A process takes longer to come up on a GPU than it would take the last of these units to wait for the others.
    workers = workers if compute.device == "cpu" else 1
    found = {index: recovered for index, (recovered,) in recover_units(units, workers, check=check)}
    return [found[place] for place in range(len(units))]


# The last teacher of this process and its guide, because the buckets of one follow each other.
_held: list[tuple[Path, str, WhiteBoxTeacher]] = []


def _teachers(folder: Path, contracts: Sequence[ModelContract], device: str) -> list[WhiteBoxTeacher]:
    held = [(path, place, teacher.contract) for path, place, teacher in _held]
    if held != [(folder, device, contract) for contract in contracts]:
        _held.clear()
        # Of all contracts these alone: nothing of a large zoo is read for each of its models.
        _held.extend((folder, device, Zoo(folder, [one]).teacher(one.name).to(device)) for one in contracts)
    return [teacher for *_, teacher in _held]
