"""The method `zoo-distillation`: all of `tgr` except task space, groups and regularisation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from error_checks import raises
from training_helpers import OPTIONS, build, content, untrained

from metazoo.errors import RunError
from metazoo.features.embedders import MultiDomainClassifier
from metazoo.learn.group_learning import GroupLearner
from metazoo.methods import METHODS
from metazoo.pipeline import learning_stage
from metazoo.pipeline.layout import BANK, DISTANCE, EMBEDDINGS, GROUPING, TRUST
from metazoo.report import write_report
from metazoo.runs.plan import plan_run
from metazoo.runs.record import Run
from metazoo.runs.train import train
from metazoo.storage.run_folder import RunFolder
from metazoo.zoo import Zoo

SHARED: dict[str, Any] = {key: value for key, value in OPTIONS.items() if key not in ("probe", "grouping")}
# Like `domains` in tests/test_training_domains.py: the domains of such small models are never merged.
DOMAINS = {"specialise": 0.4, "alike": 9.0}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return build(tmp_path_factory.mktemp("distillation") / "zoo", grey=2)


def distilled(zoo: Zoo, out: Path, **changes: Any) -> Run:
    return train(zoo, "zoo-distillation", out=out, config={**SHARED, **changes}, workers=1, resume=True)


@pytest.fixture(scope="module")
def run(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return distilled(zoo, tmp_path_factory.mktemp("run") / "run", domains=DOMAINS)


def weights_of(run: Run) -> list[torch.Tensor]:
    return [value for network in run.meta_model.networks for value in network.state_dict().values()]


def test_it_is_tgr_with_one_group_and_the_mean_gradient(zoo: Zoo, run: Run, tmp_path: Path) -> None:
    config = {
        **OPTIONS,
        "domains": DOMAINS,
        "grouping.strategy": "single",
        "learning.regularisation.kind": "mean",
        "grouping": {},
    }
    tgr = train(zoo, "tgr", out=tmp_path, config=config, workers=1)
    assert all(torch.equal(one, other) for one, other in zip(weights_of(run), weights_of(tgr), strict=True))
    assert isinstance(run.meta_model.module, MultiDomainClassifier)
    folder = RunFolder(run.path)
    assert folder.has(TRUST)
    assert not any(folder.has(name) for name in (EMBEDDINGS, DISTANCE, GROUPING))


def test_presets_differ_from_tgr_only_in_groups_and_regularisation() -> None:
    own, tgr = METHODS.get("zoo-distillation").presets, METHODS.get("tgr").presets
    assert own.keys() == tgr.keys() - {"published"}
    for name, preset in own.items():
        shared = tgr[name].model_dump(exclude={"probe", "grouping"})
        for option in ("regularisation", "update", "teachers_per_update", "reptile"):
            del shared["learning"][option]
        assert preset.model_dump() == shared


@pytest.mark.parametrize("mode", ["keep", "weigh", "drop"])
def test_a_run_that_was_stopped_ends_bit_equal(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    real, options = GroupLearner.step, {"trust": {"mode": mode, "threshold": 1.0}, "domains": DOMAINS}
    calls: list[int] = []

    def stopping(learner: GroupLearner) -> object:
        calls.append(learner.steps_done)
        if len(calls) == 9:  # in the first per-domain model, if there is one
            raise KeyboardInterrupt
        return real(learner)

    whole = distilled(zoo, tmp_path / "whole", **options)
    monkeypatch.setattr(learning_stage, "_STEPS_BETWEEN_CHECKPOINTS", 2)
    with monkeypatch.context() as patch:
        patch.setattr(GroupLearner, "step", stopping)
        if mode == "drop":
            calls += [0, 0]
        with pytest.raises(KeyboardInterrupt):
            distilled(zoo, tmp_path / "stopped", **options)
    assert content(distilled(zoo, tmp_path / "stopped", **options).path) == content(whole.path)


def test_it_is_planned_reported_and_adapted(zoo: Zoo, run: Run) -> None:
    plan = plan_run(zoo, "zoo-distillation", config=SHARED, workers=1)
    assert plan.stages.keys() == {"recovery", "trust", "learning", "per-domain models"}
    assert plan.is_complete
    report = write_report(run, zoo=zoo).read_text()
    assert "Distillation of the zoo" in report
    assert "Task space and groups" not in report
    classifier = run.meta_model.adapt(torch.rand(4, 3, 16, 16), torch.tensor([0, 0, 1, 1]))
    assert classifier.predict(torch.rand(5, 3, 16, 16)).labels.shape == (5,)


def test_a_run_reuses_images_of_another_and_ends_as_if_it_had_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = untrained(tmp_path / "zoo")
    zoo.permit([contract.name for contract in zoo], "keep")
    zoo = Zoo.open(zoo.folder)
    first = train(zoo, "tgr", out=tmp_path / "tgr", config=OPTIONS, workers=1)
    alone = distilled(zoo, tmp_path / "alone")
    with monkeypatch.context() as patch:
        patch.setattr("metazoo.recover.pixels.RecoveryConfig.inversions", pytest.fail)
        reused = train(zoo, "zoo-distillation", out=tmp_path / "reused", config=SHARED, workers=1, reuse_images=first)
    assert content(reused.path) == content(alone.path)
    assert content(reused.path / BANK) == content(first.path / BANK)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"seed": 1}, "seed"),
        ({"recovery": {"iterations": 3}}, "recovery"),
        ({"budget": {"images_per_class": 5}}, "budget"),
    ],
)
def test_images_recovered_with_other_options_are_refused(
    zoo: Zoo, run: Run, tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    with raises(RunError, subject=str(run.path), problem=problem):
        distilled_from(zoo, tmp_path / "run", run, {**SHARED, **changes})
    with raises(RunError, subject=str(run.path), problem="zoo"):
        distilled_from(untrained(tmp_path / "zoo"), tmp_path / "run", run, SHARED)
    assert not (tmp_path / "run").exists()


def distilled_from(zoo: Zoo, out: Path, other: Run, config: dict[str, Any]) -> Run:
    return train(zoo, "zoo-distillation", out=out, config=config, workers=1, reuse_images=other.path)


def test_images_that_were_deleted_are_recovered_again(tmp_path: Path) -> None:
    zoo = untrained(tmp_path / "zoo")  # the images of its third model are deleted
    first = distilled(zoo, tmp_path / "first")
    assert content(distilled_from(zoo, tmp_path / "again", first, SHARED).path) == content(first.path)
