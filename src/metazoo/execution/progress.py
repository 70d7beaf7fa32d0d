"""Progress of a job: a bar with the remaining time on a terminal, a line in a notebook, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from metazoo.notebook import updating_line

_LEAST_SECONDS_BETWEEN_LINES = 5.0
_MOST_SECONDS_BETWEEN_LINES = 60.0
_SHARE_BETWEEN_LINES = 0.1
_SECONDS_BETWEEN_UPDATES = 0.5


def message(text: str) -> None:
    """Print one line to standard error, above a visible bar."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """Context manager that shows the progress of one stage on standard error.

    In a notebook, it is one line of the cell, which changes. Elsewhere without a terminal, there is one line for every
    tenth of the work, or every minute if a tenth takes longer, at least 5 seconds apart.

    Args:
        label: short name of the stage.
        total: number of units of work of the stage.
        done: number of units that an earlier call has finished; they do not count for the remaining time.
    """

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self._label, self._total, self._done = label, total, done
        self._done_at_start = self._done_at_last_line = done
        self._start = self._last_line = time.monotonic()
        self._bar: RichProgress | None = None
        self._show: Callable[[str], None] | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        self._start = self._last_line = time.monotonic()
        if sys.stderr.isatty() and os.environ.get("TERM", "") != "dumb":
            self._bar = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(self._label, total=self._total, completed=self._done, note="")
            self._bar.start()
        else:
            self._show = updating_line()
        return self

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count `n` more finished units; `note` is a short remark on the last one."""
        self._done += n
        if self._bar is not None:
            self._bar.update(self._task, advance=n, note=note)
            return
        now = time.monotonic()
        if self._show is not None:
            if now - self._last_line >= _SECONDS_BETWEEN_UPDATES and self._done < self._total:
                self._last_line = now
                self._show(self._line(now, note))
            return
        waited, gained = now - self._last_line, self._done - self._done_at_last_line
        due = gained >= _SHARE_BETWEEN_LINES * self._total or waited >= _MOST_SECONDS_BETWEEN_LINES
        if waited >= _LEAST_SECONDS_BETWEEN_LINES and due and self._done < self._total:
            self._last_line, self._done_at_last_line = now, self._done
            message(self._line(now, note))

    def _line(self, now: float, note: str) -> str:
        left = (now - self._start) / max(1, self._done - self._done_at_start) * (self._total - self._done)
        tail = f"; {note}" if note else ""
        return f"{self._label}: {self._done}/{self._total}, about {duration(left)} left{tail}"

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            return
        if kind is not None and self._done == self._done_at_start:  # the error is enough
            return
        ending = "done in" if kind is None or self._done >= self._total else "ended early after"
        show = self._show or message
        show(f"{self._label}: {self._done}/{self._total}, {ending} {duration(time.monotonic() - self._start)}")


def duration(seconds: float) -> str:
    """Readable length of time, such as `90 s`, `25 min` or `3.2 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
