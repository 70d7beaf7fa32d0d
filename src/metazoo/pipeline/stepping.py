"""Learning in steps, with checkpoints to resume from."""

import contextlib
import time
from typing import Any, Protocol

from torch import Tensor

from metazoo.execution.compute import in_full_float32
from metazoo.execution.progress import Progress
from metazoo.models import ImageClassifier
from metazoo.pipeline.workspace import LearningStep, Workspace

LEARNING = "learning"


class StepLearner(Protocol):
    """Learner that counts its steps and whose state is tensors by name."""

    @property
    def steps_done(self) -> int:
        """Number of steps done."""
        ...

    @property
    def classifier(self) -> ImageClassifier:
        """Meta-model as it is now."""
        ...

    def step(self) -> Any:
        """Do one step; the fields of the report, which include `step`, are written to the metrics of the run."""

    def state(self) -> dict[str, Tensor]:
        """Tensors by name, for a checkpoint."""
        ...

    def restore(self, steps_done: int, tensors: dict[str, Tensor], /) -> None:
        """Resume from `state` after `steps_done` steps."""


def learn_in_steps(
    workspace: Workspace,
    learner: StepLearner,
    steps: int,
    *,
    stage: str = LEARNING,
    steps_between_checkpoints: int,
    steps_between_metrics: int,
    seconds_between_checkpoints: float = 0.0,
) -> None:
    """Train `learner` for `steps` steps, from the latest checkpoint of `stage` if there is one.

    A checkpoint less than `seconds_between_checkpoints` after the one before is skipped, except the last one. A run
    that is stopped finishes its current step and writes a checkpoint. `Workspace.on_step` is called before a checkpoint
    is written, so that it misses no step of a killed run; it may see a step twice. If a stop arrives while it runs, the
    steps since the latest checkpoint are repeated.
    """
    folder, metrics = workspace.folder, workspace.metrics
    checkpoint = folder.latest_checkpoint(stage)
    if checkpoint is not None:
        learner.restore(*checkpoint)
    metrics.truncate_after(stage, learner.steps_done)
    bar = Progress(stage, steps, learner.steps_done) if workspace.progress else None
    saved = time.monotonic()
    with in_full_float32(), bar or contextlib.nullcontext():
        while learner.steps_done < steps:
            report = learner.step()
            done = report.step
            if done % steps_between_metrics == 0 or done == steps:
                metrics.append(stage=stage, **vars(report))
            if workspace.on_step is not None:
                workspace.on_step(LearningStep(stage, done, steps, learner.classifier))
            is_old = time.monotonic() - saved >= seconds_between_checkpoints
            is_due = (done % steps_between_checkpoints == 0 and is_old) or done == steps
            if is_due or workspace.is_stopping():
                folder.save_checkpoint(stage, done, learner.state())
                saved = time.monotonic()
                workspace.check()
            if bar is not None:
                bar.advance()
