"""Units of work in one process with limits of time and memory.

The process does the units one after the other. A unit that exceeds its limits ends at most this process; the next unit
gets a new one.
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
# Memory that the C library reserves in advance (see `metazoo.execution.process_memory`), and inexact counts.
_SLACK = 128 << 20


@dataclass(frozen=True)
class Limits:
    """Limits of one unit: `seconds`, and `megabytes` of memory (None: four fifths of the free memory)."""

    seconds: float = 120.0
    megabytes: float | None = None

    @property
    def bytes(self) -> int:
        """Limit of memory in bytes."""
        if self.megabytes is not None:
            return int(self.megabytes * 1e6)
        return int(psutil.virtual_memory().available * _PART_OF_WHAT_IS_FREE)


class ExceededError(RunError):
    """A unit exceeded its limits or ended its process; the message is a verb phrase, such as `took more than 2 s`."""


def map_bounded(
    function: Callable[[Unit], Result],
    units: Iterable[Unit],
    limits: Limits,
    *,
    name_of: Callable[[Unit], str] = str,
    threads: int = 1,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Result | MetazooError]:
    """Yield `function(unit)`, or its error, for each of `units` in order.

    On Linux, the system refuses memory beyond the limit: `function` gets a MemoryError, or an error of torch, and can
    continue. On other systems, the process is watched, and ended beyond the limit.

    Args:
        function: module-level function, see `metazoo.execution.executor.Executor.map`.
        units: arguments of the calls, taken one by one.
        limits: limits of a single unit; memory is counted from the start of the process.
        name_of: function for the name of a unit in errors.
        threads: number of torch threads of the process.
        check: function that is called between units and several times per second, and may raise to end the process.

    Raises:
        RunError: no process can be started, or something is registered in `__main__`, which it cannot import.
    """
    most = limits.bytes
    preparation = Work(functools.partial(_prepare, function), [most], lambda _: "process with limits", threads)
    if preparation.needs_this_process:
        raise RunError("__main__", "another process cannot import what it registers", "register it in another module")
    worker: Worker | None = None
    try:
        for unit in units:
            check()
            work = Work(function, [unit], name_of, threads)
            if worker is None:
                worker = Worker()
                _start(worker, preparation, check)
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
    """Set the limit in the new process; the function is an argument so that its module is imported before."""
    if sys.platform.startswith("linux"):
        import resource

        held = memory_of_this_process("VmData")  # counts towards RLIMIT_DATA
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        wanted = held + most + _SLACK
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _start(worker: Worker, preparation: Work[int, None], check: Callable[[], None]) -> None:
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
                return ExceededError(f"ended its process with {ending}, perhaps out of memory")
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
