"""Studies end to end, on untrained models: a cell takes a fraction of a second."""

import base64
import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from error_checks import raises
from PIL import Image
from training_helpers import OPTIONS, SIDE, coloured_images, content, untrained

import metazoo
from metazoo.data import load_images
from metazoo.errors import Interrupted, RunError, UsageError
from metazoo.evaluate import Subject, evaluate, read_results
from metazoo.execution.executor import Executor
from metazoo.execution.signals import stopped_by
from metazoo.report import write_report
from metazoo.runs.record import Run
from metazoo.study import StudyResults, cells, run_study, runner
from metazoo.study.cost import Cost, Meter
from metazoo.zoo import Zoo

FLAT = {f"{section}.{key}": value for section, values in OPTIONS.items() for key, value in values.items()}
DISTILLATION = {key: value for key, value in FLAT.items() if not key.startswith(("probe", "grouping"))}
ROWS: list[dict[str, Any]] = [
    {"name": "tgr", "method": "tgr", "set": FLAT},
    {"name": "distillation", "method": "zoo-distillation", "set": DISTILLATION},
    {"name": "ensemble", "method": "zoo-ensemble"},
    {"name": "random", "method": "random", "set": {"meta_model.width": 4}, "own_head": {"head": "fine-tune"}},
    {"name": "average", "method": "average"},
]
PROTOCOL = {"ways": 3, "shots": [1, 2], "episodes": 5, "queries": 2, "head": "nearest-mean"}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return untrained(tmp_path_factory.mktemp("untrained") / "zoo")


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> str:
    images = coloured_images(4, SIDE)
    path = tmp_path_factory.mktemp("pack") / "colours.npz"
    pixels = images.images.permute(0, 2, 3, 1).numpy()
    np.savez(path, images=pixels, labels=images.labels.numpy(), class_names=np.array(images.class_names))
    return str(path)


@pytest.fixture(scope="module")
def study(zoo: Zoo, pack: str) -> dict[str, Any]:
    return {
        "title": "A | title",
        "zoos": {"main": {"path": str(zoo.folder), "data": pack}},
        "rows": ROWS,
        "protocol": PROTOCOL,
        "reference": "distillation",
    }


@pytest.fixture(scope="module")
def done(study: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyResults]:
    out = tmp_path_factory.mktemp("studies") / "done"
    return out, run_study(study, out, workers=1)


def csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def accuracies(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("accuracy-*"))
        if path.is_file()
    }


def test_a_cell_is_a_run_and_its_evaluation(
    zoo: Zoo, pack: str, done: tuple[Path, StudyResults], tmp_path: Path
) -> None:
    out, _ = done
    run = metazoo.train(zoo, "tgr", out=tmp_path / "run", config=OPTIONS, workers=1)
    cell = out / "cells" / "main" / "tgr" / "seed-0"
    weights = "meta-model/model.safetensors"
    assert (cell / "run" / weights).read_bytes() == (run.path / weights).read_bytes()
    images = load_images(pack)
    (expected, *_) = evaluate(
        [Subject.of("tgr", "tgr", run.meta_model.module)], images, ways=3, shots=(1, 2), episodes=5, queries=2,
        head="nearest-mean",
    )  # fmt: skip
    found = read_results(cell / "accuracy-nearest-mean.json")[0]
    assert (found.accuracy, found.episode_list_sha256) == (expected.accuracy, expected.episode_list_sha256)


def test_a_method_that_the_zoo_does_not_suit_is_a_row_with_its_error(done: tuple[Path, StudyResults]) -> None:
    out, results = done
    assert list(results.errors) == ["average on main, seed 0"]
    assert "one architecture" in results.errors["average on main, seed 0"]
    assert "one architecture" in (out / "table.md").read_text()
    assert [row["error"] != "" for row in csv_rows(out / "results.csv") if row["row"] == "average"] == [True]
    assert not results.finished


def test_images_are_recovered_once(done: tuple[Path, StudyResults]) -> None:
    out, _ = done
    banks = [out / "cells" / "main" / name / "seed-0" / "run" / "bank" for name in ("tgr", "distillation")]
    first, second = ({p.relative_to(bank): p.stat().st_mtime_ns for p in bank.rglob("*.safetensors")} for bank in banks)
    assert first == second  # copied with their times, not made again
    assert len(first) > 0


def test_tables_hold_every_row_and_figure(done: tuple[Path, StudyResults]) -> None:
    out, _ = done
    rows = csv_rows(out / "table.csv")
    labels = [(row["row"], row["head"]) for row in rows[::2]]
    heads = {"random": ["nearest-mean", "fine-tune"]}
    assert labels == [(row["name"], head) for row in ROWS for head in heads.get(row["name"], ["nearest-mean"])]
    stored = {
        (row["row"], row["head"], row["shots"]): float(row["accuracy"])
        for row in csv_rows(out / "results.csv")
        if row["accuracy"]
    }
    for row in rows:
        key = (row["row"], row["head"], row["shots"])
        if key in stored:
            assert float(row["accuracy"]) == pytest.approx(stored[key], abs=1e-3)
            reference = stored["distillation", "nearest-mean", row["shots"]]
            assert row["row"] == "distillation" or float(row["difference"]) == pytest.approx(
                stored[key] - reference, abs=1e-3
            )
    lines = (out / "table.md").read_text().splitlines()
    assert len({line.replace("\\|", "").count("|") for line in lines if line.startswith("|")}) == 1
    page = (out / "table.html").read_text()
    assert "A | title" in page
    assert page.count("<tr>") == len(labels) + 1
    figure = (out / "cost-main.svg").read_text()
    assert [f">{row['name']}<" in figure for row in ROWS] == [True] * 4 + [False]  # `average` has failed
    assert base64.b64encode(figure.encode()).decode() in page
    costs = [row for row in csv_rows(out / "results.csv") if row["accuracy"]]
    assert all(0 <= float(row["training_core_seconds"]) <= float(row["core_seconds"]) for row in costs)
    assert float(costs[0]["training_core_seconds"]) > 0


def test_a_curve_measures_the_rows_while_they_learn_and_changes_nothing(
    study: dict[str, Any], done: tuple[Path, StudyResults], tmp_path: Path
) -> None:
    steps = FLAT["learning.steps"]
    curve = {"every": 2, "episodes": 4, "head": "nearest-mean-euclidean"}
    rows = [row for row in ROWS if row["name"] in ("tgr", "ensemble")]
    run_study({**study, "rows": rows, "reference": "tgr", "curve": curve}, tmp_path / "out", workers=1)
    assert accuracies(tmp_path / "out").items() <= accuracies(done[0]).items()
    assert ">tgr<" in (tmp_path / "out" / "curves-main.svg").read_text()
    points = csv_rows(tmp_path / "out" / "curves.csv")
    measured = sorted({*range(2, steps, 2), steps})
    assert [(p["row"], int(p["step"]), int(p["shots"])) for p in points] == [
        ("tgr", step, shots) for step in measured for shots in (1, 2)
    ]
    # The last point is that of the finished network: only stored statistics are added after the last step.
    zoo = study["zoos"]["main"]
    module = Run.open(tmp_path / "out" / "cells" / "main" / "tgr" / "seed-0" / "run").meta_model.module
    expected = evaluate(
        [Subject.of("tgr", "tgr", module)], load_images(zoo["data"]), ways=3, shots=(1, 2), episodes=4, queries=2,
        head="nearest-mean-euclidean", batch_norm="support",
    )  # fmt: skip
    assert [float(p["accuracy"]) for p in points[-2:]] == pytest.approx([own.accuracy for own in expected], abs=1e-3)
    with raises(RunError, subject=str(tmp_path / "out"), problem="curve"):
        run_study({**study, "curve": {**curve, "every": 3}}, tmp_path / "out", workers=1)


def test_a_stopped_study_continues_bit_equal(
    study: dict[str, Any], done: tuple[Path, StudyResults], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = cells._evaluate, []

    def stopped(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise Interrupted("stopped", 130)
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(cells, "_evaluate", stopped)
        with pytest.raises(Interrupted):
            run_study(study, tmp_path / "out", workers=1)
    assert "1 of 5 cells" in (tmp_path / "out" / "table.md").read_text()
    results = run_study(study, tmp_path / "out", workers=1)
    assert list(results.errors) == ["average on main, seed 0"]
    assert accuracies(tmp_path / "out") == accuracies(done[0])
    runs = [content(out / "cells" / "main" / "tgr" / "seed-0" / "run") for out in (tmp_path / "out", done[0])]
    assert runs[0] == runs[1]


def test_processes_do_not_change_results(
    study: dict[str, Any], done: tuple[Path, StudyResults], tmp_path: Path
) -> None:
    run_study(study, tmp_path / "out", workers=2)
    assert accuracies(tmp_path / "out") == accuracies(done[0])


def test_a_study_grows_and_random_methods_alone_get_more_seeds(study: dict[str, Any], tmp_path: Path) -> None:
    small = study | {"rows": [ROWS[2], ROWS[3]], "reference": None}
    first = run_study(small, tmp_path / "out", workers=1)
    before = accuracies(tmp_path / "out")
    results = run_study(small | {"seeds": [0, 1]}, tmp_path / "out", workers=1)
    assert (len(first.cells), len(results.cells), results.finished) == (2, 3, True)
    assert before.items() <= accuracies(tmp_path / "out").items()
    assert [row["seeds"] for row in csv_rows(tmp_path / "out" / "table.csv")] == ["1", "1", "2", "2", "2", "2"]
    for change in (
        {"protocol": PROTOCOL | {"episodes": 6}},
        {"zoos": {"main": {"path": "elsewhere", "data": "glyphs"}}},
    ):
        with pytest.raises(RunError, match="was begun with another"):
            run_study(small | change, tmp_path / "out", workers=1)
    changed = [ROWS[2], ROWS[3] | {"set": {"meta_model.width": 8}}]
    with raises(RunError, problem="was begun with other options than row 'random'"):
        run_study(small | {"rows": changed}, tmp_path / "out", workers=1)


def test_no_cell_begins_after_the_budget(study: dict[str, Any], tmp_path: Path) -> None:
    results = run_study(study, tmp_path / "out", workers=1, hours=0)
    assert not any(cell.is_finished for cell in results.cells)
    assert "0 of 5 cells" in (tmp_path / "out" / "table.md").read_text()


def test_costs_add_up_over_attempts_and_shared_recovery(tmp_path: Path) -> None:
    cost = Cost(10.0, 100, 4.0, 50)
    cost.write(tmp_path)
    assert Cost.read(tmp_path) == cost
    assert Cost(2.0, 30).with_recovery_of(cost) == Cost(6.0, 50, 4.0, 50)
    with Meter(tmp_path, workers=3) as meter:
        kept = torch.ones(8_000_000)
    assert meter.cost.seconds > 10.0
    assert meter.cost.core_seconds == pytest.approx(3 * (meter.cost.seconds - 10.0))
    assert (meter.cost.workers, meter.cost.reused) == (3, False)
    assert Cost.read(tmp_path).recovery_seconds == 4.0
    assert json.loads((tmp_path / "cost.json").read_text())["memory"] > kept.nbytes


def test_other_folders_are_refused(study: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with raises(UsageError, subject=str(tmp_path), problem="is not a study"):
        run_study(study, tmp_path)
    with raises(UsageError, subject="absent", problem="does not exist"):
        run_study(study | {"data": "absent", "zoos": {"main": study["zoos"]["main"]["path"]}}, tmp_path / "out")


def folder_of_images(path: Path) -> str:
    """Three classes, one of which has the name of a class of the zoo."""
    for name in ("a", "two", "three"):
        (path / name).mkdir(parents=True)
    images = coloured_images(3, 24)
    for index, (pixels, label) in enumerate(zip(images.images, images.labels, strict=True)):
        name = ("a", "two", "three")[int(label)]
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path / name / f"{index}.png")
    return str(path)


def test_rows_of_different_inputs_are_measured_on_the_same_images(study: dict[str, Any], tmp_path: Path) -> None:
    data = folder_of_images(tmp_path / "images")
    sizes = [{"name": f"{size}", "method": "random", "set": {"meta_model.input_size": size}} for size in (16, 24)]
    changed = study | {"zoos": {"main": {"path": study["zoos"]["main"]["path"], "data": data}}}
    changed |= {"rows": [row | {"set": row["set"] | {"meta_model.width": 4}} for row in sizes], "reference": None}
    results = run_study(changed, tmp_path / "out", workers=1)
    assert results.finished
    assert len({row["episode_list_sha256"] for row in csv_rows(tmp_path / "out" / "results.csv")}) == 2  # 1 and 2 shots
    assert "1 of 3 classes known to models" in (tmp_path / "out" / "table.md").read_text()
    for name in ("table.csv", "results.csv"):
        assert {row["known_classes"] for row in csv_rows(tmp_path / "out" / name)} == {"1"}


@pytest.mark.parametrize(
    ("row", "origin", "note"),
    [("ensemble", "made of the weights of 7 pre-trained models", "images can be recovered from them"),
     ("random", "random weights", "nothing was learned")],
)  # fmt: skip
def test_cards_and_reports_of_methods_without_images(
    done: tuple[Path, StudyResults], zoo: Zoo, row: str, origin: str, note: str
) -> None:
    cell = done[0] / "cells" / "main" / row / "seed-0"
    run = Run.open(cell / "run")
    page = write_report(run, cell / "page.html", results=[cell / "accuracy-nearest-mean.json"], zoo=zoo)
    for text in ((cell / "run" / "meta-model" / "README.md").read_text(), page.read_text()):
        assert (origin.replace("7", str(len(zoo))) in text, note in text) == (True, True)
        assert "learned from the recovered images" not in text
        assert "are kept" not in text
        assert "Measured on another zoo" not in text


def test_what_a_bundle_need_not_say_is_omitted(done: tuple[Path, StudyResults]) -> None:
    cells_ = done[0] / "cells" / "main"
    found = {
        name: json.loads((cells_ / name / "seed-0" / "run" / "meta-model" / "bundle.json").read_text())
        for name in ("tgr", "ensemble")
    }
    assert "joint" not in found["tgr"]
    assert found["ensemble"]["joint"] is True
    assert "uses" not in Run.open(cells_ / "tgr" / "seed-0" / "run").description


def test_recovery_is_counted_where_it_happened(done: tuple[Path, StudyResults]) -> None:
    _, results = done
    own = {cell.row.name: cell for cell in results.cells}
    assert [own[name].cost.reused for name in ("tgr", "distillation")] == [False, True]
    for order in (results.cells, results.cells[::-1]):
        makers = cells.image_makers(order)
        assert makers[own["distillation"].folder] is own["tgr"]
        assert makers[own["tgr"].folder] is None
    total, recovery = results.cost_of(own["distillation"]), own["tgr"].cost.recovery_seconds
    assert total.seconds == own["distillation"].cost.seconds + (recovery or 0.0)
    assert results.cost_of(own["tgr"]) == own["tgr"].cost


def test_a_study_that_cannot_be_measured_does_not_begin(study: dict[str, Any], tmp_path: Path) -> None:
    for change, problem in (
        ({"shots": [1, 50]}, "but 50 support and 2 query images are needed"),
        ({"ways": 5}, "too few for 5-way"),
    ):
        with raises(UsageError, problem=problem):
            run_study(study | {"protocol": PROTOCOL | change}, tmp_path / "out", workers=1)
    absent = {"path": str(tmp_path / "absent"), "data": study["zoos"]["main"]["data"]}
    with raises(UsageError, subject="absent"):
        run_study(study | {"zoos": {"main": absent}}, tmp_path / "out", workers=1)
    assert not (tmp_path / "out" / "study.yaml").exists()
    assert not run_study(study, tmp_path / "out", workers=1, hours=0).finished


def test_a_zoo_that_has_changed_is_not_mixed(study: dict[str, Any], zoo: Zoo, tmp_path: Path) -> None:
    shutil.copytree(zoo.folder, tmp_path / "zoo")
    data = study["zoos"]["main"]["data"]
    small = study | {"zoos": {"main": {"path": str(tmp_path / "zoo"), "data": data}}, "rows": [ROWS[3]]}
    small["reference"] = None
    run_study(small, tmp_path / "out", workers=1)
    Zoo.open(tmp_path / "zoo").remove(["model-0"])
    with raises(RunError, problem="changed"):
        run_study(small, tmp_path / "out", workers=1)


def test_a_long_evaluation_can_be_stopped(done: tuple[Path, StudyResults], tmp_path: Path) -> None:
    def stop() -> None:
        raise Interrupted("stopped", 130)

    cell = next(cell for cell in done[1].cells if cell.row.name == "random")
    run, copy = Run.open(cell.folder / "run"), replace(cell, folder=tmp_path)
    with stopped_by(stop), pytest.raises(Interrupted):
        cells._evaluate(cells.CellWork(copy, None, 1, "cpu", None), run)
    assert [*tmp_path.iterdir()] == []


class DyingExecutor(Executor):
    """Executor that does the first unit, and whose process for the second dies."""

    def __init__(self) -> None:
        super().__init__(2)
        self.calls: list[list[str]] = []

    def map(self, function: Any, units: Any, **_: Any) -> Any:
        self.calls.append([unit.cell.row.name for unit in units])
        yield 0, True
        raise RunError(f"process of {units[1].cell.label}", "was killed")

    def close(self) -> None:
        return

    @property
    def is_warm(self) -> bool:
        return False

    def _spread(self, work: Any, indices: Any, check: Any) -> Any:
        raise NotImplementedError


def test_a_killed_process_does_not_repeat_other_cells(done: tuple[Path, StudyResults], tmp_path: Path) -> None:
    wave = [replace(cell, folder=tmp_path / cell.row.name) for cell in done[1].cells if cell.row.name != "average"]
    executor = DyingExecutor()
    for _ in runner._do_wave(wave, wave, executor, "cpu", None, lambda: None):
        pass
    assert executor.calls == [["tgr", "distillation", "ensemble", "random"], ["ensemble", "random"]]
    assert "was killed" in (wave[1].error or "")
