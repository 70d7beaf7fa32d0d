"""Runs that select their models by labelled images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_helpers import OPTIONS, SIDE, build, coloured_images, content

from metazoo.cli import main
from metazoo.cli.feature_source import open_source
from metazoo.errors import RunError, UsageError
from metazoo.evaluate import find_contamination
from metazoo.learn.selecting_learner import SelectingLearner
from metazoo.pipeline import learning_stage
from metazoo.pipeline.layout import SELECTION, SELECTION_DATA
from metazoo.runs.record import Run
from metazoo.runs.train import train
from metazoo.storage.run_folder import RunFolder
from metazoo.zoo import Zoo

SELECTING: dict[str, Any] = {"ways": 3, "shots": 2, "queries": 3, "episodes": 3, "steps_per_draw": 2}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return build(tmp_path_factory.mktemp("selection") / "zoo")


def written(path: Path, classes: int = 6) -> str:
    """A pack of coloured images, of whose classes the models of the zoo know some."""
    images = coloured_images(classes, SIDE + 4)
    pixels = images.images.permute(0, 2, 3, 1).contiguous().numpy()
    np.savez(path, images=pixels, labels=images.labels.numpy(), class_names=np.array(images.class_names))
    return str(path)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("pack") / "validation.npz")


def learned(zoo: Zoo, out: Path, validation: str | None, selection: dict[str, Any] | None = None, **more: Any) -> Run:
    options = {**OPTIONS, "selection": {**SELECTING, **(selection or {}), "validation": validation}, **more}
    return train(zoo, out=out, config=options, workers=1, resume=True)


@pytest.fixture(scope="module")
def run(zoo: Zoo, pack: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return learned(zoo, tmp_path_factory.mktemp("run") / "run", pack)


def test_a_run_records_whom_it_has_selected_and_by_which_images(zoo: Zoo, run: Run, pack: str) -> None:
    record = RunFolder(run.path).read_json(SELECTION)
    assert [row["model"] for row in record["models"]] == [contract.name for contract in zoo]
    assert sum(row["probability"] for row in record["models"]) == pytest.approx(1, abs=1e-5)
    assert len({row["preference"] for row in record["models"]}) > 1
    data = record["validation"]
    assert {key: data[key] for key in ("source", "images", "classes")} == {
        "source": pack, "images": 48, "classes": [f"colour {index}" for index in range(6)],
    }  # fmt: skip
    assert RunFolder(run.path).read_json(SELECTION_DATA) == {k: v for k, v in data.items() if k != "accuracy"}
    (row,) = (row for row in run.metrics() if row["stage"] == "learning")
    assert row["validation_accuracy"] == pytest.approx(data["accuracy"], abs=1e-3)
    assert 1 < row["models_in_use"] < 4
    assert not list(run.path.rglob("*validation*"))


def test_the_card_says_that_the_run_is_not_free_of_data(zoo: Zoo, run: Run, tmp_path: Path) -> None:
    card = (run.path / "meta-model" / "README.md").read_text().replace("\\", "")
    record = RunFolder(run.path).read_json(SELECTION)
    assert "**not data-free**" in card
    assert "no training images" not in card
    assert f"48 labelled images of 6 classes, SHA-256 {record['validation']['sha256']}" in card
    assert "data-free\n" not in card.split("---")[1]
    assert "nothing of this run has seen a real image" not in card
    shares = [f"| {100 * row['probability']:.0f} % |" for row in record["models"]]
    assert all(share in card for share in shares)
    plain = learned(zoo, tmp_path / "plain", None)
    card = (plain.path / "meta-model" / "README.md").read_text()
    assert "not data-free" not in card
    assert "data-free\n" in card.split("---")[1]
    assert "nothing of this run has seen a real image" in card
    assert not any(RunFolder(plain.path).has(name) for name in (SELECTION, SELECTION_DATA))


def test_evaluation_knows_the_classes_that_models_were_selected_by(
    run: Run, pack: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = open_source(str(run.path))
    assert source.selection_classes == run.selection_classes == tuple(f"colour {i}" for i in range(6))
    found = find_contamination(["Colour 5", "colour 6"], {"model": ["colour 6"]}, source.selection_classes)
    assert (found.models, found.known, found.selected_by) == (1, {"colour 6": ("model",)}, ("Colour 5",))
    assert found.seen == {"Colour 5", "colour 6"}
    few = ["--ways", "2", "--shots", "1", "--queries", "3", "--episodes", "2", "--data", pack]
    assert main(["evaluate", str(run.path), *few]) == 0
    assert "6 of 6 classes" in capsys.readouterr().err
    assert main(["evaluate", str(run.path), *few, "--exclude-known"]) != 0


@pytest.mark.parametrize(("trust", "stopped_at"), [("keep", 3), ("weigh", 4), ("drop", 5)])
def test_a_run_that_was_stopped_ends_bit_equal(
    zoo: Zoo, pack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: str, stopped_at: int
) -> None:
    def stopping(learner: SelectingLearner) -> object:
        if learner.steps_done == stopped_at:
            raise KeyboardInterrupt
        return real(learner)

    real, judged = SelectingLearner.step, {"trust": {"mode": trust, "threshold": 1.0}}
    whole = learned(zoo, tmp_path / "whole", pack, **judged)
    monkeypatch.setattr(learning_stage, "_STEPS_BETWEEN_CHECKPOINTS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(SelectingLearner, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            learned(zoo, tmp_path / "stopped", pack, **judged)
    stopped = learned(zoo, tmp_path / "stopped", pack, **judged)
    assert content(stopped.path) == content(whole.path)
    models = RunFolder(whole.path).read_json(SELECTION)["models"]
    assert len(models) < len(zoo) if trust == "drop" else len(models) == len(zoo)


def test_what_is_learned_of_the_models_changes_the_meta_model(zoo: Zoo, pack: str, run: Run, tmp_path: Path) -> None:
    other = learned(zoo, tmp_path, pack, {"learning_rate": 10.0})
    one, two = (found.meta_model.networks[0].network.state_dict() for found in (run, other))
    assert not all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize(
    ("selection", "problem"),
    [
        ({"ways": 7}, r"validation has 6 classes, too few for 7-way episodes; ask for fewer ways"),
        ({"queries": 7}, r"class 'colour 0' of validation has 8 images, 9 are needed"),
        ({"share": 1.0}, r"selection\.share: Input should be less than 1"),
        ({"ways": 1}, r"selection\.ways: Input should be greater than or equal to 2"),
        ({"rewards": 1}, r"unknown option selection\.'?rewards'?"),
    ],
)
def test_episodes_that_the_images_do_not_give_are_refused(
    zoo: Zoo, pack: str, tmp_path: Path, selection: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        learned(zoo, tmp_path / "run", pack, selection)
    assert not (tmp_path / "run" / "bank").exists()  # said before the work


def test_a_set_that_is_not_there_or_another_one_is_refused(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.npz does not exist; give an \.npz pack, an image folder"):
        learned(zoo, tmp_path / "one", str(tmp_path / "nowhere.npz"))
    own = written(tmp_path / "own.npz")
    with monkeypatch.context() as patch:
        patch.setattr(SelectingLearner, "step", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            learned(zoo, tmp_path / "two", own)
    written(tmp_path / "own.npz", classes=5)
    with pytest.raises(RunError, match=r"the images of selection\.validation, .*own\.npz, have changed since"):
        learned(zoo, tmp_path / "two", own)
    written(tmp_path / "own.npz")
    assert learned(zoo, tmp_path / "two", own).finished
    assert json.loads((tmp_path / "two" / SELECTION).read_text())["format_version"] == 1
