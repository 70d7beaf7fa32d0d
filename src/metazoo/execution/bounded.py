"""Units of work that may ask for anything, done one after the other by a process that may not.

One process serves many units. A unit that goes beyond its limits takes its process with it at worst, and the next one
gets another.
"""

import functools
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

import psutil

from metazoo.errors import MetazooError, RunError
from metazoo.execution.process_memory import memory_of_this_process
from metazoo.execution.tasks import Result, Unit, Work
from metazoo.execution.worker import Worker, end_workers

_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_TO_START = 600.0
_PART_OF_WHAT_IS_FREE = 0.8
# What the C library takes in advance (see `metazoo.execution.process_memory`), and what a system counts otherwise.
_SLACK = 128 << 20


@dataclass(frozen=True)
class Limits:
    """What one unit may take: `seconds`, and `megabytes` of memory (None: four fifths of what is free now)."""

    seconds: float = 120.0
    megabytes: float | None = None

    @property
    def bytes(self) -> int:
        """Of memory."""
        if self.megabytes is not None:
            return int(self.megabytes * 1e6)
        return int(psutil.virtual_memory().available * _PART_OF_WHAT_IS_FREE)


class ExceededError(RunError):
    """A unit went beyond its limits, or ended its process. The message is what it did, such as `took more than 2 s`."""


def map_bounded(
    function: Callable[[Unit], Result],
    units: Iterable[Unit],
    limits: Limits,
    *,
    name_of: Callable[[Unit], str] = str,
    threads: int = 1,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Result | MetazooError]:
    """Yield `function(unit)` for each of `units`, in their order, or the error that came instead.

    Where the system can (Linux), the process itself is refused more memory than it may have: `function` then meets a
    MemoryError, or what torch makes of it, and may go on. Elsewhere it is watched, and ended.

    Args:
        function: as of `metazoo.execution.executor.Executor.map`.
        units: taken one by one.
        limits: of a single unit, beyond what the process holds before its first one.
        name_of: how a unit is called in errors.
        threads: torch threads of the process.
        check: called between units and several times a second; what it raises ends the process.

    Raises:
        RunError: no process can be started, or none but this one knows what was registered in `__main__`.
    """
    most = limits.bytes
    preparation = Work(functools.partial(_prepare, function), [most], lambda _: "the process that is limited", threads)
    if preparation.needs_this_process:
        raise RunError("no other process can import what is registered in __main__; register it in a module of its own")
    worker: Worker | None = None
    try:
        for unit in units:
            check()
            work = Work(function, [unit], name_of, threads)
            if worker is None:
                worker = Worker()
                _up(worker, preparation, check)
            worker.unit = 0
            worker.send(work.packed(0))
            answer = _answer(worker, limits.seconds, most, check)
            worker.unit = None
            if isinstance(answer, ExceededError):
                worker.process.kill()
                end_workers([worker])
                worker = None
                yield answer
                continue
            try:
                yield work.unpacked(0, answer)
            except MetazooError as error:
                yield error
    finally:
        end_workers([worker] if worker is not None else [])


def _prepare(_function: Callable[..., Any], most: int) -> None:
    """In the new process; the function has come along so that what its module imports is there already."""
    if sys.platform.startswith("linux"):
        import resource

        # What counts towards RLIMIT_DATA.
        held = memory_of_this_process("VmData")
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        wanted = held + most + _SLACK
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _up(worker: Worker, preparation: Work[int, None], check: Callable[[], None]) -> None:
    if isinstance(_answer(worker, _SECONDS_TO_START, None, check), ExceededError):
        worker.explain_death(None, check)
    worker.up = True
    worker.send(preparation.packed(0))
    answer = _answer(worker, _SECONDS_TO_START, None, check)
    if isinstance(answer, ExceededError):
        worker.explain_death(None, check)
    preparation.unpacked(0, answer)


def _answer(worker: Worker, seconds: float, most: int | None, check: Callable[[], None]) -> bytes | ExceededError:
    deadline = time.monotonic() + seconds
    resident = _resident(worker)
    while True:
        if wait([worker.connection], timeout=min(_SECONDS_BETWEEN_LOOKS, max(0.0, deadline - time.monotonic()))):
            try:
                return worker.connection.recv_bytes()
            except (EOFError, OSError):
                code = worker.exit_code()
                ending = f"a signal ({-code})" if code < 0 else f"exit code {code}"
                return ExceededError(f"ended its process with {ending}, perhaps for want of memory")
        check()
        if time.monotonic() >= deadline:
            return ExceededError(f"took more than {seconds:g} s")
        if most is not None and _resident(worker) > resident + most + _SLACK:
            return ExceededError(f"took more than {most / 1e6:,.0f} MB of memory")


def _resident(worker: Worker) -> int:
    try:
        return psutil.Process(worker.process.pid).memory_info().rss
    except psutil.Error:
        return 0
