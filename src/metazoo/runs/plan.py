"""What a run would take, measured on a few steps of its own before it begins."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from metazoo.bank import Bank
from metazoo.execution.executor import default_workers
from metazoo.execution.process_memory import memory_of_this_process, peak_growth
from metazoo.execution.progress import duration, message
from metazoo.execution.threads import threads_for, torch_threads
from metazoo.methods.tgr import TgrConfig
from metazoo.methods.tgr_reference import PublishedTgrConfig
from metazoo.pipeline.audit_stage import most_kinds, specialised
from metazoo.recover import guides_for, plan_recovery
from metazoo.runs.config import resolve_config
from metazoo.runs.step_costs import (
    resident_bytes,
    time_group_learning,
    time_recovery,
    time_replay_learning,
    time_selection,
    time_task_space,
    time_trust,
)
from metazoo.zoo import Zoo, zoo_with_models

_WORKER_BYTES, _PICTURE_BYTES, _MARGIN = 450e6, 150e6, 1.1
"""What a worker process holds besides its images, the interpreter and its share of torch; what draws pictures; and room
for the gaps that hours of work leave."""


@dataclass(frozen=True)
class Plan:
    """Estimates: `seconds` by stage on this machine when idle, upper bounds of `memory` and `disk` in bytes.

    Domains are taken for as many kinds of images as they can be, each with a specialist whose steps take as long as
    those of the whole zoo.

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
    preset: str | None = None,
    config: Mapping[str, Any] | Path | str | None = None,
    workers: int | None = None,
    threads: int = 1,
    progress: bool = False,
) -> Plan:
    """Time a few steps of every stage, one kind of teacher at a time, and count the rest.

    It takes some seconds; for the preset `reference` up to a minute or two. How long a replay goes on is guessed.

    Raises:
        UsageError: as `metazoo.train`.
        ArtefactError, ZooError: a model is damaged.
    """
    resolved = resolve_config(config, method=method, preset=preset)
    options, zoo = resolved.options, zoo_with_models(zoo)
    assert isinstance(options, TgrConfig | PublishedTgrConfig)
    resolved.method.check(zoo, options, resolved.seed)
    if progress:
        message("timing a few steps of every stage")
    at_first = resident_bytes()
    workers = default_workers() if workers is None else workers
    teachers = zoo.teachers_in_turn()
    recovery, guides = plan_recovery(zoo, options.budget), guides_for(zoo, options.recovery, 0)
    with tempfile.TemporaryDirectory() as folder:
        bank = Bank.create(Path(folder) / "bank")
        with torch_threads(1):
            inversion = time_recovery(teachers, guides, options.recovery, options.budget, bank)
        with torch_threads(threads):
            sharing = threads_for(workers)
            probing = time_task_space(zoo, options.probe, options.budget, bank)
            selecting = 0.0
            if not isinstance(options, PublishedTgrConfig):
                kinds = most_kinds(zoo, options.domains) if options.source.shows_classes else 1
                probing += time_trust(zoo, teachers, options, sharing)
                selecting = time_selection(zoo, options)
                more = kinds * specialised(options.learning, options.domains).steps if kinds > 1 else 0
                longest = options.learning.model_copy(update={"steps": options.learning.steps + more})
                options = options.model_copy(update={"learning": longest})
            with peak_growth() as grown:
                if isinstance(options, PublishedTgrConfig):
                    learning = time_replay_learning(zoo, options, bank, inversion, workers, sharing)
                else:
                    learning = time_group_learning(zoo, teachers, options, bank, sharing)
            here = resident_bytes() if grown.bytes is None else memory_of_this_process("VmHWM")
    is_reference = isinstance(options, PublishedTgrConfig)
    parallel = min(workers, len(zoo) if is_reference else recovery.buckets)
    inverting = parallel * (_WORKER_BYTES + inversion.memory) * (parallel > 1)
    learning_too = here + learning.memory
    # The published procedure inverts while it learns; else this process only grows once all images are recovered.
    most = learning_too + inverting if is_reference else max(learning_too, at_first + inverting)
    return Plan(
        seconds={
            "recovery": inversion.seconds / parallel + 4 * (workers > 1),
            "task space": probing,
            "learning": learning.seconds + selecting,
        },
        memory=_MARGIN * most + _PICTURE_BYTES,
        disk=recovery.bytes * 1.1 + learning.disk + 0.3e6 * len(zoo),
        models=len(zoo),
        images=recovery.images,
    )


def plan_table(plan: Plan) -> Table:
    """The estimates for a rich console."""
    table = Table(show_header=False)
    table.add_row("models", f"{plan.models:,}")
    table.add_row("images to recover", f"{plan.images:,}")
    for stage, seconds in plan.seconds.items():
        table.add_row(f"time, {stage}", duration(seconds))
    table.add_row("time, in all", duration(plan.total_seconds))
    table.add_row("memory, at most", f"{plan.memory / 1e9:.1f} GB")
    table.add_row("disk, at most", f"{plan.disk / 1e6:,.0f} MB")
    return table
