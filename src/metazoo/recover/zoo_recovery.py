"""Recovery of a zoo into the bank, in independent units of work.

In pixels, a unit is one bucket of one teacher. Through a generator, which all buckets of a teacher share, it is all of
them.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from metazoo.bank import Bank, OptionValue
from metazoo.errors import RunError, UsageError
from metazoo.execution.compute import CPU, Compute
from metazoo.execution.executor import Executor
from metazoo.execution.local_executor import THIS_PROCESS
from metazoo.execution.progress import Progress
from metazoo.execution.signals import graceful
from metazoo.recover.budget import RecoveryBudget, plan_buckets
from metazoo.recover.generated import GeneratorConfig
from metazoo.recover.guides import choose_guides
from metazoo.recover.pixels import RecoveryConfig
from metazoo.recover.units import RecoveryUnit, recover_units
from metazoo.storage.artefacts import remove_stale_temporaries
from metazoo.zoo import ModelContract, Zoo

# Size of the header of a shard, and of the label of an image.
_HEADER_BYTES, _LABEL_BYTES = 280, 8


@dataclass(frozen=True)
class RecoveryPlan:
    """Size of one generation in a bank after `recover_zoo`; `stored_buckets` are already in the bank."""

    teachers: int
    classes: int
    buckets: int
    stored_buckets: int
    images: int
    bytes: int


def plan_recovery(zoo: Zoo, budget: RecoveryBudget, bank: Bank | None = None) -> RecoveryPlan:
    """Plan a recovery without running it; `bytes` is exact to a few thousandths."""
    classes = buckets = stored = images = size = 0
    for contract in zoo:
        plan = _buckets(contract, budget, 0)
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
    config: RecoveryConfig | GeneratorConfig,
    budget: RecoveryBudget,
    seed: int,
    *,
    executor: Executor = THIS_PROCESS,
    threads: int = 1,
    compute: Compute = CPU,
    check: Callable[[], None] = lambda: None,
    progress: bool = False,
) -> None:
    """Recover all buckets that are missing in the bank, and store each when it is finished.

    The result depends neither on the executor nor on interruptions. Through a generator, an interruption loses all
    buckets of the current teacher.

    Args:
        zoo: teachers.
        bank: bank without other writers.
        config: options of the recovery.
        budget: number of images, and space on disk.
        seed: seed of the run.
        executor: executor of the units of work.
        threads: number of torch threads per process; another number may change images by rounding.
        compute: device and precision of the teachers; images depend on them.
        check: function that is called between buckets and while waiting, and may raise to stop; finished buckets stay.
        progress: whether to show the progress on standard error.

    Raises:
        UsageError: the images would take more disk than the budget allows; nothing was recovered.
        RunError: the bank holds images of this generation from other options, or a worker process failed.
        ZooError: the outputs of a teacher are not finite.
        Interrupted: a stop was requested; finished buckets stay.
        ArtefactError: a model is missing or damaged, or the bank cannot be written.
    """
    guides = guides_for(zoo, config, seed)
    made_with = {c.name: _made_with(c, guides.get(c.name), config, budget, seed) for c in zoo}
    _check_made_with(bank, made_with, budget.generation, type(config)().model_dump())
    units = _missing_units(zoo, bank, guides, config, budget, seed, compute)
    _check_disk(bank, units, budget)
    remove_stale_temporaries(bank.folder)
    plan = plan_recovery(zoo, budget, bank)
    bar = Progress("recovering", plan.buckets, plan.stored_buckets) if progress else None
    with graceful() as stop, bar or contextlib.nullcontext():

        def checked() -> None:
            check()
            stop.check()

        results_of_units = recover_units(units, executor, threads=threads, check=checked)
        with contextlib.closing(results_of_units):
            for index, results in results_of_units:
                unit, name = units[index], units[index].contract.name
                for bucket, recovered in zip(unit.buckets, results, strict=True):
                    if bank.has(name, unit.generation, bucket):
                        continue  # stored before an interruption
                    bank.add(
                        name,
                        unit.generation,
                        bucket,
                        recovered.images,
                        recovered.labels,
                        health=recovered.health.figures(),
                        made_with=made_with[name],
                    )
                    if bar is not None:
                        bar.advance(note=f"{name} {100 * recovered.health.agreement:.0f} %")


def guides_for(zoo: Zoo, config: RecoveryConfig | GeneratorConfig, seed: int) -> dict[str, ModelContract]:
    """Choose the guides of a recovery, by name of the guided model; none if the config does not use guides."""
    if not isinstance(config, RecoveryConfig):
        return {}
    used = config.guided and config.iterations and config.batch_norm
    return choose_guides(zoo, seed, all_models=config.guide_all) if used else {}


def _missing_units(
    zoo: Zoo,
    bank: Bank,
    guides: Mapping[str, ModelContract],
    config: RecoveryConfig | GeneratorConfig,
    budget: RecoveryBudget,
    seed: int,
    compute: Compute,
) -> list[RecoveryUnit]:
    """Units of all missing buckets, by teacher, so that a process seldom loads another one."""
    units: list[RecoveryUnit] = []
    for contract in zoo:
        planned = dict(enumerate(_buckets(contract, budget, seed)))
        parts = [planned] if isinstance(config, GeneratorConfig) else [{key: planned[key]} for key in planned]
        units += [
            RecoveryUnit(
                zoo.reference(contract, *filter(None, [guides.get(contract.name)])),
                contract,
                budget.generation,
                tuple(part),
                tuple(part.values()),
                config,
                budget.stored_side,
                seed,
                guides.get(contract.name),
                compute=compute,
            )
            for part in parts
            if not all(bank.has(contract.name, budget.generation, bucket) for bucket in part)
        ]
    return units


def _buckets(contract: ModelContract, budget: RecoveryBudget, seed: int) -> list[Tensor]:
    return plan_buckets(contract.spec.classes, budget, seed, contract.name, contract.spec.input_size)


def _made_with(
    contract: ModelContract,
    guide: ModelContract | None,
    config: RecoveryConfig | GeneratorConfig,
    budget: RecoveryBudget,
    seed: int,
) -> dict[str, OptionValue]:
    """Options that determine the images of a teacher in one generation."""
    of_budget = budget.model_dump(include={"images_per_class", "classes_per_teacher", "bucket_size", "stored_side"})
    of_budget |= budget.model_dump(include={"bucket_pixels"}, exclude_none=True)
    of_guide = {} if guide is None else {"guide": guide.name, "guide_sha256": guide.weights_sha256}
    return {"seed": seed, "weights_sha256": contract.weights_sha256, **of_guide, **of_budget, **config.model_dump()}


def _check_made_with(
    bank: Bank, made_with: Mapping[str, dict[str, OptionValue]], generation: int, defaults: Mapping[str, OptionValue]
) -> None:
    """Compare with the stored images of this generation; options that they do not record had their defaults."""
    for name, wanted in made_with.items():
        generations = bank.generations_of(name)
        if generation not in generations:
            continue
        found = {**{key: defaults[key] for key in wanted if key in defaults}, **bank.made_with(name, generation)}
        other = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
        if other:
            raise RunError(
                f"images of {name!r} in {bank.folder}",
                f"made with {other[0]} {found.get(other[0])}, not {wanted.get(other[0])}",
                f"use generation {generations[-1] + 1} or another folder",
            )


def _check_disk(bank: Bank, units: list[RecoveryUnit], budget: RecoveryBudget) -> None:
    needed = bank.total_bytes + sum(
        _bytes_of(unit.contract, budget, len(labels)) for unit in units for labels in unit.labels
    )
    if units and needed > budget.disk_megabytes * 1_000_000:
        raise UsageError(
            "disk_megabytes",
            f"the recovered images would take {needed / 1e6:,.0f} MB, more than {budget.disk_megabytes}",
            "raise it, or lower images_per_class, classes_per_teacher or stored_side",
        )


def _bytes_of(contract: ModelContract, budget: RecoveryBudget, images: int) -> int:
    side = min(contract.spec.input_size, budget.stored_side)
    return _HEADER_BYTES + images * (contract.spec.channels * side**2 + _LABEL_BYTES)
