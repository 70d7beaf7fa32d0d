"""Learning step by step, with checkpoints to go on from."""

import contextlib
import time
from typing import Any, Protocol

from torch import Tensor

from metazoo.execution.compute import in_full_float32
from metazoo.execution.progress import Progress
from metazoo.pipeline.workspace import Workspace

LEARNING = "learning"


class StepLearner(Protocol):
    """What `learn_in_steps` takes forward: something that counts its steps, whose state is tensors by name."""

    @property
    def steps_done(self) -> int:
        """So far."""
        ...

    def step(self) -> Any:
        """Do one step; the fields of the report, `step` among them, go into the run's diary."""

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        ...

    def restore(self, steps_done: int, tensors: dict[str, Tensor], /) -> None:
        """Go on from `state`."""


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
    """Bring `learner` to `steps` steps, from the latest checkpoint of `stage` if there is one.

    Where checkpoints are asked to lie some seconds apart, those that come sooner are left out, but for the last one. A
    run that is asked to stop keeps the step that it is at, and does no other.
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
            is_old = time.monotonic() - saved >= seconds_between_checkpoints
            is_due = (done % steps_between_checkpoints == 0 and is_old) or done == steps
            if is_due or workspace.is_stopping():
                folder.save_checkpoint(stage, done, learner.state())
                saved = time.monotonic()
                workspace.check()
            if bar is not None:
                bar.advance()
