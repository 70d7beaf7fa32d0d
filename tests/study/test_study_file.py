"""Study files: what they may hold, and what they are refused for."""

import json
from pathlib import Path

import pytest
import yaml
from error_checks import raises

from metazoo.data import load_images
from metazoo.errors import UsageError
from metazoo.study import StudyFile, read_study
from metazoo.study.study_file import EXAMPLE, Row, study_from, study_yaml

SCHEMA = Path(__file__).parents[2] / "docs" / "study.schema.json"
SCENARIOS = SCHEMA.parents[1] / "benchmarks" / "studies"
LEAST = {"zoos": {"main": "a-zoo"}, "data": "glyphs:greek", "rows": [{"name": "one", "method": "random"}]}


def test_the_example_is_a_study_and_stays_one_when_it_is_written() -> None:
    study = study_from(yaml.safe_load(EXAMPLE))
    assert [row.name for row in study.rows] == ["tgr", "distillation", "ensemble", "random weights"]
    assert study_from(yaml.safe_load(study_yaml(study))) == study


def test_the_shipped_schema_is_that_of_the_code() -> None:
    assert json.loads(SCHEMA.read_text()) == StudyFile.model_json_schema()


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_scenarios_are_studies_whose_sources_can_be_replaced(path: Path) -> None:
    sources = read_study(path).sources
    study = read_study(path, dict.fromkeys(sources, "glyphs"))
    assert {data for zoo in study.zoos for data in study.data_of(zoo).values()} == {"glyphs"}
    assert {part.data for zoo in study.zoos.values() for part in zoo.build} == {"glyphs"}


def test_a_grid_makes_a_row_for_each_combination() -> None:
    set_ = {"learning.views": 3}
    row = {"name": "g", "set": set_, "grid": {"learning.steps": [5, 10], "grouping.strategy": ["random"]}}
    study = study_from(LEAST | {"rows": [row]})
    assert [row.name for row in study.rows] == ["g steps=5 strategy=random", "g steps=10 strategy=random"]
    assert study.rows[1].set == {"learning.views": 3, "learning.steps": 10, "grouping.strategy": "random"}


def test_values_of_a_grid_keep_their_sign() -> None:
    row = Row.model_validate({"name": "g", "grid": {"learning.x": [-1, 1, -0.5, "a/b"]}})
    assert [own.name for own in row.expanded()] == ["g x=-1", "g x=1", "g x=-0.5", "g x=a-b"]


def test_paths_are_relative_to_the_file_and_names_of_data_stay(tmp_path: Path) -> None:
    data = {"a": "pack.npz", "b": "glyphs", "c": "cifar-fs/val:root"}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(LEAST | {"data": data}))
    study = read_study(path)
    assert study.zoos["main"].path == str(tmp_path / "a-zoo")
    assert study.data_of("main") == {
        "a": str(tmp_path / "pack.npz"),
        "b": "glyphs",
        "c": f"cifar-fs/val:{tmp_path / 'root'}",
    }


def test_sources_are_named_in_one_place_and_replaced_by_name(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(LEAST | {"sources": {"val": "pack.npz"}, "data": {"photos": "val"}}))
    assert read_study(path).data_of("main") == {"photos": str(tmp_path / "pack.npz")}
    assert read_study(path, {"val": "glyphs:thai"}).data_of("main") == {"photos": "glyphs:thai"}
    assert read_study(path, {"val": "other.npz"}).data_of("main") == {"photos": str(Path("other.npz").absolute())}
    with raises(UsageError, problem="has no source 'train'"):
        read_study(path, {"train": "other.npz"})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("absent.pth", "{folder}/absent.pth"),
        ("beside.onnx", "{folder}/beside.onnx"),
        ("./model-1", "{folder}/model-1"),
        ("vit/", "{folder}/vit"),
        ("model-1", "model-1"),  # also if there is a file of that name
        ("timm-resnet18.a1_in1k", "timm-resnet18.a1_in1k"),
        ("timm:resnet18", "timm:resnet18"),
        ("hf:owner/name", "hf:owner/name"),
        ("source", "{folder}/vit"),
        (None, None),
    ],
)
def test_backbones_are_absolute_paths_or_names_whatever_files_there_are(
    tmp_path: Path, given: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (tmp_path / "study", tmp_path / "elsewhere"):
        folder.mkdir()
        (folder / "model-1").touch()
    (tmp_path / "elsewhere" / "absent.pth").touch()
    monkeypatch.chdir(tmp_path / "elsewhere")
    row = {"name": "a", "method": "frozen-backbone", "set": {"backbone": given, "weights": "w"}}
    study = study_from(LEAST | {"rows": [row], "sources": {"source": "vit"}}, folder=tmp_path / "study")
    assert study.rows[0].set["backbone"] == (expected and expected.format(folder=tmp_path / "study"))
    assert study.rows[0].set["weights"] == str(tmp_path / "study" / "w")
    assert study_from(yaml.safe_load(study_yaml(study))) == study


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"data": "~nobodyxyz/b"}, "home directory"),
        ({"data": "a" * 5000}, "too long"),
        ({"zoos": {"main": ""}}, "is empty"),
        ({"sources": {"a": ""}}, "is empty"),
        ({"rows": [{"name": "a", "method": "frozen-backbone", "set": {"backbone": "~nobodyxyz/b"}}]}, "home directory"),
    ],
)
def test_texts_that_are_no_paths_are_refused(change: dict[str, object], problem: str) -> None:
    with raises(UsageError, problem=problem):
        study_from(LEAST | change)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"rows": []}, "rows"),
        ({"rows": [{"name": "a"}, {"name": "a"}]}, "two rows are called 'a'"),
        ({"rows": [{"name": "a"}, {"name": "A"}]}, "two rows share a folder name, 'a' and 'A'"),
        ({"rows": [{"name": "a b"}, {"name": "a-b"}]}, "two rows share a folder name, 'a b' and 'a-b'"),
        ({"zoos": {"a b": "x", "A-b": "y"}}, "two zoos share a folder name"),
        ({"data": {"a b": "x", "a-b": "y"}}, "two image sets share a folder name"),
        ({"zoos": {"main": {"path": "x", "data": {"a b": "x", "a-b": "y"}}}}, "two image sets share a folder name"),
        ({"data": {}}, "data"),
        ({"zoos": {"main": {"path": "x", "data": {}}}}, "data"),
        ({"rows": [{"name": "a/b"}]}, "a name has"),
        ({"reference": "none"}, "is none of the rows one"),
        ({"rows": [{"name": "a", "zoos": ["other"]}]}, "names zoo 'other'"),
        ({"zoos": {"main": {}}}, "either path or build"),
        ({"data": None}, "has no data to measure on"),
        ({"protocol": {"head": "none"}}, "unknown head"),
        ({"protocol": {"shots": []}}, "protocol.shots"),
        ({"protocol": {"shots": [1, 5, 1]}}, "given twice"),
        ({"rows": [{"name": "a", "seeds": []}]}, "seeds"),
        ({"rows": [{"name": "a", "zoos": []}]}, "zoos"),
        ({"rows": [{"name": "a", "set": {"seed": 1}}]}, "seed is no option of set or grid"),
        ({"rows": [{"name": "a", "grid": {"preset": ["quick"]}}]}, "preset is no option of set or grid"),
        ({"rows": [{"name": "a" * 60, "grid": {"learning.steps": ["b" * 30]}}]}, "a name has 1 to 80 letters"),
        ({"speed": 1}, "speed"),
    ],
)
def test_wrong_studies_are_refused(change: dict[str, object], problem: str) -> None:
    with raises(UsageError, subject="study", problem=problem):
        study_from(LEAST | change)


def test_options_of_rows_are_checked_before_any_work() -> None:
    for row in ({"method": "none"}, {"method": "tgr", "preset": "none"}, {"set": {"learning.step": 3}}):
        with pytest.raises(UsageError, match="row 'a'"):
            study_from(LEAST | {"rows": [{"name": "a", **row}]})


@pytest.mark.parametrize("change", [{"data": "file:///data"}, {"zoos": {"main": "https://a.example/zoo"}}])
def test_urls_are_no_paths(change: dict[str, object]) -> None:
    with raises(UsageError, problem="URLs are not read"):
        study_from(LEAST | change)


def test_a_part_without_the_folder_of_its_data_set_is_explained() -> None:
    data = study_from(LEAST | {"data": "cifar-fs/val"}).data_of("main")[""]
    with raises(UsageError, problem="cifar-fs/val lacks its folder", remedy="cifar-fs/val:ROOT"):
        load_images(data)
