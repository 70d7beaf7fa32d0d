"""Steps, checkpoints and stops of a learner that only counts its steps."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from metazoo.errors import Interrupted
from metazoo.models import ClassifierSpec, build_classifier
from metazoo.pipeline.stepping import learn_in_steps
from metazoo.pipeline.workspace import LearningStep, OnStep, Workspace
from metazoo.storage.metrics import MetricsLog
from metazoo.storage.run_folder import RunFolder
from metazoo.zoo import Zoo


@dataclass
class Report:
    step: int


class Counter:
    classifier = build_classifier(
        ClassifierSpec(
            architecture="conv4", arguments={"width": 4}, classes=2, input_size=16, mean=(0.5,) * 3, std=(0.5,) * 3
        )
    )

    def __init__(self) -> None:
        self.steps_done, self.done = 0, []

    def step(self) -> Report:
        self.steps_done += 1
        self.done.append(self.steps_done)
        return Report(self.steps_done)

    def state(self) -> dict[str, Tensor]:
        return {"steps": torch.tensor(self.steps_done)}

    def restore(self, steps_done: int, tensors: dict[str, Tensor]) -> None:
        assert int(tensors["steps"]) == steps_done
        self.steps_done = steps_done


def learn(
    folder: Path, *, stop_after: int | None = None, seconds: float = 0.0, on_step: OnStep | None = None
) -> Counter:
    learner = Counter()

    def check() -> None:
        if learner.steps_done == stop_after:
            raise Interrupted("stopped")

    run = RunFolder(folder)
    workspace = Workspace(Zoo(folder, []), run, MetricsLog(folder / "m.jsonl"), 0, check, False, on_step=on_step)
    try:
        learn_in_steps(
            workspace, learner, 10, steps_between_checkpoints=4, steps_between_metrics=2,
            seconds_between_checkpoints=seconds,
        )  # fmt: skip
    except Interrupted:
        assert stop_after is not None
    return learner


@pytest.mark.parametrize("seconds", [0.0, 1e6])
@pytest.mark.parametrize("stop_after", [1, 3, 4, 9, 10])
def test_a_stop_keeps_the_current_step(tmp_path: Path, stop_after: int, seconds: float) -> None:
    assert learn(tmp_path, stop_after=stop_after, seconds=seconds).done == list(range(1, stop_after + 1))
    again = learn(tmp_path)
    assert again.done == list(range(stop_after + 1, 11))
    assert [row["step"] for row in MetricsLog(tmp_path / "m.jsonl").rows()] == [2, 4, 6, 8, 10]


@pytest.mark.parametrize(("seconds", "kept"), [(0.0, 8), (1e6, None)])
def test_checkpoints_are_written_after_enough_steps_and_time(
    tmp_path: Path, seconds: float, kept: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Counter, "step", _failing_at_nine)
    with pytest.raises(OSError, match="lost"):
        learn(tmp_path, seconds=seconds)
    checkpoint = RunFolder(tmp_path).latest_checkpoint("learning")
    assert (None if checkpoint is None else checkpoint[0]) == kept


def _failing_at_nine(self: Counter) -> Report:
    if self.steps_done == 8:
        raise OSError("lost")
    self.steps_done += 1
    return Report(self.steps_done)


def test_every_step_is_shown_once_it_is_done_and_before_it_is_stored(tmp_path: Path) -> None:
    seen: list[LearningStep] = []

    def fail(step: LearningStep) -> None:
        seen.append(step)
        if step.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path, on_step=fail)
    assert RunFolder(tmp_path).latest_checkpoint("learning") is None
    again: list[LearningStep] = []
    learn(tmp_path, on_step=again.append)
    assert [step.step for step in seen] == [1, 2, 3, 4]
    assert [(step.step, step.steps, step.stage) for step in again] == [(n, 10, "learning") for n in range(1, 11)]
    assert all(step.classifier is Counter.classifier for step in again)
