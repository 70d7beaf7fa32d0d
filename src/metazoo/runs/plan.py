"""Estimates of time, memory and disk of a run, from one timed unit of each stage."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.table import Table

from metazoo.data import ImageSet, UnlabelledImages
from metazoo.execution.executor import default_workers
from metazoo.execution.process_memory import memory_of_this_process, peak_growth
from metazoo.execution.progress import duration, message
from metazoo.execution.threads import threads_for, torch_threads
from metazoo.methods.base import check_before_work
from metazoo.pipeline.stage_plan import PlanContext, UnitCost
from metazoo.renamed import renamed_arguments
from metazoo.runs.config import resolve_config
from metazoo.runs.description import check_run_folder
from metazoo.zoo import Zoo, zoo_with_models

_WORKER_BYTES, _PICTURE_BYTES, _MARGIN = 450e6, 150e6, 1.1
"""Bytes of a worker process without its unit, bytes for drawing pictures, and factor for memory fragmentation."""
_SECONDS_TO_START = 4.0


@dataclass(frozen=True)
class StageEstimate:
    """Estimate of a stage.

    Attributes:
        units: number of units by name.
        seconds: seconds on this machine when idle; None: unknown.
    """

    units: Mapping[str, int]
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """Estimates of a run.

    Attributes:
        stages: estimates by name, in the order of the run; empty if the method declares no stages.
        memory: upper bound of all processes together, in bytes.
        disk: upper bound of the disk space, in bytes.
        models: number of models of the zoo.
    """

    stages: Mapping[str, StageEstimate]
    memory: float
    disk: float
    models: int

    @property
    def is_complete(self) -> bool:
        """Whether the time of every stage is known."""
        return bool(self.stages) and all(stage.seconds is not None for stage in self.stages.values())

    @property
    def total_seconds(self) -> float:
        """Total of the known seconds of all stages."""
        return sum(stage.seconds or 0.0 for stage in self.stages.values())


@renamed_arguments(setting="preset")
def plan_run(
    zoo: Zoo | Path | str,
    method: str | None = None,
    *,
    out: Path | str | None = None,
    preset: str | None = None,
    config: Mapping[str, Any] | Path | str | None = None,
    workers: int | None = None,
    threads: int = 1,
    progress: bool = False,
    resume: bool = False,
    unlabelled: ImageSet | Path | str | None = None,
) -> Plan:
    """Estimate a run by timing one unit of every stage that its method declares.

    Planning takes some seconds; for the preset `published` up to two minutes.

    Args:
        zoo: zoo or its folder.
        method: learning method, see `metazoo.train`.
        out: run folder to check, without writing to it; None: no check.
        preset: preset, see `metazoo.train`.
        config: options that differ from the preset, see `metazoo.train`.
        workers: number of processes; None: one per core.
        threads: torch threads of learning.
        progress: whether to report progress on standard error.
        resume: whether `out` may hold a run.
        unlabelled: unlabelled images, see `metazoo.train`.

    Raises:
        UsageError: see `metazoo.train`.
        ArtefactError, ZooError: a model is damaged.
    """
    resolved, zoo = resolve_config(config, method=method, preset=preset), zoo_with_models(zoo)
    if out is not None:
        check_run_folder(Path(out), resume)
    given = None if unlabelled is None else UnlabelledImages(unlabelled)
    check_before_work(resolved.method, zoo, resolved.options, resolved.seed, given)
    plans = resolved.method.plan(zoo, resolved.options, *([] if given is None else [given]))
    if progress and plans:
        message("timing one unit of every stage")
    capacity, here = default_workers() if workers is None else workers, _resident_bytes()
    measured: dict[Callable[[PlanContext], UnitCost], tuple[UnitCost, float, float]] = {}
    with tempfile.TemporaryDirectory() as folder, torch_threads(threads):
        context = PlanContext.prepare(zoo, Path(folder) / "bank", capacity, threads_for(capacity))
        for plan in plans:
            if plan.measure is not None and plan.measure not in measured:
                with torch_threads(1 if plan.parts > 1 else threads):
                    measured[plan.measure] = _measured(plan.measure, context)
    stages: dict[str, StageEstimate] = {}
    starting, processes, disk = _SECONDS_TO_START, 0.0, 0.0
    for plan in plans:
        stage, at_once, seconds = stages.get(plan.stage, StageEstimate({}, 0.0)), min(capacity, plan.parts), None
        disk += plan.disk
        if plan.measure is not None:
            cost, growth, peak = measured[plan.measure]
            disk += cost.disk
            seconds = plan.units * cost.seconds / at_once
            if at_once > 1:  # worker processes live until the run ends
                processes = max(processes, at_once * (_WORKER_BYTES + growth))
                seconds, starting = seconds + starting, 0.0
            else:
                here = max(here, peak + cost.memory)
        units = {**stage.units, plan.unit: stage.units.get(plan.unit, 0) + plan.units}
        known = None if seconds is None or stage.seconds is None else stage.seconds + seconds
        stages[plan.stage] = StageEstimate(units, known)
    return Plan(stages, _MARGIN * (here + processes) + _PICTURE_BYTES, disk, len(zoo))


def _measured(measure: Callable[[PlanContext], UnitCost], context: PlanContext) -> tuple[UnitCost, float, float]:
    """Cost of a unit, growth of this process in bytes, and its peak in bytes."""
    before = _resident_bytes()
    with peak_growth() as grown:
        cost = measure(context)
    if grown.bytes is None:  # peaks are known on Linux only
        return cost, max(0.0, _resident_bytes() - before), _resident_bytes()
    return cost, grown.bytes, memory_of_this_process("VmHWM")


def _resident_bytes() -> float:
    return float(psutil.Process().memory_info().rss)


def plan_table(plan: Plan) -> Table:
    """Table of the estimates for a rich console."""
    table = Table(show_header=False)
    table.add_row("models", f"{plan.models:,}")
    if not plan.stages:
        table.add_row("time, memory, disk", "unknown: the method declares no stages")
        return table
    for name, stage in plan.stages.items():
        seconds = "unknown" if stage.seconds is None else duration(stage.seconds)
        units = ", ".join(f"{count:,} {unit}{'' if count == 1 else 's'}" for unit, count in stage.units.items())
        table.add_row(f"time, {name}", f"{seconds} ({units})")
    least = "" if plan.is_complete else "at least "
    table.add_row("time, total", least + duration(plan.total_seconds))
    table.add_row("memory, at most", f"{plan.memory / 1e9:.1f} GB")
    table.add_row("disk, at most", f"{plan.disk / 1e6:,.0f} MB")
    return table
