"""Executors of independent units of work; results do not depend on the executor."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

from metazoo.choices import EXECUTORS, ExecutorName
from metazoo.errors import UsageError
from metazoo.execution.tasks import Result, Unit, Work

# Remaining time of short units in one process from which starting others pays.
_SECONDS_WORTH_PROCESSES = 10.0


def default_workers() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Executor(ABC):
    """Processes for independent units of work; they start when a call of `map` needs them, and stay until `close`.

    Args:
        workers: number of single-threaded units that run at once, the `capacity`.

    Raises:
        UsageError: `workers` is below 1.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise UsageError("workers", f"must be 1 or more, not {workers}")
        self.capacity = workers
        self._has_noted = False

    def map(
        self,
        function: Callable[[Unit], Result],
        units: Sequence[Unit],
        *,
        name_of: Callable[[Unit], str] = str,
        threads: int = 1,
        short: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> Generator[tuple[int, Result]]:
        """Yield `(index, function(units[index]))` in order of completion; units start in their order.

        Units run in this process if others do not help, or if `function` or something registered is defined in
        `__main__`, which other processes cannot import. The results are equal.

        Args:
            function: module-level function. Units and results are copied between processes. Its module imports torch at
                the top, if it uses torch. In this process, `metazoo.execution.signals.check_stop` calls `check`.
            units: arguments of the calls.
            name_of: function for the name of a unit in errors.
            threads: number of torch threads per call; `capacity // threads` units run at once.
            short: whether the units may be too short to start processes; the first ones are then timed.
            check: function that is called between units and at least twice per second while waiting, and may raise to
                end the processes.

        Raises:
            UsageError: `threads` is below 1, or another call of `map` has not ended.
            MetazooError: `function` raised it.
            RunError: a unit failed with another error, or its process was killed, for example out of memory.
        """
        if threads < 1:
            raise UsageError("threads", f"must be 1 or more, not {threads}")
        work = Work(function, units, name_of, threads)
        is_alone, done, spent = self._is_alone(work), 0, 0.0
        while done < len(units) and (is_alone or (short and not self._pays(spent, done, len(units)))):
            check()
            start = time.monotonic()
            result = work.do_here(done, check)
            spent, done = spent + time.monotonic() - start, done + 1
            yield done - 1, result
        if done < len(units):
            check()
            yield from self._spread(work, range(done, len(units)), check)

    @abstractmethod
    def close(self) -> None:
        """End the processes, with a moment for busy ones to delete temporary files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    @abstractmethod
    def is_warm(self) -> bool:
        """Whether processes have started."""

    @abstractmethod
    def _spread(self, work: Work[Any, Any], indices: range, check: Callable[[], None]) -> Iterator[tuple[int, Any]]:
        """Yield index and result of these units from other processes."""

    def _is_alone(self, work: Work[Any, Any]) -> bool:
        """Whether units run in this process."""
        if not work.needs_this_process:
            return False
        if not self._has_noted and self.capacity > 1:
            from metazoo.execution.progress import message  # imports rich, which workers do not need

            message(
                "note: work runs in this process alone, since others cannot import what __main__ defines or registers; "
                "move it to another module"
            )
            self._has_noted = True
        return True

    def _pays(self, spent: float, done: int, count: int) -> bool:
        """Whether the rest of some short units, of which `done` took `spent` seconds, is worth other processes."""
        return self.is_warm or (done > 0 and spent / done * (count - done) > _SECONDS_WORTH_PROCESSES)


def in_order(results: Iterable[tuple[int, Result]]) -> Iterator[Result]:
    """Sort results of `Executor.map` by their units, with each early result held back."""
    early: dict[int, Result] = {}
    following = 0
    for index, result in results:
        early[index] = result
        while following in early:
            yield early.pop(following)
            following += 1


def executor_for(executor: Executor | ExecutorName, workers: int) -> AbstractContextManager[Executor]:
    """Return a given executor, which stays open, or a new one by name with `workers` workers, which closes at the end.

    Raises:
        UsageError: the name is unknown, `workers` is below 1, or a library is missing.
    """
    if isinstance(executor, Executor):
        return nullcontext(executor)
    if executor == "local":
        from metazoo.execution.local_executor import LocalExecutor

        return LocalExecutor(workers)
    if executor == "ray":
        from metazoo.execution.ray_executor import RayExecutor

        return RayExecutor(workers)
    raise UsageError("executor", f"unknown name {executor!r}", f"choose one of {', '.join(EXECUTORS)}")
