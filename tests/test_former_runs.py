"""Runs whose `config.yaml` a former version has written."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from error_checks import raises
from training_helpers import OPTIONS, PUBLISHED_OPTIONS, content, untrained

from metazoo.errors import RunError
from metazoo.learn.group_learning import GroupLearner
from metazoo.pipeline.layout import CONFIG, REPORT
from metazoo.report import write_report
from metazoo.runs.record import Run
from metazoo.runs.train import train
from metazoo.storage.run_folder import RunFolder
from metazoo.zoo import Zoo

SELECTION = {"validation": None, "ways": 5, "shots": 5, "share": 0.5, "learning_rate": 0.1}
UNUSED: dict[str, Any] = {"selection": SELECTION, "source": {"kind": "recovered", "data": None}}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return untrained(tmp_path_factory.mktemp("former") / "zoo")


def stopped(zoo: Zoo, out: Path, monkeypatch: pytest.MonkeyPatch, **sections: Any) -> None:
    """A run that was stopped while it learned, as a version with these further sections would have left it."""
    with monkeypatch.context() as patch:
        patch.setattr(GroupLearner, "step", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(zoo, out=out, config=OPTIONS, workers=1)
    folder = RunFolder(out)
    stored = yaml.safe_load(folder.read_text(CONFIG))
    folder.write_text(CONFIG, yaml.safe_dump({**stored, **sections}, sort_keys=False))


def test_a_run_that_did_not_use_removed_options_continues(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped(zoo, tmp_path / "run", monkeypatch, **UNUSED)
    assert not Run.open(tmp_path / "run").config.former
    run = train(zoo, out=tmp_path / "run", resume=True, workers=1)
    assert train(zoo, out=tmp_path / "run", resume=True, config={**OPTIONS, **UNUSED}, workers=1).finished
    assert write_report(run).read_text().count("selection") == 0
    assert "selection" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sections", "images"),
    [
        ({"selection": {**SELECTION, "validation": "photos"}}, "labelled images"),
        ({"source": {"kind": "images", "data": "photos"}}, "real images of their classes"),
    ],
)
def test_a_run_that_used_removed_options_can_be_reported_only(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sections: dict[str, Any], images: str
) -> None:
    stopped(zoo, tmp_path, monkeypatch, **sections)
    before, run = content(tmp_path), Run.open(tmp_path)
    assert run.config.as_record()[next(iter(sections))] == next(iter(sections.values()))
    report = write_report(run).read_text()
    assert images in report
    assert "no training images" not in report
    (tmp_path / REPORT).unlink()
    with raises(RunError, subject=str(tmp_path), problem=next(iter(sections)), remedy="another folder"):
        train(zoo, out=tmp_path, resume=True, workers=1)
    assert content(tmp_path) == before


def test_a_run_of_the_preset_reference_is_one_of_published(
    zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(zoo, out=tmp_path, preset="published", config=PUBLISHED_OPTIONS, workers=1)
    folder = RunFolder(tmp_path)
    folder.write_text(CONFIG, folder.read_text(CONFIG).replace("preset: published", "preset: reference"))
    capsys.readouterr()
    assert Run.open(tmp_path).config.preset == "published"
    for preset in (None, "published", "reference"):
        assert train(zoo, out=tmp_path, preset=preset, resume=True, workers=1).finished
    assert "reference" not in capsys.readouterr().err
