"""The demo, with fewer models, images and steps."""

from argparse import Namespace
from pathlib import Path

import pytest

from metazoo.cli import demo
from metazoo.evaluate import read_results
from metazoo.pipeline.layout import BANK
from metazoo.runs.config import merged
from metazoo.runs.record import Run
from metazoo.zoo import TrainingConfig


@pytest.mark.slow
def test_the_demo_shows_both_methods_on_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    less = {
        "recovery.iterations": 2,
        "budget.images_per_class": 4,
        "probe": {"width": 4, "steps": 2, "fisher_images": 4},
        "learning": {"steps": 3, "views": 40, "steps_per_views": 3, "calibration_images": 64},
        "meta_model": {"width": 4},
    }
    monkeypatch.setattr(demo, "CONFIG", merged({"grouping": {"groups": 3}}, less))
    monkeypatch.setattr(demo, "TRAINING", TrainingConfig(epochs=1))
    monkeypatch.setattr(demo, "SCRIPTS", ("latin", "cyrillic"))
    monkeypatch.setattr(demo, "FAMILIES", (("conv4", 3, 32),))
    monkeypatch.setattr(demo, "EPISODES", 2)
    monkeypatch.setattr(demo, "_IMAGES_PER_CLASS", 20)
    demo.demo(Namespace(out=str(tmp_path), seed=0, workers=1))
    output = capsys.readouterr().out
    report = (tmp_path / "report.html").read_text()
    for name in ("tgr meta-model", "zoo-distillation meta-model", "ensemble"):
        assert name in output
        assert name in report
    runs = [Run.open(tmp_path / name) for name in ("run", "zoo-distillation")]
    banks = [sorted(path.read_bytes() for path in (run.path / BANK).rglob("*.safetensors")) for run in runs]
    assert banks[0] == banks[1]
    demo.demo(Namespace(out=str(tmp_path), seed=0, workers=1))  # resumes finished runs


# Accuracies of the demo (400 episodes of three unseen scripts, seed 0), less four half-widths of their intervals.
LEAST = {"tgr meta-model": (61.0, 81.5), "zoo-distillation meta-model": (61.0, 81.5), "zoo ensemble": (76.5, 91.5)}


@pytest.mark.slow
def test_the_demo_keeps_its_accuracy_on_a_zoo_of_two_architectures_and_three_scripts(tmp_path: Path) -> None:
    demo.demo(Namespace(out=str(tmp_path), seed=0, workers=None))
    rows = [row for path in tmp_path.glob("*.json") for row in read_results(path)]
    found = {(row.subject, row.shots): row.accuracy for row in rows}
    for subject, least in LEAST.items():
        for shots, accuracy in zip((1, 5), least, strict=True):
            assert found[subject, shots] >= accuracy, (subject, shots)
    assert found["tgr meta-model", 1] > found["best single teacher", 1] + 2
