"""Rows that learn from unlabelled images, and rows whose options are paths."""

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from error_checks import raises
from image_folders import write_images
from safetensors.torch import save_file
from training_helpers import OPTIONS, SIDE, content, untrained

import metazoo
from metazoo.errors import RunError, UsageError
from metazoo.models import build_classifier
from metazoo.study import StudyResults, cells, read_study, run_study
from metazoo.study.study_file import study_from
from metazoo.zoo import Zoo

SET = {f"{section}.{key}": value for section, values in OPTIONS.items() for key, value in values.items()}
SET = {key: value for key, value in SET.items() if not key.startswith(("probe", "grouping"))}
ROW = {"method": "zoo-distillation", "set": SET}
PROTOCOL = {"ways": 3, "shots": [1], "episodes": 4, "queries": 2, "head": "nearest-mean"}
WEIGHTS = "run/meta-model/model.safetensors"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return untrained(tmp_path_factory.mktemp("untrained") / "zoo", ("none", "none"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `photos`, whose first class is also one of `unseen`."""
    folder = tmp_path_factory.mktemp("images")
    write_images(folder / "photos", 2, 5)
    write_images(folder / "unseen", 3, 5)
    shutil.rmtree(folder / "unseen" / "colour-1")
    write_images(folder / "unseen", 1, 5, first=5)
    return folder


def study_of(zoo: Zoo, folder: Path, **changes: Any) -> dict[str, Any]:
    rows = [
        {"name": "recovered", **ROW},
        {"name": "photos", **ROW, "unlabelled": "photos"},
        {"name": "both", **ROW, "set": SET | {"unlabelled.share": 0.5}, "unlabelled": "photos"},
    ]
    content = {"zoos": {"main": str(zoo.folder)}, "data": str(folder / "unseen"), "rows": rows, "protocol": PROTOCOL}
    return content | {"sources": {"photos": str(folder / "photos")}} | changes


@pytest.fixture(scope="module")
def done(zoo: Zoo, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyResults]:
    out = tmp_path_factory.mktemp("study") / "out"
    return out, run_study(study_of(zoo, folder), out, workers=1)


def cell(out: Path, row: str) -> Path:
    return out / "cells" / "main" / row / "seed-0"


def test_a_row_learns_from_the_images_as_train_does(
    zoo: Zoo, folder: Path, done: tuple[Path, StudyResults], tmp_path: Path
) -> None:
    out, results = done
    assert results.finished
    for row, share in (("photos", {}), ("both", {"unlabelled.share": 0.5})):
        run = metazoo.train(
            zoo, "zoo-distillation", out=tmp_path / row, config=SET | share, workers=1, unlabelled=folder / "photos"
        )
        assert (cell(out, row) / WEIGHTS).read_bytes() == (run.path / "meta-model/model.safetensors").read_bytes()
    assert not (cell(out, "photos") / "run/bank").exists()


def test_recovered_images_are_shared_with_rows_that_recover_some(done: tuple[Path, StudyResults]) -> None:
    makers = {cell.row.name: maker for cell, maker in zip(done[1].cells, _makers(done[1]), strict=True)}
    assert {name: maker and maker.row.name for name, maker in makers.items()} == {
        "recovered": None, "photos": None, "both": "recovered",
    }  # fmt: skip


def _makers(results: StudyResults) -> list[cells.Cell | None]:
    found = cells.image_makers(results.cells)
    return [found[cell.folder] for cell in results.cells]


def test_tables_say_which_rows_are_not_data_free_and_count_evaluated_images(done: tuple[Path, StudyResults]) -> None:
    out, _ = done
    for name in ("results.csv", "table.csv"):
        with (out / name).open(newline="") as file:
            rows = {row["row"]: (row["unlabelled"], row["known_images"]) for row in csv.DictReader(file)}
        assert rows == {"recovered": ("", ""), "photos": ("10", "5"), "both": ("10", "5")}
    lines = {line.split("|")[1].strip(): line for line in (out / "table.md").read_text().splitlines() if "|" in line}
    for row in ("photos", "both"):
        assert "label-free (10 unlabelled images), not data-free; 5 evaluated images among them" in lines[row]
        assert "label-free" in (cell(out, row) / "run/meta-model/README.md").read_text()
    assert "label-free" not in lines["recovered"]


def test_a_begun_row_keeps_its_images_and_needs_them_no_more(
    zoo: Zoo, folder: Path, done: tuple[Path, StudyResults], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(done[0], tmp_path / "out"))
    small = study_of(zoo, folder)
    for change in ({"sources": {"photos": str(folder / "unseen")}}, {"rows": [{"name": "photos", **ROW}]}):
        with raises(RunError, subject="photos", problem="other unlabelled images than row 'photos'"):
            run_study(small | change, out, workers=1)
    gone = Path(shutil.copytree(folder / "photos", tmp_path / "gone"))
    own = study_of(zoo, folder, sources={"photos": str(gone)})
    own["rows"] = own["rows"][1:2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "_evaluate", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_study(own, tmp_path / "new", workers=1)
    shutil.rmtree(gone)
    assert run_study(own, tmp_path / "new", workers=1).finished
    assert content(cell(tmp_path / "new", "photos"))[WEIGHTS] == content(cell(out, "photos"))[WEIGHTS]


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_images_that_cannot_be_used_are_refused_before_any_work(zoo: Zoo, folder: Path, tmp_path: Path) -> None:
    with raises(UsageError, subject="absent", problem="does not exist"):
        run_study(study_of(zoo, folder, sources={"photos": str(folder / "absent")}), tmp_path / "out", workers=1)
    assert not (tmp_path / "out" / "study.yaml").exists()
    for row in ({"method": "zoo-ensemble"}, {"method": "tgr", "preset": "published"}):
        with raises(UsageError, subject="row 'a': unlabelled images", problem="does not learn from them"):
            study_from(study_of(zoo, folder, rows=[{"name": "a", "unlabelled": "photos", **row}]))


def test_paths_of_options_are_relative_to_the_file_or_sources(zoo: Zoo, folder: Path, tmp_path: Path) -> None:
    spec = zoo.contracts[0].spec
    classifier = build_classifier(spec, torch.Generator().manual_seed(3)).eval()
    save_file({k: v.contiguous() for k, v in classifier.network.state_dict().items()}, tmp_path / "own.safetensors")
    fields = {"mean": [*spec.mean], "std": [*spec.std], "input_size": SIDE, "classes": ["x", "y", "colour-5"]}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(fields))
    backbones = {"by path": "own.safetensors", "by source": "backbone", "of the zoo": "model-1", "timm": "timm:vit.a"}
    rows = [{"name": name, "method": "frozen-backbone", "set": {"backbone": own}} for name, own in backbones.items()]
    sources = {"backbone": "own.safetensors"}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study_of(zoo, folder, rows=rows, sources=sources)))
    study = read_study(tmp_path / "study.yaml", {"backbone": "timm:resnet18"})
    assert study.rows[1].set == {"backbone": "timm:resnet18"}
    study = read_study(tmp_path / "study.yaml")
    path = str(tmp_path / "own.safetensors")
    assert [row.set["backbone"] for row in study.rows] == [path, path, "model-1", "timm:vit.a"]
    results = run_study(study, tmp_path / "out", workers=1)
    assert list(results.errors) == ["timm on main, seed 0"]
    assert "weights: missing" in (tmp_path / "out" / "table.md").read_text()
    lines = (tmp_path / "out" / "table.md").read_text().splitlines()
    known = [line.split("|")[1].strip() for line in lines if "1 of 3 classes known to models" in line]
    assert known == ["by path", "by source"]
