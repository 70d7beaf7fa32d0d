"""Runs of `tgr` with selective groups and modulated regularisation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from training_helpers import OPTIONS, PUBLISHED_OPTIONS, content, untrained

import metazoo
from metazoo.errors import UsageError
from metazoo.learn.group_learning import GroupLearner
from metazoo.learn.replay_learning import ReplayLearner
from metazoo.pipeline import learning_stage
from metazoo.pipeline.layout import DISTANCE, EMBEDDINGS, GROUPING
from metazoo.report import write_report
from metazoo.runs.config import resolve_config, with_overrides
from metazoo.runs.option_list import options_text
from metazoo.runs.plan import plan_run
from metazoo.runs.record import Run
from metazoo.storage.run_folder import RunFolder
from metazoo.zoo import Zoo

SELECTIVE = {"groups": 2, "strategy": "selective", "affinity": {"warm_up_steps": 2, "every": 1, "rate": 0.3}}
MODULATED = {"kind": "modulated", "displacement": 1e-2, "strength": 1e-2, "every": 2}
LEARNING = {**OPTIONS["learning"], "update": "in-turn", "regularisation": MODULATED}
CONFIG: dict[str, Any] = {**OPTIONS, "grouping": SELECTIVE, "learning": LEARNING}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return untrained(tmp_path_factory.mktemp("zoo") / "zoo", ("ships", "ships", "birds", "birds"))


def trained(zoo: Zoo, out: Path, config: dict[str, Any] = CONFIG, **more: Any) -> Run:
    return metazoo.train(zoo, "tgr", out=out, config=config, workers=1, resume=out.exists(), **more)


@pytest.fixture(scope="module")
def run(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(zoo, tmp_path_factory.mktemp("run") / "run")


def test_a_run_needs_no_task_space(zoo: Zoo, run: Run, tmp_path: Path) -> None:
    folder = RunFolder(run.path)
    assert not any(folder.has(name) for name in (EMBEDDINGS, DISTANCE, GROUPING))
    plan = plan_run(zoo, "tgr", config=CONFIG, workers=1)
    assert plan.stages.keys() == {"recovery", "trust", "learning", "per-domain models"}
    assert "Task space and groups" not in write_report(run, out=tmp_path / "report.html", zoo=zoo).read_text()
    classifier = run.meta_model.adapt(torch.rand(4, 3, 16, 16), torch.tensor([0, 0, 1, 1]))
    assert classifier.predict(torch.rand(5, 3, 16, 16)).labels.shape == (5,)


def test_a_run_that_was_stopped_ends_bit_equal(
    zoo: Zoo, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = GroupLearner.step, []

    def stopping(learner: GroupLearner) -> object:
        calls.append(learner.steps_done)
        if len(calls) in (4, 12):  # the second time in a per-domain model
            raise KeyboardInterrupt
        return real(learner)

    monkeypatch.setattr(learning_stage, "_STEPS_BETWEEN_CHECKPOINTS", 2)
    with monkeypatch.context() as patch:
        patch.setattr(GroupLearner, "step", stopping)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                trained(zoo, tmp_path / "stopped")
    assert calls == [0, 1, 2, 3, 2, 3, 4, 5, 6, 0, 1, 2]
    assert len(run.meta_model.networks) > 1
    assert content(trained(zoo, tmp_path / "stopped").path) == content(run.path)


def test_the_published_preset_learns_from_selective_groups_too(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning = {**PUBLISHED_OPTIONS["learning"], "update": "in-turn", "regularisation": {**MODULATED, "every": 1}}
    visits = {**PUBLISHED_OPTIONS["visits"], "teachers": 3}
    config = {**PUBLISHED_OPTIONS, "grouping": SELECTIVE, "learning": learning, "visits": visits}
    states: list[dict[str, torch.Tensor]] = []
    real = ReplayLearner.step

    def watched(learner: ReplayLearner) -> object:
        report = real(learner)
        states.append({name: value.clone() for name, value in learner.state().items()})
        return report

    monkeypatch.setattr(ReplayLearner, "step", watched)
    found = trained(zoo, tmp_path / "published", config, preset="published")
    assert not RunFolder(found.path).has(GROUPING)
    assert len(states) == 3
    assert states[-1]["grouping.counts"].sum() > states[0]["grouping.counts"].sum() > 0
    assert states[-1]["regulariser.count"] >= 3


def test_selective_groups_need_updates_in_turn() -> None:
    for preset in ("default", "published"):
        with pytest.raises(UsageError, match=r"grouping\.strategy selective needs learning\.update in-turn, not joint"):
            resolve_config({"preset": preset, "grouping": {"strategy": "selective"}})
        selective = {"grouping": {"strategy": "selective", "shuffle": True}, "learning": {"update": "in-turn"}}
        with pytest.raises(UsageError, match=r"grouping.*strategy selective uses no distances .* set it to false"):
            resolve_config({"preset": preset, **selective})
    overrides = with_overrides(None, ["grouping.strategy=selective", "learning.update=in-turn"])
    assert "strategy: selective  # dispersed | " in options_text(resolve_config(overrides))
    assert "    warm_up_steps: 100  # steps in which" in options_text(resolve_config())
