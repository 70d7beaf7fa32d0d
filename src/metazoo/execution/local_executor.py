"""Executor with processes on this machine."""

import os
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, final

from metazoo.errors import UsageError
from metazoo.execution.executor import Executor
from metazoo.execution.tasks import Work
from metazoo.execution.worker import Worker, end_workers

_SECONDS_BETWEEN_CHECKS = 0.5
# Longer than the gaps between early stages; during learning, the memory of idle processes is needed elsewhere.
_SECONDS_IDLE = 30.0


@final
class LocalExecutor(Executor):
    """Worker processes on this machine; with one worker, or for one unit, units run in this process.

    Workers are fresh processes with the defaults of torch. They end when the executor is closed, when `map` fails or is
    left early, after half a minute without work, and with this process, however it ends.
    """

    def __init__(self, workers: int) -> None:
        super().__init__(workers if os.name == "posix" else min(workers, 1))
        self._pool: list[Worker] = []
        self._lock, self._is_busy = threading.Lock(), False
        self._idle: threading.Timer | None = None

    def close(self) -> None:  # noqa: D102
        with self._lock:
            self._end()

    @property
    def is_warm(self) -> bool:  # noqa: D102
        return bool(self._pool)

    def _is_alone(self, work: Work[Any, Any]) -> bool:
        return min(self.capacity // work.threads, len(work.units)) <= 1 or super()._is_alone(work)

    def _spread(self, work: Work[Any, Any], indices: range, check: Callable[[], None]) -> Iterator[tuple[int, Any]]:
        self._begin()
        try:
            yield from self._results(work, indices, check)
        except BaseException:  # also of a caller that leaves early
            self.close()
            raise
        finally:
            self._rest()

    def _results(self, work: Work[Any, Any], indices: range, check: Callable[[], None]) -> Iterator[tuple[int, Any]]:
        following, left = iter(indices), len(indices)
        count = min(self.capacity // work.threads, left)
        while len(self._pool) < count:
            self._pool.append(Worker())
        active = {worker.connection: worker for worker in self._pool[:count]}
        for worker in active.values():
            if worker.up:
                _hand(worker, work, next(following, None))
        while left:
            for connection in wait(list(active), timeout=_SECONDS_BETWEEN_CHECKS):
                assert isinstance(connection, Connection)
                worker, finished = active[connection], active[connection].unit
                try:
                    answer = connection.recv_bytes()
                except (EOFError, OSError):
                    worker.explain_death(None if finished is None else work.name(finished), check)
                worker.up = True
                _hand(worker, work, next(following, None))
                if worker.unit is None:
                    del active[connection]
                if finished is not None:
                    left -= 1
                    yield finished, work.unpacked(finished, answer)
            check()

    def _begin(self) -> None:
        with self._lock:
            if self._is_busy:
                raise UsageError("executor", "another call of map has not ended", "close its results first")
            self._is_busy = True
            if self._idle is not None:
                self._idle.cancel()
            dead = [worker for worker in self._pool if worker.process.poll() is not None]
            self._pool = [worker for worker in self._pool if worker not in dead]
            end_workers(dead)

    def _rest(self) -> None:
        with self._lock:
            self._is_busy = False
            if self._pool:
                self._idle = threading.Timer(_SECONDS_IDLE, self._retire)
                self._idle.daemon = True
                self._idle.start()

    def _retire(self) -> None:
        with self._lock:
            if not self._is_busy:
                self._end()

    def _end(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        pool, self._pool = self._pool, []
        end_workers(pool)


def _hand(worker: Worker, work: Work[Any, Any], index: int | None) -> None:
    worker.unit = index
    if index is not None:
        worker.send(work.packed(index))


THIS_PROCESS = LocalExecutor(1)
"""Executor without other processes."""
