"""Resources of a run, which its method and stages share."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from metazoo.data import UnlabelledImages
from metazoo.errors import Interrupted
from metazoo.execution.compute import CPU, Compute
from metazoo.execution.executor import Executor
from metazoo.execution.local_executor import THIS_PROCESS
from metazoo.execution.progress import Progress
from metazoo.execution.threads import CALLING_THREAD, WorkerThreads, threads_for
from metazoo.models import ImageClassifier
from metazoo.storage.metrics import MetricsLog
from metazoo.storage.run_folder import RunFolder
from metazoo.zoo import ModelContract, Zoo


@dataclass(frozen=True, eq=False)
class LearningStep:
    """Finished step of a stage of learning.

    Attributes:
        stage: name of the stage, such as `learning`.
        step: number of finished steps of the stage, from 1.
        steps: number of all steps of the stage.
        classifier: meta-model as it is after the step, on the device of learning. It is still being trained: copy what
            is kept, and do not change it. Its stored batch-norm statistics are those of the start until learning ends.
    """

    stage: str
    step: int
    steps: int
    classifier: ImageClassifier


OnStep = Callable[[LearningStep], None]


@dataclass(frozen=True)
class Workspace:
    """Resources of a run, whose folder this process has locked.

    Attributes:
        zoo: the teachers.
        folder: run folder; artefacts in its manifest are not made again.
        metrics: metrics log of the run.
        seed: seed of the run.
        check: function to call when the state on disk is complete; raises `Interrupted` after a request to stop.
        progress: whether progress is shown on standard error.
        compute: device of teachers and meta-model, and precision of the teachers.
        images: whether recovered images of models whose contract allows it may be shown.
        executor: executor of independent units of work.
        learning_threads: number of torch threads of this process for learning, over all worker threads.
        unlabelled: unlabelled images of the user; None if there are none, or if the run has its copies.
        on_step: function that is called after every step of learning; None: nothing is called.
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
    unlabelled: UnlabelledImages | None = None
    on_step: OnStep | None = None

    def worker_threads(self) -> WorkerThreads:
        """Threads for calls of small networks; on a GPU only the calling thread."""
        return threads_for(self.learning_threads) if self.compute.device == "cpu" else CALLING_THREAD

    def is_stopping(self) -> bool:
        """Whether `check` raises `Interrupted` now."""
        try:
            self.check()
        except Interrupted:
            return True
        return False

    @contextlib.contextmanager
    def progress_of(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        """Function to call after each of `total` units of a stage; it calls `check` and advances the progress bar."""
        bar = Progress(label, total) if self.progress else None

        def advance() -> None:
            self.check()
            if bar is not None:
                bar.advance()

        with bar or contextlib.nullcontext():
            yield advance

    @property
    def shown(self) -> list[ModelContract]:
        """Models whose recovered images may be shown."""
        return [contract for contract in self.zoo if self.images and contract.recovered_images == "show"]
