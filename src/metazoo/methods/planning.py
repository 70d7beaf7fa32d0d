"""What a run would take, measured on a few steps of its own before it begins."""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.table import Table

from metazoo.bank import Bank, ResidentBank
from metazoo.data.augment import shift_and_flip
from metazoo.errors import UsageError
from metazoo.learn.group_learning import GroupLearner
from metazoo.learn.student import Student
from metazoo.methods.config import resolve_config
from metazoo.methods.stages import teacher_targets
from metazoo.methods.tgr import TgrRecipe
from metazoo.recover import plan_recovery, recover_images
from metazoo.recover.budget import plan_buckets
from metazoo.run.executor import default_workers
from metazoo.run.memory import keep_freed_memory
from metazoo.run.threads import torch_threads
from metazoo.taskspace import train_probe
from metazoo.zoo import WhiteBoxTeacher, Zoo

_ITERATIONS, _STEPS, _VIEWS = 4, 6, 256
_WORKER_BYTES = 450e6
"""What a worker process holds besides its images: the interpreter and its share of torch."""


@dataclass(frozen=True)
class Plan:
    """Estimates. `seconds` by stage on this machine as it is now; `memory` and `disk` in bytes, upper bounds.

    The memory is that of all processes together at the greatest stage.
    """

    seconds: dict[str, float]
    memory: float
    disk: float
    models: int
    images: int

    @property
    def total_seconds(self) -> float:
        """Of all stages."""
        return sum(self.seconds.values())


def plan_run(
    zoo: Zoo | Path | str,
    method: str | None = None,
    *,
    setting: str | None = None,
    config: Mapping[str, Any] | Path | str | None = None,
    workers: int | None = None,
    threads: int = 1,
) -> Plan:
    """Time a few steps of every stage, one kind of teacher at a time, and count the rest; takes some seconds.

    Raises:
        UsageError: as `metazoo.train`.
        ArtefactError, ZooError: a model is damaged.
    """
    recipe = resolve_config(config, method=method, setting=setting).recipe
    assert isinstance(recipe, TgrRecipe)
    zoo = zoo if isinstance(zoo, Zoo) else Zoo.open(zoo)
    if len(zoo) == 0:
        raise UsageError(f"{zoo.folder} holds no model; add some with `metazoo zoo build`")
    keep_freed_memory()
    workers = default_workers() if workers is None else workers
    teachers = zoo.teachers()
    recovery = plan_recovery(zoo, recipe.budget)
    with tempfile.TemporaryDirectory() as folder:
        bank = Bank.create(Path(folder) / "bank")
        with torch_threads(1):
            recovering, bucket_bytes = _time_recovery(teachers, recipe, bank)
        with torch_threads(threads):
            probing, learning, pool_bytes, state_bytes = _time_learning(zoo, teachers, recipe, bank)
    seconds = {"recovery": recovering / workers + 4 * (workers > 1), "task space": probing, "learning": learning}
    here = psutil.Process().memory_info().rss
    busy = min(workers, recovery.buckets)
    return Plan(
        seconds=seconds,
        memory=max(here + pool_bytes, here + busy * (_WORKER_BYTES + bucket_bytes) * (busy > 1)),
        disk=recovery.bytes * 1.1 + 3 * state_bytes + 0.3e6 * len(zoo),
        models=len(zoo),
        images=recovery.images,
    )


def plan_table(plan: Plan) -> Table:
    """The estimates for a rich console."""
    table = Table(show_header=False)
    table.add_row("models", f"{plan.models:,}")
    table.add_row("images to recover", f"{plan.images:,}")
    for stage, seconds in plan.seconds.items():
        table.add_row(f"time, {stage}", _duration(seconds))
    table.add_row("time, in all", _duration(plan.total_seconds))
    table.add_row("memory, at most", f"{plan.memory / 1e9:.1f} GB")
    table.add_row("disk, at most", f"{plan.disk / 1e6:,.0f} MB")
    return table


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _time_recovery(teachers: tuple[WhiteBoxTeacher, ...], recipe: TgrRecipe, bank: Bank) -> tuple[float, float]:
    """Seconds on one core for all buckets, and the bytes of the greatest; one bucket of every teacher is stored."""
    seconds, largest = 0.0, 0.0
    known: dict[tuple[object, ...], float] = {}
    short = recipe.recovery.model_copy(update={"iterations": _ITERATIONS})
    for teacher in teachers:
        spec = teacher.contract.spec
        buckets = plan_buckets(spec.classes, recipe.budget, 0, teacher.contract.name)
        kind = (spec.architecture, tuple(spec.arguments.items()), spec.input_size, spec.channels, len(buckets[0]))
        random = torch.Generator().manual_seed(0)
        if kind in known:
            images = torch.randint(0, 256, (len(buckets[0]), 3, 16, 16), generator=random, dtype=torch.uint8)
        else:
            recover_images(teacher, buckets[0], short.model_copy(update={"iterations": 1}), random)
            start = time.perf_counter()
            recovered = recover_images(teacher, buckets[0], short, random)
            known[kind] = (time.perf_counter() - start) / _ITERATIONS * recipe.recovery.iterations
            images = recovered.images
            # A pass keeps about 60 numbers a pixel and channel of the widest layers alive.
            largest = max(largest, 4.0 * len(buckets[0]) * spec.input_size**2 * 250)
        bank.add(teacher.contract.name, 0, 0, images, buckets[0])
        seconds += known[kind] * len(buckets)
    return seconds, largest


def _time_learning(
    zoo: Zoo, teachers: tuple[WhiteBoxTeacher, ...], recipe: TgrRecipe, bank: Bank
) -> tuple[float, float, float, float]:
    """Seconds of the task space and of learning; bytes of the pool of views and of the learner's state."""
    counts = {contract.name: contract.spec.classes for contract in zoo}
    probe_bank = ResidentBank.load(bank, list(counts), recipe.probe.input_size)
    few = recipe.probe.model_copy(update={"steps": 3})
    probe = train_probe(probe_bank, counts, few, 0)
    a_step = _seconds(lambda: train_probe(probe_bank, counts, few, 0)) / 3
    own = probe_bank.places_of(0)
    sample = min(16, len(probe_bank.labels[own]))
    embed = _seconds(
        lambda: probe.embed(zoo.contracts[0].name, probe_bank.images[own][:sample], probe_bank.labels[own][:sample])
    )
    most = min(recipe.probe.fisher_images, recipe.budget.images_per_class * max(counts.values()))
    probing = a_step * recipe.probe.steps + embed / sample * most * len(zoo)

    spec, targets = recipe.meta_model.spec(zoo), teacher_targets(teachers)
    sizes = [teacher.classifier.network.feature_size for teacher in teachers]
    learning = recipe.learning
    resident = ResidentBank.load(bank, list(counts), spec.input_size)
    learner = GroupLearner(
        Student(spec, sizes, list(counts.values()), 0),
        resident,
        [list(range(len(zoo)))],
        lambda _: tuple(range(min(learning.teachers_per_step, len(zoo)))),
        targets,
        learning.model_copy(update={"views": max(_VIEWS, len(zoo))}),
        0,
    )
    learner.step()
    step = _seconds(lambda: [learner.step() for _ in range(_STEPS)]) / _STEPS
    images = shift_and_flip(resident.pixels(torch.arange(len(resident))[:_VIEWS]), 2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        view = _seconds(lambda: targets(images)) / len(images)
    pools = -(-learning.steps // learning.steps_per_views)
    pool_bytes = learning.views * (3 * spec.input_size**2 * 17 + 2.0 * sum(sizes) + 4.0 * sum(counts.values()))
    state = sum(tensor.numel() * 4.0 for tensor in learner.state().values())
    return probing, step * learning.steps + view * learning.views * pools, pool_bytes, state


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
