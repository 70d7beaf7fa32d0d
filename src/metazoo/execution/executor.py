"""Where independent units of work run, with results that do not depend on it."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

from metazoo.choices import EXECUTORS, ExecutorName
from metazoo.errors import UsageError
from metazoo.execution.tasks import Result, Unit, Work

# What is left of short units to a single process must take so long before it pays to start others.
_SECONDS_WORTH_PROCESSES = 10.0


def default_workers() -> int:
    """One process a core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Executor(ABC):
    """Processes for independent units of work; they start when a call of `map` needs them, and stay until `close`.

    Args:
        workers: units of one thread that run at once, the `capacity`.

    Raises:
        UsageError: `workers` is below 1.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise UsageError(f"workers must be 1 or more, not {workers}")
        self.capacity = workers
        self._has_said = False

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
        """Yield `(index, function(units[index]))` as results come in; units are handed out in their order.

        Units run in this process where no other one helps, and where `function`, or something that was registered, is
        known to `__main__` alone. Wherever they run, the results are equal.

        Args:
            function: module-level function. Units and results travel by value. If it uses torch, its module imports it
                at the top. In this process `metazoo.execution.signals.check_stop` calls `check` within it.
            units: arguments of its calls.
            name_of: name of a unit in errors.
            threads: torch threads of each call; `capacity // threads` units run at once.
            short: whether the units may be too short to start processes for, which is then found out on the first ones.
            check: function that is called between units and at least twice a second while waiting; what it raises ends
                the processes.

        Raises:
            UsageError: `threads` is below 1, or another call of `map` has not ended.
            MetazooError: as raised by `function`, unchanged.
            RunError: a unit failed in another way or its process was killed, as by a lack of memory; the unit is named.
        """
        if threads < 1:
            raise UsageError(f"threads must be 1 or more, not {threads}")
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
        """End the processes; one at work has a moment to delete the temporary file it may be writing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    @abstractmethod
    def is_warm(self) -> bool:
        """Whether processes are there already."""

    @abstractmethod
    def _spread(self, work: Work[Any, Any], indices: range, check: Callable[[], None]) -> Iterator[tuple[int, Any]]:
        """Yield the index and the result of each of these units, from other processes."""

    def _is_alone(self, work: Work[Any, Any]) -> bool:
        """Whether units run in this process."""
        if not work.needs_this_process:
            return False
        if not self._has_said and self.capacity > 1:
            from metazoo.execution.progress import message  # which imports rich, and a worker needs none of it

            message(
                "note: work runs in this process alone, as no other one can import what is defined or registered in "
                "__main__; put that into a module of its own"
            )
            self._has_said = True
        return True

    def _pays(self, spent: float, done: int, count: int) -> bool:
        """Whether the rest of some short units, of which `done` took `spent` seconds, is worth other processes."""
        return self.is_warm or (done > 0 and spent / done * (count - done) > _SECONDS_WORTH_PROCESSES)


def in_order(results: Iterable[tuple[int, Result]]) -> Iterator[Result]:
    """The results of `Executor.map` in the order of their units; one that comes early waits for those before it."""
    early: dict[int, Result] = {}
    following = 0
    for index, result in results:
        early[index] = result
        while following in early:
            yield early.pop(following)
            following += 1


def executor_for(executor: Executor | ExecutorName, workers: int) -> AbstractContextManager[Executor]:
    """An executor that is given, which stays open, or one of that name with so many workers, which closes at the end.

    Raises:
        UsageError: there is no executor of that name, `workers` is below 1, or the library it needs is missing.
    """
    if isinstance(executor, Executor):
        return nullcontext(executor)
    if executor == "local":
        from metazoo.execution.local_executor import LocalExecutor

        return LocalExecutor(workers)
    if executor == "ray":
        from metazoo.execution.ray_executor import RayExecutor

        return RayExecutor(workers)
    raise UsageError(f"unknown executor {executor!r}; choose one of {', '.join(EXECUTORS)}")
