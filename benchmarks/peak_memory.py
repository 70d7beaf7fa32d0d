"""The memory of this process and its children, as the system counts it."""

import contextlib
import threading
from types import TracebackType
from typing import Self

import psutil


class PeakMemory:
    """Peak of the sum of the proportional set sizes (PSS) of the process and its children, in bytes; sampled."""

    def __init__(self, seconds_between: float = 0.5) -> None:
        self.peak = 0
        self._pause, self._end = seconds_between, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _k: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._end.wait(self._pause):
            total = 0
            for process in (me, *me.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    total += process.memory_full_info().pss
            self.peak = max(self.peak, total)
