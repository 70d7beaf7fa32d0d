"""What a method works with, whichever it is."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from metazoo.errors import Interrupted
from metazoo.execution.compute import CPU, Compute
from metazoo.execution.executor import Executor
from metazoo.execution.local_executor import THIS_PROCESS
from metazoo.execution.progress import Progress
from metazoo.execution.threads import CALLING_THREAD, WorkerThreads, threads_for
from metazoo.storage.metrics import MetricsLog
from metazoo.storage.run_folder import RunFolder
from metazoo.zoo import ModelContract, Zoo


@dataclass(frozen=True)
class Workspace:
    """One run at work, held by this process alone.

    Attributes:
        zoo: the teachers.
        folder: where artefacts go; what stands in its manifest is not made again.
        metrics: the run's diary.
        seed: of the run.
        check: to be called where the state on disk is whole; raises `Interrupted` once a stop was asked for.
        progress: whether to say on standard error how far the run is.
        compute: where teachers and meta-model are, and how exactly teachers answer.
        images: whether recovered images of models whose contract allows it may be shown.
        executor: where independent units of work run.
        learning_threads: torch threads of this process that learning may use, all worker threads together.
    """

    zoo: Zoo
    folder: RunFolder
    metrics: MetricsLog
    seed: int
    check: Callable[[], None]
    progress: bool
    compute: Compute = CPU
    images: bool = True
    executor: Executor = THIS_PROCESS
    learning_threads: int = 1

    def worker_threads(self) -> WorkerThreads:
        """For calls of small networks: `threads_for` all of them; on a GPU none but the calling thread."""
        return threads_for(self.learning_threads) if self.compute.device == "cpu" else CALLING_THREAD

    def is_stopping(self) -> bool:
        """Whether `check` would raise now."""
        try:
            self.check()
        except Interrupted:
            return True
        return False

    @contextlib.contextmanager
    def progress_of(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        """What to call after each of `total` units of a stage: `check`, and the stage's progress where it is shown."""
        bar = Progress(label, total) if self.progress else None

        def advance() -> None:
            self.check()
            if bar is not None:
                bar.advance()

        with bar or contextlib.nullcontext():
            yield advance

    @property
    def shown(self) -> list[ModelContract]:
        """The models whose recovered images may be shown."""
        return [contract for contract in self.zoo if self.images and contract.recovered_images == "show"]
