import json
from pathlib import Path
from typing import Any

import pytest
import torch
from error_checks import raises
from evaluate_helpers import noise_images, plain_table

from metazoo.data import EpisodeList
from metazoo.errors import ArtefactError
from metazoo.evaluate import (
    Contamination,
    Result,
    read_accuracies,
    read_contamination,
    read_results,
    write_results,
)
from metazoo.storage.tensor_files import write_tensors

KEYS = "subject method head batch_norm ways shots episodes seed episode_list_sha256 accuracy interval"


def result(**changes: Any) -> Result:
    values = {
        "subject": "tgr meta-model",
        "method": "tgr",
        "head": "nearest-mean",
        "batch_norm": "running",
        "ways": 3,
        "shots": 1,
        "episodes": 4,
        "seed": 0,
        "episode_list_sha256": "0" * 64,
        "accuracy": 51.25,
        "interval": 1.5,
        "queries": 5,
        "parameters": 29376,
        "transductive": False,
        "image_set": "noise",
    }
    return Result.model_validate(values | changes)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """RESULT.json of two subjects on a 1-shot and a 2-shot list."""
    images, path = noise_images(), tmp_path / "new" / "result.json"
    lists = [EpisodeList.draw(images, 3, shots, 5, 4) for shots in (1, 2)]
    accuracies = [
        {name: torch.arange(4).double() + 10 * shots + offset for offset, name in enumerate(("one", "two"))}
        for shots in (1, 2)
    ]
    results = [
        result(subject=name, shots=drawn.shots, episode_list_sha256=drawn.sha256)
        for name in ("one", "two")
        for drawn in lists
    ]
    write_results(path, results, lists, accuracies)
    return path


def test_what_is_written_is_read(written: Path) -> None:
    results = read_results(written)
    assert [(row.subject, row.shots) for row in results] == [("one", 1), ("one", 2), ("two", 1), ("two", 2)]
    for row in results:
        offset = 10 * row.shots + (row.subject == "two")
        accuracies = read_accuracies(written, row)
        assert torch.equal(accuracies, torch.arange(4).double() + offset)


def test_the_file_has_the_keys_that_other_tools_read(written: Path) -> None:
    content = json.loads(written.read_text())
    assert content["format_version"] == 1
    assert all(set(KEYS.split()) <= set(row) for row in content["results"])
    assert content["results"][0]["accuracy"] == 51.25


def test_what_models_knew_of_the_classes_is_told_if_it_was_looked_into(tmp_path: Path, written: Path) -> None:
    assert "contamination" not in json.loads(written.read_text())
    assert read_contamination(written) is None
    path, found = tmp_path / "result.json", Contamination(models=2, classes=6, known={"lion": ("a", "b")})
    write_results(path, [result()], [], [], found)
    assert (read_results(path), read_contamination(path)) == ([result()], found)
    assert json.loads(path.read_text())["contamination"] == {
        "models": 2,
        "classes": 6,
        "known": {"lion": ["a", "b"]},
        "excluded": False,
    }


def test_the_lists_lie_beside_it(written: Path) -> None:
    assert {path.name for path in written.parent.iterdir()} == {
        "result.json",
        *(f"result.{kind}-3way-{k}shot.safetensors" for kind in ("episodes", "accuracies") for k in (1, 2)),
    }
    for row in read_results(written):
        episodes = EpisodeList.load(written.with_name(f"result.episodes-3way-{row.shots}shot.safetensors"))
        assert (episodes.sha256, episodes.shots) == (row.episode_list_sha256, row.shots)


def test_accuracies_pair_with_their_own_list_alone(written: Path) -> None:
    own = read_results(written)[0]
    for other in (
        own.model_copy(update={"episode_list_sha256": "1" * 64}),
        own.model_copy(update={"subject": "three"}),
        own.model_copy(update={"episodes": 5}),
    ):
        with raises(ArtefactError, subject="accuracies-3way-1shot.safetensors", problem="result.json"):
            read_accuracies(written, other)
    with pytest.raises(ArtefactError, match=r"accuracies-7way-1shot.safetensors: is missing"):
        read_accuracies(written, own.model_copy(update={"ways": 7}))


def test_damaged_accuracies_are_an_error(written: Path) -> None:
    own = read_results(written)[0]
    beside = written.with_name("result.accuracies-3way-1shot.safetensors")
    whole = beside.read_bytes()
    for damaged in (b"", whole[:-1], b"\x80\x05pickle"):
        beside.write_bytes(damaged)
        with pytest.raises(ArtefactError, match=beside.name):
            read_accuracies(written, own)
    write_tensors(beside, {"one": torch.zeros(4)})
    with raises(ArtefactError, problem="does not belong"):
        read_accuracies(written, own)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid JSON"),
        ('{"format_version": 1, "results": [', "is not valid JSON"),
        ("[]", r"not a result file of format version 1 \(must hold values by name"),
        ("{}", r"not a result file of format version 1 \(format_version: is missing"),
        ('{"format_version": 2, "results": []}', r"\(format_version: Input should be 1"),
        ('{"format_version": 1, "results": {}}', r"\(results: "),
        ('{"format_version": 1, "results": [], "import": "os"}', r"\(import: is unknown"),
        ('{"format_version": 1, "results": [], "contamination": {"models": -1}}', r"\(contamination.models: "),
        ('{"format_version": 1, "results": [{}]}', r"\(results.0.subject: is missing"),
        ('{"format_version": 1, "results": [{"accuracy": NaN}]}', "is not valid JSON"),
    ],
)
def test_a_damaged_file_is_a_clear_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ArtefactError, match=f"result.json.*{message}"):
        read_results(tmp_path / "result.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracy": 100.5}, "accuracy: "),
        ({"accuracy": "high"}, "accuracy: "),
        ({"interval": -1}, "interval: "),
        ({"batch_norm": "none"}, "batch_norm: "),
        ({"ways": 1}, "ways: "),
        ({"note": "x"}, "note: is unknown"),
    ],
)
def test_impossible_values_are_named(written: Path, change: dict[str, Any], message: str) -> None:
    content = json.loads(written.read_text())
    content["results"][2] |= change
    written.write_text(json.dumps(content))
    with pytest.raises(ArtefactError, match=f"results.2.{message}.*; evaluate again"):
        read_results(written)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"none.json: is missing"):
        read_results(tmp_path / "none.json")


def test_a_table_has_a_row_a_subject_and_a_column_a_task() -> None:
    rows = [
        result(),
        result(shots=5, accuracy=70.04, interval=0.26),
        result(subject="raw pixels", parameters=0, accuracy=30),
    ]
    lines = plain_table(rows).splitlines()
    cells = [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in lines]
    assert ["subject", "3-way 1-shot", "3-way 5-shot", "parameters"] in cells
    assert ["tgr meta-model", "51.2 ± 1.5", "70.0 ± 0.3", "29,376"] in cells
    assert ["raw pixels", "30.0 ± 1.5", "", "0"] in cells
    text = " ".join(" ".join(lines).split())
    assert "nearest-mean, batch norm running, 4 episodes of noise, seed 0" in text
    assert "accuracy in percent ± half-width of the 95 % interval over episodes" in text
    assert "transductive" not in text
    assert "(transductive)" in " ".join(plain_table([result(transductive=True)]).split())


def test_every_setting_of_a_table_is_said_once() -> None:
    text = " ".join(plain_table([result(), result(shots=5), result(head="fine-tune")], width=200).split())
    assert text.count("nearest-mean, batch norm") == text.count("fine-tune, batch norm") == 1


def test_brackets_in_a_name_are_text() -> None:
    text = plain_table([result(subject="[bold]x[/nonsense]", image_set="[red]")], width=200)
    assert "[bold]x[/nonsense]" in text
    assert "of [red], seed" in " ".join(text.split())
