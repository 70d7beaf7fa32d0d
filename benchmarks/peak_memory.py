"""The memory of a process and its children, as the system counts it.

    python -m benchmarks.peak_memory SUITE CASE WAY [QUICK]

does one way of one case of a suite once (all named by their places), so that somebody else can watch it.
"""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import psutil


class PeakMemory:
    """Peak of the sum of the proportional set sizes (PSS) of a process and its children, in bytes; sampled.

    Pages that processes share, such as those of torch's libraries, count for each of them in part.
    """

    def __init__(self, seconds_between: float = 0.5, process: int | None = None) -> None:
        self.peak = 0
        self._pause, self._end, self._process = seconds_between, threading.Event(), psutil.Process(process)
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _k: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(self._pause):
            total = 0
            with contextlib.suppress(psutil.Error):
                for process in (self._process, *self._process.children(recursive=True)):
                    with contextlib.suppress(psutil.Error):
                        total += process.memory_full_info().pss
            self.peak = max(self.peak, total)


def peak_of_command(command: Sequence[str], seconds_between: float = 0.02) -> int:
    """The peak of a program from its start to its end.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    with process, PeakMemory(seconds_between, process.pid) as memory:
        status = process.wait()
    if status:
        raise subprocess.CalledProcessError(status, list(command))
    return memory.peak


def peak_of_way(suite: str, case: int, way: int, *, quick: bool) -> int:
    """The peak of one way of one case, with all that it needs to get ready, in a process of its own."""
    quickly = ["quick"] if quick else []
    return peak_of_command([sys.executable, "-m", "benchmarks.peak_memory", suite, str(case), str(way), *quickly])


def main(suite: str, case: str, way: str, *quick: str) -> None:
    """What that process does."""
    import torch

    from benchmarks.measure import Settings
    from benchmarks.suites import SUITES
    from metazoo.execution.process_memory import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()
    ways = SUITES[suite].cases(Settings(quick=bool(quick)))[int(case)].prepare()
    list(ways.values())[int(way)]()


if __name__ == "__main__":
    main(*sys.argv[1:])
