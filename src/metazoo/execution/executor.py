"""Independent units of work over local processes, with results that do not depend on how many there are."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from typing import Any, NoReturn

from metazoo.errors import RunError, UsageError
from metazoo.execution.signals import held_back
from metazoo.execution.worker import Result, Unit, call, work

_SECONDS_BETWEEN_CHECKS = 0.5
_SECONDS_TO_END = 2.0


def default_workers() -> int:
    """One process a core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_units(
    function: Callable[[Unit], Result],
    units: Sequence[Unit],
    workers: int,
    *,
    name_of: Callable[[Unit], str] = str,
    threads: int = 1,
    check: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, Result]]:
    """Yield `(index, function(units[index]))` as results come in; units are handed out in their order.

    Workers are fresh ("spawn") processes with torch's default settings that ignore SIGINT. The parent ends them, also
    when the iterator is left early; they end by themselves when it is killed.

    Args:
        function: a module-level function; with more than one worker, units and results travel by value. If it uses
            torch, its module imports it at the top.
        workers: processes; 1 (or a single unit) runs in this process.
        name_of: how a unit is called in errors.
        threads: torch threads during each call, inline too, so that results are equal for any number of workers.
        check: called between units and at least twice a second while waiting; what it raises ends the workers.

    Raises:
        UsageError: `workers` or `threads` is below 1.
        MetazooError: as raised by `function`, unchanged.
        RunError: a unit failed in another way or its worker was killed, as by a lack of memory; the unit is named.
    """
    if min(workers, threads) < 1:
        raise UsageError(f"workers and threads must be 1 or more, not {workers} and {threads}")
    if workers == 1 or len(units) <= 1:
        from metazoo.execution.threads import torch_threads  # and torch, which takes seconds

        for index, unit in enumerate(units):
            check()
            with torch_threads(threads):
                result = call(function, unit, name_of(unit))
            yield index, result
        return
    check()
    pool: dict[Connection, Worker] = {}
    try:
        for _ in range(min(workers, len(units))):
            worker = Worker(multiprocessing.get_context("spawn"), threads)
            pool[worker.connection] = worker
        yield from _results(pool, function, units, name_of, check)
    finally:
        end_workers([*pool.values()])


class Worker:
    """A process, the pipe to it, whether it has come up, and the index of the unit it works on."""

    def __init__(self, context: SpawnContext, threads: int) -> None:
        self.up = False
        self.unit: int | None = None
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, threads), daemon=True)
        try:
            resource_tracker.ensure_running()  # starting it later would let the signals through
            with held_back():
                self.process.start()
        except OSError as error:
            raise RunError(f"cannot start a worker process: {error.strerror}; use fewer workers") from error
        finally:
            theirs.close()


def _results(
    pool: dict[Connection, Worker],
    function: Callable[[Unit], Result],
    units: Sequence[Unit],
    name_of: Callable[[Unit], str],
    check: Callable[[], None],
) -> Iterator[tuple[int, Result]]:
    following, left, open_connections = 0, len(units), list(pool)
    while left:
        for connection in wait(open_connections, timeout=_SECONDS_BETWEEN_CHECKS):
            assert isinstance(connection, Connection)
            worker, finished = pool[connection], pool[connection].unit
            name = None if finished is None else name_of(units[finished])
            try:
                answer = connection.recv_bytes()
                worker.up, worker.unit = True, None
                if following < len(units):
                    task = packed_task(function, units[following], name_of(units[following]))
                    worker.unit, following = following, following + 1
                    with contextlib.suppress(OSError):  # a worker that has died is met at its next turn
                        connection.send_bytes(task)
                else:
                    connection.close()
                    open_connections.remove(connection)
            except (EOFError, OSError):
                explain_death(worker, name, check)
            if finished is not None:
                left -= 1
                yield finished, opened(answer, str(name))
        check()


def packed_task(function: Callable[..., Any], unit: Any, name: str) -> bytes:
    """What a worker is sent."""
    try:
        # Plain pickling, not multiprocessing's: that would pass tensors through shared memory, which a container may
        # lack and which a worker must outlive. It connects two ends of this program; nothing of it reaches a file.
        return pickle.dumps((function, unit, name))
    except Exception as error:
        raise RunError(f"{name} cannot be sent to a worker process ({error}); give a module-level function") from error


def opened(answer: bytes, name: str) -> Any:
    """What a worker has sent; an error is raised."""
    try:
        succeeded, value = pickle.loads(answer)  # noqa: S301 - sent by a process that this one has started
    except Exception as error:
        raise RunError(f"the result of {name} cannot be received: {type(error).__name__}: {error}") from error
    if not succeeded:
        raise value
    return value


def explain_death(worker: Worker, name: str | None, check: Callable[[], None]) -> NoReturn:
    """Raise the RunError that says how a worker ended."""
    worker.process.join(_SECONDS_TO_END)
    # A signal to the whole group may reach a worker a moment before this process.
    for _ in range(10):
        check()
        time.sleep(0.05)
    code, subject = worker.process.exitcode or 0, f"the process of {name or 'no unit yet'}"
    if code == -9:
        raise RunError(f"{subject} was killed, probably for want of memory; use fewer workers")
    if name is None and code > 0:
        remedy = 'a script that uses workers must keep its calls under `if __name__ == "__main__":`'
        raise RunError(f"a worker process could not start; {remedy}")
    ending = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    raise RunError(f"{subject} ended unexpectedly {ending}; call again, with one worker to see more")


def end_workers(workers: list[Worker]) -> None:
    """End every worker; one at work has a moment to delete the temporary file it may be writing."""
    try:
        for worker in workers:
            worker.connection.close()
            if worker.unit is not None:
                worker.process.terminate()
            elif not worker.up:
                worker.process.kill()
        deadline = time.monotonic() + _SECONDS_TO_END
        for worker in workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.join()
