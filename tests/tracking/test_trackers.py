"""Every tracker, read back with its own reader or without any."""

import importlib
import json
import os
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from error_checks import raises
from hypothesis import given
from hypothesis import strategies as st
from plugins.plugin_helpers import without_plugins

from metazoo.errors import RunError, UsageError
from metazoo.tracking import TRACKERS, Point, TrackedRun, check_trackers, points_of, send
from metazoo.tracking.mlflow_tracker import _variable
from metazoo.tracking.tracker import metric_name

Series = dict[tuple[str, int], list[float]]
"""Values by name and step."""
Reader = Callable[[], tuple[Series, dict[str, str], dict[str, str]]]
"""Function that reads the series, the options and the tags of the only run of a tracker."""

RUN_ID = "0123456789abcdef" * 2
POINTS = [
    Point("trust/doubtful", 1, 0.0),
    Point("learning/loss", 1, 2.5),
    Point("learning/agreement", 1, -0.25),
    Point("learning/loss", 2, 1.25),
    Point("accuracy/signs/5-way 1-shot/logistic running 10 episodes", 0, 40.5),
]


@pytest.fixture
def run(tmp_path: Path) -> TrackedRun:
    options = {"method": "tgr", "seed": 3, "learning.rate": 0.5, "grouping.shuffle": False, "probe.arguments": "{}"}
    options |= {f"many.option-{number}": number for number in range(120)}  # more than MLflow takes at once
    tags = {"folder": "/runs/größte", "zoo": "/zoo"}
    return TrackedRun(RUN_ID, "größte", tmp_path / "run" / "tracking", options, tags)


@pytest.fixture(params=["tensorboard", "trackio", "mlflow"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def target(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Tracker with a target in the folder of the test."""
    if name == "trackio":
        from trackio import sqlite_storage, utils

        for module in (utils, sqlite_storage):
            monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
        return "trackio:zoos"
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a new database takes seconds
    return f"mlflow:{tmp_path / 'mlruns'}" if name == "mlflow" else f"tensorboard:{tmp_path / 'logs'}"


@pytest.fixture
def read(name: str, tmp_path: Path) -> Reader:
    return lambda: {"tensorboard": _in_event_files, "trackio": _in_trackio, "mlflow": _in_mlflow}[name](tmp_path)


def _in_event_files(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    protocol = importlib.import_module("tensorboard.plugins.hparams.plugin_data_pb2")
    series: Series = {}
    options: dict[str, str] = {}
    facts: dict[str, dict[str, Any]] = {"tags": {}}
    for path in sorted((folder / "logs" / "größte-01234567").iterdir()):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                content = protocol.HParamsPluginData.FromString(value.metadata.plugin_data.content)
                if value.tag == "run/text_summary":
                    text = value.tensor.string_val[0].decode()
                    facts = json.loads(text.removeprefix("```json\n").removesuffix("\n```"))
                elif value.metadata.plugin_data.plugin_name == "hparams":
                    given = content.session_start_info.hparams
                    options |= {key: str(getattr(one, one.WhichOneof("kind"))) for key, one in given.items()}
                else:
                    series.setdefault((value.tag, event.step), []).append(value.tensor.float_val[0])
    assert {key: str(value) for key, value in facts["options"].items()}.keys() == options.keys()
    return series, options, facts["tags"]


def _in_trackio(folder: Path) -> Any:
    series: Series = {}
    with sqlite3.connect(folder / "trackio" / "zoos.db") as database:
        rows = database.execute("SELECT run_id, run_name, step, metrics FROM metrics ORDER BY id").fetchall()
        (config,) = database.execute("SELECT config FROM configs").fetchone()
    assert {(run_id, name) for run_id, name, _, _ in rows} == {(RUN_ID, "größte-01234567")}
    for _, _, step, metrics in rows:
        for key, value in json.loads(metrics).items():
            series.setdefault((key, step), []).append(value)
    facts = {key: str(value) for key, value in json.loads(config).items() if not key.startswith("_")}
    tags = {key: facts.pop(key) for key in ("folder", "zoo")}
    return series, facts, tags


def _in_mlflow(folder: Path) -> Any:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(str(folder / "mlruns"))
    experiment = client.get_experiment_by_name("metazoo")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "größte")
    series: Series = {}
    for key in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, key):
            series.setdefault((metric.key, metric.step), []).append(metric.value)
    tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
    assert tags.pop("metazoo.id") == RUN_ID
    return series, run.data.params, tags


def test_what_is_sent_is_read_back_once(run: TrackedRun, target: str, read: Reader) -> None:
    assert send(run, target, POINTS[:2], finished=False)[1] == 2
    address, count = send(run, target, POINTS)
    assert count == 3
    assert "größte" in address
    assert send(run, target, POINTS)[1] == 0
    series, options, tags = read()
    assert series == {(name, step): [value] for name, step, value in POINTS}
    assert tags == run.tags
    assert options.keys() == run.parameters.keys()
    for key, value in run.parameters.items():
        assert options[key] == str(value) or float(options[key]) == value


def test_many_points_are_sent_in_order(run: TrackedRun, target: str, read: Reader) -> None:
    points = [Point("learning/loss", step, step / 4) for step in range(1, 1501)]
    assert send(run, target, points[:1200])[1] == 1200
    assert send(run, target, points)[1] == 300
    assert read()[0] == {("learning/loss", step): [step / 4] for step in range(1, 1501)}


def test_points_in_a_damaged_event_file_are_sent_again(run: TrackedRun) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    send(run, "tensorboard", POINTS)
    (path,) = run.folder.iterdir()
    path.write_bytes(path.read_bytes()[:-5])  # the process was killed within the last record
    assert send(run, "tensorboard", POINTS)[1] == 1
    events = EventAccumulator(str(run.folder)).Reload()
    found = Counter((name, event.step) for name in events.Tags()["scalars"] for event in events.Scalars(name))
    assert found == Counter(point[:2] for point in POINTS)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # of MLflow with SQLAlchemy 2.1
def test_mlflow_makes_its_database(run: TrackedRun, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for count in (len(POINTS), 0):
        assert send(run, f"mlflow:{uri}", POINTS)[1] == count
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        rows = database.execute("SELECT key, step, value FROM metrics").fetchall()
        assert sorted(rows) == sorted(map(tuple, POINTS))
        assert database.execute("SELECT status FROM runs").fetchall() == [("FINISHED",)]


def test_a_variable_of_the_environment_is_set_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    variable = "MLFLOW_DISABLE_TELEMETRY"
    monkeypatch.delenv(variable, raising=False)
    with _variable(variable):
        assert os.environ[variable] == "true"
    assert variable not in os.environ
    monkeypatch.setenv(variable, "false")  # the choice of the user
    with _variable(variable):
        assert os.environ[variable] == "false"
    assert os.environ[variable] == "false"


def test_a_tracker_that_fails_is_named(run: TrackedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with raises(RunError, subject="tensorboard", problem="Not a directory", remedy="metazoo track"):
        send(run, f"tensorboard:{tmp_path / 'file'}", POINTS)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with raises(RunError, subject="mlflow:http://127.0.0.1:9", problem="MlflowException"):
        send(run, "mlflow:http://127.0.0.1:9", POINTS)
    monkeypatch.setenv("TRACKIO_STORAGE_MODE", "jsonl")
    with raises(UsageError, subject="trackio", remedy="TRACKIO_DIR"):
        send(run, "trackio", POINTS)


def test_a_target_may_be_in_the_home_folder(run: TrackedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path / "logs" / run.label) in send(run, "tensorboard:~/logs", POINTS)[0]
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    with raises(UsageError, subject="http://localhost", problem="URLs are not read"):
        send(run, "tensorboard:http://localhost", POINTS)


def test_a_full_disk_is_an_error_and_the_rest_is_sent_later(run: TrackedRun, capfd: pytest.CaptureFixture[str]) -> None:
    resource = pytest.importorskip("resource")
    send(run, "tensorboard", POINTS[:1])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with raises(RunError, subject="tensorboard", problem="File too large"):
            send(run, "tensorboard", [Point("learning/loss", step, 0.5) for step in range(1000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert capfd.readouterr() == ("", "")
    points = [*POINTS[:1], *(Point("learning/loss", step, 0.5) for step in range(1000))]
    assert 900 < send(run, "tensorboard", points)[1] < 1000
    assert send(run, "tensorboard", points)[1] == 0


@pytest.mark.parametrize(
    ("trackers", "text"),
    [
        (["wandb"], "unknown tracker 'wandb'"),
        (["tensorbord"], "did you mean tensorboard"),
        ([""], "unknown tracker ''"),
        (["mlflow:"], "no target"),
        (["trackio", "trackio"], "given twice"),
    ],
)
def test_wrong_names_are_refused(trackers: list[str], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_trackers(trackers)
    assert text in str(caught.value)


def test_what_is_no_tracker_is_refused() -> None:
    with without_plugins():
        TRACKERS.register("list", list)  # pyright: ignore[reportArgumentType] - as a wrong entry point would
        with raises(UsageError, subject="tracker list", problem="must be a Tracker class"):
            check_trackers(["list"])


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with raises(UsageError, subject="trackio", problem="not installed", remedy="metazoo[trackio]"):
        check_trackers(["trackio:project"])
    check_trackers(["tensorboard", "tensorboard:elsewhere", "mlflow:http://127.0.0.1:5000"])


def test_the_numbers_of_a_row_are_points() -> None:
    row = {"stage": "learning", "step": 3, "loss": 0.5, "mode": "keep", "scores": [1.0], "unknown": None, "flag": True}
    rows = [row, {"stage": "trust", "step": 1, "doubtful": 2}, {"step": 1, "loss": 1.0}, {"stage": "x", "loss": 1.0}]
    assert list(points_of(rows)) == [Point("learning/loss", 3, 0.5), Point("trust/doubtful", 1, 2.0)]


@given(st.lists(st.text(max_size=200), min_size=1, max_size=3))
def test_every_metric_name_is_one_that_mlflow_takes(parts: list[str]) -> None:
    from mlflow.utils.validation import _validate_metric_name

    name = metric_name(*parts)
    _validate_metric_name(name)
    assert len(name) <= 250
    assert name == metric_name(*name.split("/"))
