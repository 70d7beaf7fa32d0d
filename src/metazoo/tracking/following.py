"""Trackers beside a run that is at work."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from metazoo.execution.progress import message
from metazoo.tracking.registry import connection_to, failure
from metazoo.tracking.tracker import TrackedRun, new_points, points_of

_SECONDS_BETWEEN_READS = 1.0
_SECONDS_TO_END = 30.0


@contextlib.contextmanager
def followed(log: Path, describe: Callable[[], TrackedRun], trackers: Sequence[str]) -> Iterator[None]:
    """Let trackers follow the log of a run within the block, each in a thread of its own.

    A tracker that fails, or does not end within half a minute after the block, gives one warning and nothing else.

    Args:
        log: `metrics.jsonl` of the run; it may be missing.
        describe: function that returns the facts on the run.
        trackers: trackers, `NAME` or `NAME:TARGET`.
    """
    if not trackers:
        yield
        return
    try:
        run = describe()
    except Exception as error:
        for given in trackers:
            _warn(given, error)
        yield
        return
    followers = [_Follower(log, run, given) for given in trackers]
    for follower in followers:
        follower.start()
    finished = False
    try:
        yield
        finished = True
    finally:
        for follower in followers:
            follower.end(finished)
        deadline = time.monotonic() + _SECONDS_TO_END
        for follower in followers:
            follower.join(max(0.0, deadline - time.monotonic()))
            follower.abandon()


def _warn(given: str, error: Exception) -> None:
    message(f"warning: {failure(given, error)}; the run itself is not affected")


class _Follower(threading.Thread):
    """Thread that sends new rows of a log to one tracker."""

    def __init__(self, log: Path, run: TrackedRun, given: str) -> None:
        super().__init__(name=f"tracker {given}", daemon=True)
        self._log, self._run, self._given = log, run, given
        self._ended, self._finished, self._is_quiet = threading.Event(), False, False

    def end(self, finished: bool) -> None:
        """Let the thread send what is left, and end."""
        self._finished = finished
        self._ended.set()

    def abandon(self) -> None:
        """Warn if the thread is still at work, and silence it."""
        if self.is_alive() and not self._is_quiet:
            self._is_quiet = True
            _warn(self._given, TimeoutError("no answer"))

    def run(self) -> None:
        """Follow the log until the end of the run."""
        try:
            self._follow()
        except Exception as error:
            if not self._is_quiet:
                self._is_quiet = True
                _warn(self._given, error)

    def _follow(self) -> None:
        with connection_to(self._given, self._run) as connection:
            reader, held = _LogReader(self._log), set(connection.held())
            is_last = False
            while not is_last:
                is_last = self._ended.wait(_SECONDS_BETWEEN_READS)
                connection.log(new_points(points_of(reader.rows(again=is_last)), held))
            connection.close(finished=self._finished)


class _LogReader:
    """Reader of complete rows that have been added since the last call.

    A resumed run first replaces the file by a shorter one, which is read from its start.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._position, self._file = path, 0, 0

    def rows(self, *, again: bool = False) -> list[dict[str, Any]]:
        """New rows, or all rows `again`; a damaged line, which the run itself refuses, is left out."""
        try:
            with self._path.open("rb") as file:
                number = self._path.stat().st_ino
                if again or number != self._file:
                    self._file, self._position = number, 0
                file.seek(self._position)
                content = file.read()
        except FileNotFoundError:
            return []
        end = content.rfind(b"\n") + 1
        self._position += end
        rows = []
        for line in content[:end].splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(line)
                rows += [row] if isinstance(row, dict) else []
        return rows
