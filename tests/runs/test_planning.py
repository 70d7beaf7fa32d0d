import io
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from error_checks import raises
from rich.console import Console
from training_helpers import OPTIONS, PUBLISHED_OPTIONS, content, untrained

from metazoo.bank import Bank
from metazoo.errors import ArtefactError, UsageError
from metazoo.execution.threads import WorkerThreads
from metazoo.methods import METHODS, Method
from metazoo.pipeline.stage_plan import PlanContext, StagePlan, UnitCost, shared
from metazoo.runs.plan import Plan, StageEstimate, plan_run, plan_table
from metazoo.runs.train import train
from metazoo.zoo import Zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return untrained(tmp_path_factory.mktemp("untrained") / "zoo")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of temporary files."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def left_in(temporary: Path) -> list[str]:
    return [path.name for path in temporary.iterdir() if not path.name.startswith("torchinductor_")]


def planned(zoo: Zoo | Path, section: str = "learning", **values: Any) -> Plan:
    return plan_run(zoo, config={**OPTIONS, section: {**OPTIONS[section], **values}}, workers=1)


def seconds_of(plan: Plan, stage: str) -> float:
    seconds = plan.stages[stage].seconds
    assert seconds is not None
    return seconds


def images_of(plan: Plan) -> int:
    return plan.stages["recovery"].units["image"]


def test_a_plan_bounds_a_real_run_and_leaves_nothing_behind(zoo: Zoo, tmp_path: Path, temporary: Path) -> None:
    before, threads = content(zoo.folder), torch.get_num_threads()
    plan = planned(zoo.folder)
    assert left_in(temporary) == []
    assert content(zoo.folder) == before
    assert torch.get_num_threads() == threads
    assert [*plan.stages] == ["recovery", "trust", "task space", "learning"]
    assert all(seconds_of(plan, stage) > 0 for stage in plan.stages)
    assert plan.total_seconds == sum(seconds_of(plan, stage) for stage in plan.stages)
    assert plan.memory > 0
    run = train(zoo, out=tmp_path / "run", config=OPTIONS, workers=1)
    bank = Bank.open(run.path / "bank")
    assert plan.models == len(bank.teachers) == 3
    assert images_of(plan) == sum(shard.images for teacher in bank.teachers for shard in bank.shards_of(teacher))
    assert sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file()) < plan.disk


@pytest.mark.parametrize(
    ("stage", "section", "option"),
    [("recovery", "recovery", "iterations"), ("task space", "probe", "steps"), ("learning", "learning", "steps")],
)
def test_more_steps_take_more_time(zoo: Zoo, stage: str, section: str, option: str) -> None:
    few, many = (seconds_of(planned(zoo, section, **{option: steps}), stage) for steps in (10, 10_000))
    # A thousand times as many; a machine may be ten times as slow for a moment.
    assert many > 10 * few


def test_workers_share_learning() -> None:
    alone, two, ten = (shared(8.0, 4, WorkerThreads(count)) for count in (1, 2, 10))
    assert alone == 8.0
    assert 4.0 < two < 8.0
    assert 2.0 < ten < two
    assert shared(8.0, 3, WorkerThreads(2)) == pytest.approx(8.0 * (0.15 + 0.85 * 2 / 3))


def test_more_images_take_more_disk(zoo: Zoo) -> None:
    few, many = (planned(zoo, "budget", images_per_class=images) for images in (4, 400))
    assert images_of(many) == 100 * images_of(few)
    assert many.disk - few.disk >= (images_of(many) - images_of(few)) * 3 * 16 * 16


def test_the_published_config_is_planned_too(zoo: Zoo, tmp_path: Path, temporary: Path) -> None:
    def planned_reference(**visits: Any) -> Plan:
        options = {**PUBLISHED_OPTIONS, "visits": {**PUBLISHED_OPTIONS["visits"], **visits}}
        return plan_run(zoo, preset="published", config=options, workers=1)

    plan, long = planned_reference(), planned_reference(images_per_class=200)
    assert left_in(temporary) == []
    assert seconds_of(long, "learning") > 2 * seconds_of(plan, "learning")
    assert planned_reference(images_per_class=200, reinversion=False).total_seconds < long.total_seconds
    run = train(zoo, preset="published", out=tmp_path / "run", config=PUBLISHED_OPTIONS, workers=1)
    assert sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file()) < plan.disk


def test_errors_of_a_plan_are_named_and_leave_no_files(zoo: Zoo, tmp_path: Path, temporary: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        planned(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="holds no model"):
        planned(Zoo.create(tmp_path / "empty"))
    with raises(UsageError, subject="options", problem="learning.steps"):
        planned(zoo, steps=0)
    damaged = untrained(tmp_path / "damaged")
    (damaged.folder / "models" / "model-1.safetensors").write_bytes(b"x")
    with pytest.raises(ArtefactError, match=r"model-1\.safetensors"):
        planned(damaged)
    assert left_in(temporary) == []


def shown(plan: Plan) -> str:
    console = Console(width=100, file=io.StringIO())
    with console.capture() as text:
        console.print(plan_table(plan))
    return text.get()


def test_the_table_of_a_plan() -> None:
    stages = {
        "recovery": StageEstimate({"image": 1200}, 30.0),
        "learning": StageEstimate({"step": 1, "augmented image": 80}, 5400.0),
    }
    text = shown(Plan(stages, memory=2.5e9, disk=7.2e6, models=3))
    for words in ("30 s (1,200 images)", "90 min (1 step, 80 augmented images)", "2.5 GB", "7 MB"):
        assert words in text
    assert "at least" not in text
    text = shown(Plan({**stages, "trust": StageEstimate({"model": 3}, None)}, memory=1.0, disk=1.0, models=3))
    assert "unknown (3 models)" in text
    assert "at least 90 min" in text


def test_models_of_each_domain_are_planned_too(tmp_path: Path) -> None:
    zoo = untrained(tmp_path / "zoo", ("birds", "boats", "birds", "boats"))
    options = {**OPTIONS, "domains": {"specialise": 3.0}}
    plan = plan_run(zoo, config=options, workers=1)
    assert plan.stages["learning"].units == {"step": 7, "augmented image": 20 * 3}
    assert plan.stages["per-domain models"].units == {"step": 2 * 21, "augmented image": 2 * 20 * 7}
    assert seconds_of(plan, "per-domain models") > seconds_of(plan, "learning")
    without = plan_run(zoo, config={**options, "domains": {"by": "nothing"}}, workers=1)
    assert "per-domain models" not in without.stages


def planned_as(monkeypatch: pytest.MonkeyPatch, zoo: Zoo, plans: list[StagePlan], workers: int = 1) -> Plan:
    """Plan of a run by a method that declares `plans`."""
    monkeypatch.setattr(type(METHODS.get("tgr")), "plan", lambda *_: plans)
    return plan_run(zoo, config=OPTIONS, workers=workers)


def test_a_method_that_declares_nothing_says_so(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(METHODS.get("tgr")), "plan", Method.plan)
    plan = plan_run(zoo, config=OPTIONS)
    assert not plan.stages
    assert not plan.is_complete
    assert "unknown: the method declares no stages" in shown(plan)


def test_units_count_and_equal_ones_are_timed_once(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    contexts: list[PlanContext] = []

    def measure(context: PlanContext) -> UnitCost:
        contexts.append(context)
        return UnitCost(seconds=2.0, memory=1e9, disk=1e3)

    plans = [
        StagePlan("questions", "question", 9, measure, parts=4),
        StagePlan("learning", "step", 5, measure, disk=1e6),
        StagePlan("learning", "answer", 3),
        StagePlan("export", "model", 7, measure),
    ]
    for workers, starting in ((1, 0.0), (2, 4.0), (100, 4.0)):
        contexts.clear()
        plan = planned_as(monkeypatch, zoo, plans, workers)
        (context,) = contexts
        assert (context.capacity, context.zoo) == (workers, zoo)
        assert set(context.bank.teachers) == {contract.name for contract in zoo}
        assert seconds_of(plan, "questions") == 9 * 2.0 / min(workers, 4) + starting
        assert plan.stages["learning"] == StageEstimate({"step": 5, "answer": 3}, None)
        assert plan.total_seconds == seconds_of(plan, "questions") + 14.0
        assert plan.disk == 1e6 + 3e3
        assert plan.memory > 1e9 + 450e6 * (min(workers, 4) if workers > 1 else 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"probe": {"architecture": "imagenet-resnet34", "weights": "none.pth"}},
            r"none\.pth: no weights of a ResNet-34",
        ),
        ({"meta_model": {"architecture": "timm:no_such_model"}}, "no_such_model"),
    ],
)
def test_late_errors_are_raised_before_any_work(
    zoo: Zoo, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        plan_run(zoo, config=options)
    with pytest.raises(UsageError, match=message):
        train(zoo, out=tmp_path / "run", config=options)
    assert not (tmp_path / "run").exists()
