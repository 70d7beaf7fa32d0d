"""Doubtful models in a run: kept, weighed or dropped."""

from pathlib import Path
from typing import Any

import pytest
import torch
from training_helpers import OPTIONS, build, content

from metazoo.learn.group_learning import GroupLearner
from metazoo.pipeline import learning_stage
from metazoo.pipeline.audit_stage import kept_models
from metazoo.pipeline.layout import GROUPING, TRUST
from metazoo.report.sections import sections_of
from metazoo.runs.record import Run
from metazoo.runs.train import train
from metazoo.storage.run_folder import RunFolder
from metazoo.zoo import Zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return build(tmp_path_factory.mktemp("trust") / "zoo")


@pytest.fixture(scope="module")
def kept(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return learned(zoo, tmp_path_factory.mktemp("kept") / "run", mode="keep", threshold=1.0)


def learned(zoo: Zoo, out: Path, **trust: Any) -> Run:
    return train(zoo, out=out, config={**OPTIONS, "trust": trust}, workers=1, resume=True)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return run.meta_model.networks[0].network.state_dict()


def same(first: Run, second: Run) -> bool:
    return all(torch.equal(value, weights(second)[name]) for name, value in weights(first).items())


def test_doubtful_models_are_named_and_left_in(zoo: Zoo, kept: Run, tmp_path: Path) -> None:
    record = RunFolder(kept.path).read_json(TRUST)
    scores = {row["model"]: row["score"] for row in record["models"]}
    assert list(scores) == [contract.name for contract in zoo]
    assert max(scores.values()) == 1
    assert set(record["doubtful"]) == {name for name, score in scores.items() if score < 1} != set()
    assert all(name in record["warning"] for name in record["doubtful"])
    assert "trust.mode" in record["warning"]
    assert record["warning"].split(";")[0] in (kept.path / "meta-model" / "README.md").read_text().replace("\\", "")
    (row,) = (row for row in kept.metrics() if row["stage"] == "trust")
    assert (row["doubtful"], row["mode"]) == (len(record["doubtful"]), "keep")
    assert same(kept, learned(zoo, tmp_path, mode="keep", threshold=0.01))


def groups_shown(run: Run, zoo: Zoo) -> int:
    ((table,),) = (content.tables for section, content in sections_of(run, zoo) if section.record == GROUPING)
    return table.row_count


def test_dropping_a_model_is_as_if_the_zoo_did_not_have_it(zoo: Zoo, kept: Run, tmp_path: Path) -> None:
    dropped = learned(zoo, tmp_path / "dropped", mode="drop", threshold=1.0)
    doubtful = RunFolder(kept.path).read_json(TRUST)["doubtful"]
    rest = Zoo(zoo.folder, [contract for contract in zoo if contract.name not in doubtful])
    assert [contract.name for contract in kept_models(RunFolder(dropped.path), zoo)] == [row.name for row in rest]
    assert len(kept_models(RunFolder(kept.path), zoo)) == len(zoo)
    alone = learned(rest, tmp_path / "alone", mode="keep")
    assert same(dropped, alone)
    assert not same(dropped, kept)
    assert (groups_shown(dropped, zoo), groups_shown(kept, zoo)) == (1, 2)


def test_weighing_counts_only_where_somebody_is_doubted(zoo: Zoo, kept: Run, tmp_path: Path) -> None:
    alike = Zoo(zoo.folder, zoo.contracts[:2])  # two models can only agree
    pair = [learned(alike, tmp_path / mode, mode=mode, threshold=1.0) for mode in ("keep", "weigh")]
    assert same(*pair)
    weighed = learned(zoo, tmp_path / "weighed", mode="weigh", threshold=1.0)
    assert not same(kept, weighed)


@pytest.mark.parametrize("mode", ["weigh", "drop"])
def test_a_run_that_was_stopped_ends_bit_equal(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    def stopping(learner: GroupLearner) -> object:
        if learner.steps_done == 4:
            raise KeyboardInterrupt
        return real(learner)

    real = GroupLearner.step
    whole = learned(zoo, tmp_path / "whole", mode=mode, threshold=1.0)
    monkeypatch.setattr(learning_stage, "_STEPS_BETWEEN_CHECKPOINTS", 2)
    with monkeypatch.context() as patch:
        patch.setattr(GroupLearner, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            learned(zoo, tmp_path / "stopped", mode=mode, threshold=1.0)
    stopped = learned(zoo, tmp_path / "stopped", mode=mode, threshold=1.0)
    assert content(stopped.path) == content(whole.path)
