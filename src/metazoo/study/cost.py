"""Cost of the work on a cell: time, and memory of its processes."""

import contextlib
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import torch

from metazoo.errors import ArtefactError
from metazoo.execution.process_memory import give_back_memory
from metazoo.pipeline.layout import HEALTH
from metazoo.storage.artefacts import read_json, write_json

RUN = "run"
"""Name of the run in the folder of a cell."""
_COST = "cost.json"
_SECONDS_BETWEEN_SAMPLES, _SAMPLES_BETWEEN_WRITES = 0.5, 10


@dataclass(frozen=True)
class Cost:
    """Cost of a cell, over all its attempts.

    Attributes:
        seconds: wall time of training and evaluation.
        memory: peak of the resident memory of its processes in bytes.
        recovery_seconds: wall time until the images were recovered; None if the run recovers none before it learns.
        recovery_memory: peak of the memory until then.
        workers: processes and threads of the last attempt.
        core_seconds: wall time of each attempt times its workers.
        recovery_core_seconds: such time until the images were recovered.
        reused: whether the images are those of another cell, so that the cost of their recovery is not part of this.
        training_core_seconds: such time until the meta-model was trained, without that of its curve; None if it is not
            trained, or in an older cell.
    """

    seconds: float = 0.0
    memory: int = 0
    recovery_seconds: float | None = None
    recovery_memory: int = 0
    workers: int = 1
    core_seconds: float = 0.0
    recovery_core_seconds: float = 0.0
    reused: bool = False
    training_core_seconds: float | None = None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the cost from a cell folder; zero if there is none."""
        path = folder / _COST
        if not path.is_file():
            return cls()
        try:
            return cls(**read_json(path))
        except TypeError as error:
            raise ArtefactError(path, "is not the cost of a cell", "delete the folder of the cell") from error

    def write(self, folder: Path) -> None:
        """Write the cost to a cell folder."""
        write_json(folder / _COST, vars(self))

    def with_recovery_of(self, provider: "Cost") -> "Cost":
        """Cost including the recovery of images that another cell has provided."""
        return replace(
            self,
            seconds=self.seconds + (provider.recovery_seconds or 0.0),
            memory=max(self.memory, provider.recovery_memory),
            recovery_seconds=provider.recovery_seconds,
            recovery_memory=provider.recovery_memory,
            core_seconds=self.core_seconds + provider.recovery_core_seconds,
            recovery_core_seconds=provider.recovery_core_seconds,
            training_core_seconds=None
            if self.training_core_seconds is None
            else self.training_core_seconds + provider.recovery_core_seconds,
        )


@dataclass
class Meter:
    """Measurement of the cost of this process, stored every few seconds, so that a killed process counts as well."""

    folder: Path
    workers: int = 1
    reuses: bool = False
    recovers: bool = True
    cost: Cost = field(init=False)

    def __enter__(self) -> Self:
        give_back_memory(torch.device("cpu"))  # of cells that this process has done before
        before = Cost.read(self.folder)
        reused = before.reused if (self.folder / RUN / HEALTH).exists() else self.reuses
        self._before, self._start = replace(before, workers=self.workers, reused=reused), time.monotonic()
        self.cost, self._end, self._watching = self._before, threading.Event(), None
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, _k: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()
        self._sample()
        self.cost.write(self.folder)

    def trained(self, watching: float = 0.0) -> None:
        """Note that the meta-model is trained; what follows is its evaluation.

        Args:
            watching: wall time of measurements while it learned, in seconds.
        """
        self._watching = watching * self.workers
        self._sample()

    def _watch(self) -> None:
        samples = 0
        while not self._end.wait(_SECONDS_BETWEEN_SAMPLES):
            self._sample()
            samples += 1
            if samples % _SAMPLES_BETWEEN_WRITES == 0:
                self.cost.write(self.folder)

    def _sample(self) -> None:
        passed = time.monotonic() - self._start
        cost = replace(
            self.cost,
            seconds=self._before.seconds + passed,
            core_seconds=self._before.core_seconds + passed * self.workers,
            memory=max(self.cost.memory, _memory()),
        )
        if self.recovers and cost.recovery_seconds is None and (self.folder / RUN / HEALTH).exists():
            cost = replace(
                cost,
                recovery_seconds=cost.seconds,
                recovery_memory=cost.memory,
                recovery_core_seconds=cost.core_seconds,
            )
        if cost.training_core_seconds is None and self._watching is not None:
            cost = replace(cost, training_core_seconds=cost.core_seconds - self._watching)
        self.cost = cost


def _memory() -> int:
    """Resident memory of this process and its children in bytes; shared pages count in part where that is known."""
    this, total = psutil.Process(), 0
    for process in (this, *this.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it has just ended
            info = process.memory_full_info()
            total += getattr(info, "pss", info.rss)
    return total
