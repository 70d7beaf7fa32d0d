"""Trackers beside runs: nothing about a run changes, whatever happens to them."""

import ast
import json
import re
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, ClassVar

import pytest
from error_checks import raises
from plugins.plugin_helpers import done, refused, without_plugins
from training_helpers import OPTIONS, content, untrained

import metazoo
from metazoo.errors import ArtefactError, Interrupted, RunError, UsageError
from metazoo.learn.group_learning import GroupLearner
from metazoo.pipeline import learning_stage
from metazoo.report.track import track_run
from metazoo.runs.config import resolve_config
from metazoo.runs.record import Run
from metazoo.runs.tracked import tracked_run
from metazoo.runs.train import train
from metazoo.storage.artefacts import read_json, write_json
from metazoo.storage.lock import exclusive
from metazoo.tracking import Point, TrackedRun, Tracker, following, points_of, register_tracker
from metazoo.tracking.following import _LogReader
from metazoo.zoo import Zoo

TRACKING = ("tracking/",)


class Memory(Tracker):
    """Tracker that keeps everything in lists, by the id of the run."""

    name = "memory"
    library = "json"
    runs: ClassVar[dict[str, list[Point]]] = {}
    facts: ClassVar[dict[str, TrackedRun]] = {}
    events: ClassVar[list[str]] = []

    def __init__(self, run: TrackedRun, target: str | None) -> None:
        self._points = self.runs.setdefault(run.id, [])
        self.facts[run.id] = run
        self.events.append("continued" if self._points else "begun")

    def held(self) -> AbstractSet[tuple[str, int]]:
        return {point[:2] for point in self._points}

    def log(self, points: Sequence[Point]) -> None:
        self._points += points

    def close(self, *, finished: bool) -> None:
        self.events.append("finished" if finished else "stopped")


class Broken(Memory):
    """Tracker that fails at the target: `connect`, `log` or `close`; it leaves also when it cannot be closed."""

    name = "broken"

    def __init__(self, run: TrackedRun, target: str | None) -> None:
        self._target = target
        self._fail("connect")

    def _fail(self, moment: str) -> None:
        if moment == self._target:
            raise OSError(28, "No space left on device")

    def held(self) -> AbstractSet[tuple[str, int]]:
        return frozenset()

    def log(self, points: Sequence[Point]) -> None:
        self._fail("log")

    def close(self, *, finished: bool) -> None:
        self._fail("close")


class Hanging(Memory):
    """Tracker that waits for a server without end."""

    name = "hanging"
    answer: ClassVar[threading.Event] = threading.Event()

    def log(self, points: Sequence[Point]) -> None:
        self.answer.wait(60)
        raise OSError("gone")


@pytest.fixture(autouse=True)
def trackers() -> Iterator[None]:
    with without_plugins():
        for tracker in (Memory, Broken, Hanging):
            register_tracker(tracker)
        yield
    Memory.runs.clear()
    Memory.facts.clear()
    Memory.events.clear()


@pytest.fixture(autouse=True)
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning_stage, "_STEPS_BETWEEN_METRICS", 1)
    monkeypatch.setattr(following, "_SECONDS_BETWEEN_READS", 0.01)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return untrained(tmp_path_factory.mktemp("untrained") / "zoo")


@pytest.fixture(scope="module")
def plain(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run without trackers, which tests must not change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning_stage, "_STEPS_BETWEEN_METRICS", 1)
        return train(zoo, out=tmp_path_factory.mktemp("plain") / "run", config=OPTIONS, workers=1).path


def files_of(folder: Path) -> dict[str, str]:
    """Hashes of the files of a run, without those of its trackers."""
    return {name: sha256 for name, sha256 in content(folder).items() if not name.startswith(TRACKING)}


def logged(run: Run) -> list[Point]:
    return list(points_of(run.metrics()))


def test_a_run_is_the_same_with_trackers_also_with_those_that_fail(
    zoo: Zoo, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = [f"broken:{moment}" for moment in ("connect", "log", "close")]
    run = train(zoo, out=tmp_path / "run", config=OPTIONS, workers=1, track=["tensorboard", "memory", *broken])
    assert files_of(run.path) == files_of(plain)
    (tracked,) = Memory.runs.values()
    assert tracked == logged(run)
    assert len(tracked) > 7 * 5
    assert Memory.events == ["begun", "finished"]
    warnings = [line for line in capsys.readouterr().err.splitlines() if "tracker" in line]
    failed = [re.match(r"warning: tracker (broken:\w+): .*No space left on device", line) for line in warnings]
    assert sorted(match[1] for match in failed if match) == sorted(broken)
    assert len(warnings) == 3
    assert track_run(run, "tensorboard")[0].points == 0  # everything was there


def test_facts_say_what_was_run_and_where(plain: Path, tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(plain, tmp_path / "run"))
    assert str(track_run(run, "memory")[0]).endswith(f": {len(logged(run))} new points")
    (facts,) = Memory.facts.values()
    assert facts.name == "run"
    assert facts.id == read_json(run.path / "tracking" / "tracking.json")["id"]
    expected = {"method": "tgr", "preset": "default", "seed": 0, "learning.steps": 7, "grouping.groups": 2}
    assert expected.items() <= facts.parameters.items()
    assert all(isinstance(value, str | int | float | bool) for value in facts.parameters.values())
    zoo = run.description["zoo"]
    paths = {"folder": run.path, "metrics": run.path / "metrics.jsonl", "meta-model": run.path / "meta-model"}
    assert {**{name: str(path) for name, path in paths.items()}, "zoo": zoo["path"]}.items() <= facts.tags.items()
    assert facts.tags["zoo.sha256"] == zoo["sha256"]


def test_options_are_sent_without_folders(tmp_path: Path) -> None:
    given = {"backbone": str(tmp_path / "secret" / "vit"), "weights": "secret/vit.pth"}
    config = resolve_config(given, method="frozen-backbone")
    facts = tracked_run(tmp_path, config, {"zoo": {"path": "/zoo", "sha256": "0" * 64, "models": 1}})
    assert facts.parameters["backbone"] == "vit"
    assert facts.parameters["weights"] == "vit.pth"
    assert not [value for value in facts.parameters.values() if "secret" in str(value)]


def test_a_killed_run_continues_its_curves(
    zoo: Zoo, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, step = tmp_path / "run", GroupLearner.step

    def killed(learner: GroupLearner) -> Any:
        if learner.steps_done == 5:
            raise Interrupted("killed without a checkpoint")
        return step(learner)

    both: dict[str, Any] = {"track": ["memory", "tensorboard"]}
    with monkeypatch.context() as patch:
        patch.setattr(GroupLearner, "step", killed)
        with pytest.raises(Interrupted):
            train(zoo, out=out, config=OPTIONS, workers=1, **both)
    (before,) = Memory.runs.values()
    assert max(point.step for point in before if point.name == "learning/loss") == 5
    run = train(zoo, out=out, config=OPTIONS, workers=1, resume=True, **both)  # repeats the steps from the first
    assert files_of(run.path) == files_of(plain)
    (after,) = Memory.runs.values()
    assert after == logged(run)
    assert Memory.events == ["begun", "stopped", "continued", "finished"]
    assert set(Counter(scalars_in(out / "tracking")).values()) == {1}
    assert Counter(scalars_in(out / "tracking")) == Counter(point[:2] for point in logged(run))
    train(zoo, out=out, config=OPTIONS, workers=1, resume=True, track="memory")  # a finished run
    assert (after, Memory.events[4:]) == (logged(run), ["continued", "finished"])


def scalars_in(folder: Path) -> list[tuple[str, int]]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    events = [event for path in folder.glob("*tfevents*") for event in EventFileLoader(str(path)).Load()]
    values = [(value, event.step) for event in events for value in event.summary.value]
    return [(value.tag, step) for value, step in values if value.metadata.plugin_data.plugin_name == "scalars"]


def test_a_server_that_never_answers_does_not_hold_the_run(
    zoo: Zoo, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(following, "_SECONDS_TO_END", 0.1)
    Hanging.answer.clear()
    run = train(zoo, out=tmp_path / "run", config=OPTIONS, workers=1, track="hanging")
    assert files_of(run.path) == files_of(plain)
    Hanging.answer.set()
    for thread in threading.enumerate():
        if thread.name == "tracker hanging":
            thread.join(10)
    lines = [line for line in capsys.readouterr().err.splitlines() if "hanging" in line]
    assert len(lines) == 1
    assert lines[0].startswith("warning: tracker hanging: ")


def test_a_damaged_identity_is_a_warning_of_training_and_an_error_of_track(
    plain: Path, zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(plain, tmp_path / "run")
    write_json(out / "tracking" / "tracking.json", {"format_version": 1, "id": "../../elsewhere"})
    train(zoo, out=out, config=OPTIONS, workers=1, resume=True, track=["memory", "tensorboard"])
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("warning: tracker ") and "tracking.json" in line for line in lines) == len(lines) == 2
    assert Memory.runs == {}
    with raises(ArtefactError, subject="tracking.json", remedy="delete it"):
        track_run(out, "memory")


def test_wrong_trackers_are_refused_before_anything_is_made(zoo: Zoo, tmp_path: Path) -> None:
    with raises(UsageError, problem="'wandb'"):
        train(zoo, out=tmp_path / "run", config=OPTIONS, track="wandb")
    assert not (tmp_path / "run").exists()


def test_a_run_at_work_is_not_sent_twice(plain: Path, tmp_path: Path) -> None:
    out = shutil.copytree(plain, tmp_path / "run")
    with exclusive(out), raises(RunError, problem="in use"):
        track_run(out, "memory")


def test_the_command_line_sends_a_run_with_its_results(plain: Path, tmp_path: Path) -> None:
    out, result = shutil.copytree(plain, tmp_path / "run"), tmp_path / "result.json"
    glyphs = ("--data", "glyphs:greek", "--images-per-class", 20, "--ways", 2, "--episodes", 4, "--queries", 3)
    done("evaluate", out, *glyphs, "--seed", 5, "--mirror", "--baselines", "--out", result)
    (first, second) = done("track", out, result, "--to", "memory", "--to", "tensorboard").splitlines()
    assert re.fullmatch(r"memory: .*: \d+ new points", first)
    assert re.fullmatch(rf"tensorboard: tensorboard --logdir {out / 'tracking'}: \d+ new points", second)
    (points,) = Memory.runs.values()
    own = [row for row in json.loads(result.read_text())["results"] if row["subject"] == "tgr meta-model"]
    for row in own:
        name = f"greek/2-way {row['shots']}-shot/logistic running mirrored 4 episodes 3 queries"
        assert Point(f"accuracy/{name}", 5, row["accuracy"]) in points
        assert Point(f"interval/{name}", 5, row["interval"]) in points
    assert len(points) == len(logged(Run.open(out))) + 2 * len(own) == len(logged(Run.open(out))) + 4
    assert done("track", out, result, "--to", "memory").endswith(": 0 new points\n")
    rows = json.loads(result.read_text())
    for row in rows["results"]:
        row["subject_sha256"] = "0" * 64
    write_json(tmp_path / "other.json", rows)
    assert "does not measure the meta-model" in refused(2, "track", out, tmp_path / "other.json", "--to", "memory")


def test_a_reader_of_the_log_follows_what_a_resumed_run_does_to_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    reader = _LogReader(path)
    assert reader.rows() == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert reader.rows() == [{"step": 1}, {"step": 2}]
    with path.open("a") as file:
        file.write('ep": 3}\n[1]\nnull\n{"step"\n{"step": 4}\n')
    assert reader.rows() == [{"step": 3}, {"step": 4}]
    assert reader.rows() == []
    assert reader.rows(again=True) == [{"step": step} for step in (1, 2, 3, 4)]
    shorter = tmp_path / "shorter"
    shorter.write_text('{"step": 1}\n{"step": 5}\n')
    shorter.replace(path)
    assert reader.rows() == [{"step": 1}, {"step": 5}]


def test_no_tracker_is_imported_unless_asked() -> None:
    libraries = {"tensorboard", "trackio", "mlflow", "IPython"}
    files = sorted(Path(metazoo.__file__).parent.rglob("*.py"))
    for path in files:
        for node in at_import(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not libraries & {part for module in modules for part in module.split(".") if module[:7] != "metazoo"}
    assert len(files) > 200


def at_import(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports of a module outside functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not isinstance(child, ast.FunctionDef):
            yield from at_import(child)
