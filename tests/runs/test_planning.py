import io
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from training_helpers import OPTIONS, REFERENCE, content, untrained

from metazoo.bank import Bank
from metazoo.errors import ArtefactError, UsageError
from metazoo.execution.threads import WorkerThreads
from metazoo.runs.plan import Plan, plan_run, plan_table
from metazoo.runs.step_costs import _shared
from metazoo.runs.train import train
from metazoo.zoo import Zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return untrained(tmp_path_factory.mktemp("untrained") / "zoo")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def left_in(temporary: Path) -> list[str]:
    return [path.name for path in temporary.iterdir() if not path.name.startswith("torchinductor_")]


def planned(zoo: Zoo | Path, section: str = "learning", **values: Any) -> Plan:
    return plan_run(zoo, config={**OPTIONS, section: {**OPTIONS[section], **values}}, workers=1)


def test_a_plan_bounds_a_real_run_and_leaves_nothing_behind(zoo: Zoo, tmp_path: Path, temporary: Path) -> None:
    before, threads = content(zoo.folder), torch.get_num_threads()
    plan = planned(zoo.folder)
    assert left_in(temporary) == []
    assert content(zoo.folder) == before
    assert torch.get_num_threads() == threads
    assert all(seconds > 0 for seconds in plan.seconds.values())
    assert plan.total_seconds == sum(plan.seconds.values())
    assert plan.memory > 0
    run = train(zoo, out=tmp_path / "run", config=OPTIONS, workers=1)
    bank = Bank.open(run.path / "bank")
    assert plan.models == len(bank.teachers) == 3
    assert plan.images == sum(shard.images for teacher in bank.teachers for shard in bank.shards_of(teacher))
    assert sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file()) < plan.disk


@pytest.mark.parametrize(
    ("stage", "section", "option"),
    [("recovery", "recovery", "iterations"), ("task space", "probe", "steps"), ("learning", "learning", "steps")],
)
def test_more_steps_take_more_time(zoo: Zoo, stage: str, section: str, option: str) -> None:
    few, many = (planned(zoo, section, **{option: steps}).seconds for steps in (10, 10_000))
    # A thousand times as many; a machine may be ten times as slow for a moment.
    assert many[stage] > 10 * few[stage]


def test_workers_share_learning() -> None:
    alone, two, ten = (_shared(8.0, 4, WorkerThreads(count)) for count in (1, 2, 10))
    assert alone == 8.0
    assert 4.0 < two < 8.0
    assert 2.0 < ten < two
    assert _shared(8.0, 3, WorkerThreads(2)) == pytest.approx(8.0 * (0.15 + 0.85 * 2 / 3))


def test_more_images_take_more_disk(zoo: Zoo) -> None:
    few, many = (planned(zoo, "budget", images_per_class=images) for images in (4, 400))
    assert many.images == 100 * few.images
    assert many.disk - few.disk >= (many.images - few.images) * 3 * 16 * 16


def test_the_published_config_is_planned_too(zoo: Zoo, tmp_path: Path, temporary: Path) -> None:
    def planned_reference(**visits: Any) -> Plan:
        options = {**REFERENCE, "visits": {**REFERENCE["visits"], **visits}}
        return plan_run(zoo, preset="reference", config=options, workers=1)

    plan, long = planned_reference(), planned_reference(images_per_class=5000)
    assert left_in(temporary) == []
    assert long.seconds["learning"] > 5 * plan.seconds["learning"]
    assert planned_reference(images_per_class=5000, reinversion=False).total_seconds < long.total_seconds
    run = train(zoo, preset="reference", out=tmp_path / "run", config=REFERENCE, workers=1)
    assert sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file()) < plan.disk


def test_what_cannot_be_planned_is_named_and_leaves_nothing_behind(zoo: Zoo, tmp_path: Path, temporary: Path) -> None:
    with pytest.raises(UsageError, match="nowhere is not a folder"):
        planned(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="holds no model; add some"):
        planned(Zoo.create(tmp_path / "empty"))
    with pytest.raises(UsageError, match=r"learning\.steps"):
        planned(zoo, steps=0)
    damaged = untrained(tmp_path / "damaged")
    (damaged.folder / "models" / "model-1.safetensors").write_bytes(b"x")
    with pytest.raises(ArtefactError, match=r"model-1\.safetensors"):
        planned(damaged)
    assert left_in(temporary) == []


def test_a_plan_reads_well() -> None:
    plan = Plan({"recovery": 30.0, "learning": 5400.0}, memory=2.5e9, disk=7.2e6, models=3, images=1200)
    console = Console(width=100, file=io.StringIO())
    with console.capture() as shown:
        console.print(plan_table(plan))
    for words in ("1,200", "30 s", "90 min", "2.5 GB", "7 MB"):
        assert words in shown.get()


def test_selecting_takes_more_time(zoo: Zoo) -> None:
    steps = {**OPTIONS, "learning": {**OPTIONS["learning"], "steps": 1000}}
    selection = {"validation": "glyphs:lao", "steps_per_draw": 1, "episodes": 50}
    plain, selecting = (plan_run(zoo, config={**steps, **more}, workers=1) for more in ({}, {"selection": selection}))
    assert selecting.seconds["learning"] > 2 * plain.seconds["learning"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selection": {"validation": "none.npz"}}, r"none\.npz does not exist"),
        ({"selection": {"validation": "glyphs:lao", "ways": 500}}, "500"),
        (
            {"probe": {"architecture": "imagenet-resnet34", "weights": "none.pth"}},
            r"none\.pth does not hold the weights",
        ),
        ({"meta_model": {"architecture": "timm:no_such_model"}}, "no_such_model"),
    ],
)
def test_what_would_only_be_noticed_later_is_said_first(
    zoo: Zoo, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        plan_run(zoo, config=options)
    with pytest.raises(UsageError, match=message):
        train(zoo, out=tmp_path / "run", config=options)
    assert not (tmp_path / "run").exists()
