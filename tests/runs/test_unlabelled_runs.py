"""Runs that learn from unlabelled images: exact resumption, workers, records, privacy and refusals."""

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from error_checks import raises
from image_folders import write_images
from rich.console import Console
from training_helpers import OPTIONS, coloured_images, content, untrained

from metazoo.adapt import MetaModel
from metazoo.cli.feature_source import open_source
from metazoo.data import ImageSet, UnlabelledImages
from metazoo.errors import RunError, UsageError
from metazoo.evaluate import evaluate, find_contamination, results_table
from metazoo.learn.group_learning import GroupLearner
from metazoo.pipeline import unlabelled_stage
from metazoo.report import write_report
from metazoo.runs.plan import plan_run
from metazoo.runs.record import Run
from metazoo.runs.train import train
from metazoo.storage.manifest import Manifest
from metazoo.zoo import Zoo

METHOD_OPTIONS = {name: own for name, own in OPTIONS.items() if name not in ("probe", "grouping")}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """The images of the last of three models are to be discarded."""
    return untrained(tmp_path_factory.mktemp("untrained") / "zoo")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("photographs") / "all", 3, 8)


def learned(zoo: Zoo, out: Path, source: Any = None, method: str = "zoo-distillation", **values: Any) -> Run:
    section = {name: values.pop(name) for name in ("share", "weighting", "images") if name in values}
    options = {**(OPTIONS if method == "tgr" else METHOD_OPTIONS), "unlabelled": section}
    return train(zoo, method, out=out, config=options, unlabelled=source, **{"workers": 1, **values})


@pytest.fixture(scope="module")
def alone(zoo: Zoo, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run of `tgr` on unlabelled images alone, which tests must not change."""
    return learned(zoo, tmp_path_factory.mktemp("alone") / "run", folder, "tgr", weighting="confidence", images=20)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_stopped_run_needs_the_images_no_more_and_ends_bit_equal_for_any_workers(
    zoo: Zoo, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    whole = learned(zoo, tmp_path / "whole", folder, share=share, weighting="confidence")
    images = Path(shutil.copytree(folder, tmp_path / "images"))
    steps = 0

    def stopping(learner: GroupLearner) -> Any:
        nonlocal steps
        steps += 1
        if steps > 3:
            raise KeyboardInterrupt
        return step(learner)

    step = GroupLearner.step
    with monkeypatch.context() as patch:
        patch.setattr(GroupLearner, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            learned(zoo, tmp_path / "run", images, share=share, weighting="confidence")
    shutil.rmtree(images)
    run = learned(zoo, tmp_path / "run", resume=True, share=share, weighting="confidence", workers=2)
    ours, other = content(run.path), content(whole.path)
    differing = {name for name in ours.keys() | other.keys() if ours.get(name) != other.get(name)}
    assert differing <= {"run.json", "manifest.json"}  # the path of the images
    assert ours["meta-model/model.safetensors"] == other["meta-model/model.safetensors"]


def test_an_interrupted_copy_is_made_again_from_the_images_as_they_are(
    zoo: Zoo, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = Path(shutil.copytree(folder, tmp_path / "images"))
    monkeypatch.setattr(unlabelled_stage, "_IMAGES_OF_PART", 10)
    parts = []
    read = UnlabelledImages.read

    def stopping(source: UnlabelledImages, indices: torch.Tensor, side: int) -> Any:
        parts.append(indices)
        if len(parts) > 2:
            raise KeyboardInterrupt
        return read(source, indices, side)

    with monkeypatch.context() as patch:
        patch.setattr(UnlabelledImages, "read", stopping)
        with pytest.raises(KeyboardInterrupt):
            learned(zoo, tmp_path / "run", images)
    assert len(list((tmp_path / "run" / "unlabelled").rglob("*.safetensors"))) == 2
    with raises(RunError, problem="not yet copied", remedy=str(images)):
        learned(zoo, tmp_path / "run", resume=True)
    # What it had copied is forgotten, so it is as if the run began now.
    (images / "colour-0" / "0.png").unlink()
    (images / "colour-0" / "1.png").write_bytes((images / "colour-1" / "3.png").read_bytes())
    run = learned(zoo, tmp_path / "run", images, resume=True)
    assert run.description["unlabelled"]["images"] == 23
    whole = learned(zoo, tmp_path / "whole", images)
    assert content(run.path) == content(whole.path)


def weights_of(zoo: Zoo, out: Path, images: Any) -> str:
    return content(learned(zoo, out, images).path)["meta-model/model.safetensors"]


def test_labels_have_no_influence_but_images_do(zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = coloured_images(3, 16)
    first = weights_of(zoo, tmp_path / "first", images)
    assert "labels of the unlabelled images are ignored" in capsys.readouterr().err
    relabelled = ImageSet(images.images, images.labels.flip(0), images.class_names)
    others = ImageSet(255 - images.images, images.labels, images.class_names)
    equal = [weights_of(zoo, tmp_path / str(number), own) == first for number, own in enumerate([relabelled, others])]
    assert equal == [True, False]


def test_a_run_keeps_hashes_and_no_image(alone: Run, folder: Path) -> None:
    record = alone.record("unlabelled.json")
    names = {path.relative_to(alone.path).as_posix() for path in alone.path.rglob("*") if path.is_file()}
    assert not [name for name in names if name.startswith(("unlabelled/", "bank", "recovered"))]
    assert not [name for name in names if name.startswith("unlabelled-predictions")]
    assert (record["images"], len(set(record["sha256"])), record["side"]) == (20, 20, 16)
    everything = UnlabelledImages(folder)
    assert set(record["sha256"]) < set(everything.read(torch.arange(24), 8)[1])
    Manifest(alone.path).verify()
    assert sorted(path.name for path in (alone.path / "meta-model").iterdir()) == [
        "README.md", "bundle.json", "model.safetensors",
    ]  # fmt: skip


def test_a_label_free_run_says_so_everywhere(alone: Run, zoo: Zoo, tmp_path: Path) -> None:
    words = "label-free (20 unlabelled images)"
    meta_model = alone.meta_model
    assert meta_model.unlabelled == 20
    for text in (repr(alone), repr(meta_model)):
        assert words in text
    card = meta_model.card.replace("\\", "")
    assert words in card
    assert "- label-free\n" in card
    assert "- data-free" not in card
    assert "no training images" not in card
    assert "No image was recovered. The 20 unlabelled images are shown nowhere" in card
    page = write_report(alone, tmp_path / "page.html", zoo=zoo).read_text()
    assert words in page
    assert "no training images" not in page
    assert "data:image/png" not in page
    (result,) = evaluate([open_source(str(alone.path)).subject()], coloured_images(3, 16), ways=2, shots=[1],
                         queries=1, episodes=2)  # fmt: skip
    assert result.unlabelled == 20
    console = Console(width=500, file=io.StringIO(), record=True)
    console.print(results_table([result]))
    assert f"tgr meta-model: {words}, not data-free" in " ".join(console.export_text().split())
    assert MetaModel.load(alone.path / "meta-model").unlabelled == 20


def test_a_data_free_run_is_as_before(zoo: Zoo, tmp_path: Path) -> None:
    run = learned(zoo, tmp_path / "run")
    assert "unlabelled" not in json.loads((run.path / "meta-model" / "bundle.json").read_text())
    assert "unlabelled" not in run.description
    assert "- data-free\n" in run.meta_model.card
    assert "unlabelled images" not in run.meta_model.card
    assert run.meta_model.unlabelled == 0


def test_evaluated_images_among_the_unlabelled_ones_are_counted(
    alone: Run, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = open_source(str(alone.path))
    assert source.count_unlabelled(UnlabelledImages(folder)) == 20
    assert source.count_unlabelled(UnlabelledImages(write_images(tmp_path / "new", 2, 3, first=7))) == 0
    found = find_contamination(["a", "b"], {"m": ["c"]}).model_copy(update={"unlabelled": 20})
    (warning,) = found.warnings("photographs")
    assert "20 images of photographs" in warning
    assert found.model_copy(update={"unlabelled": 0}).warnings("photographs") == []
    assert open_source(str(alone.path / "meta-model")).count_unlabelled(UnlabelledImages(folder)) is None
    assert "give its run" in capsys.readouterr().err


def test_beside_recovered_images_all_stages_remain(zoo: Zoo, folder: Path, tmp_path: Path) -> None:
    run = learned(zoo, tmp_path / "run", folder, share=0.3)
    assert {"recovery.json", "taskspace/trust.json", "unlabelled.json"} <= {*content(run.path)}
    card = run.meta_model.card
    assert "The images of 1 model were deleted" in card
    assert "The 24 unlabelled images are shown nowhere" in card
    assert not list((run.path / "bank" / "model-2").glob("*.safetensors"))


def test_every_domain_learns_from_them_too(folder: Path, tmp_path: Path) -> None:
    zoo = untrained(tmp_path / "zoo", ("ships", "ships", "birds", "birds"))
    options = {**METHOD_OPTIONS, "domains": {"alike": 1e6, "images": 8}}  # never merged
    values = {"out": tmp_path / "run", "unlabelled": folder, "workers": 1}
    run = train(zoo, "zoo-distillation", config={**options, "unlabelled": {"share": 0.5}}, **values)
    assert len(run.meta_model.networks) >= 2
    values["out"] = tmp_path / "alone"
    assert len(train(zoo, "zoo-distillation", config=options, **values).meta_model.networks) == 1


def test_a_plan_counts_the_images_and_leaves_out_what_is_skipped(zoo: Zoo, folder: Path) -> None:
    def planned(method: str, **section: Any) -> dict[str, Any]:
        options = {**(OPTIONS if method == "tgr" else METHOD_OPTIONS), "unlabelled": section}
        plan = plan_run(zoo, method, config=options, workers=1, unlabelled=folder)
        assert plan.is_complete
        return {name: dict(stage.units) for name, stage in plan.stages.items()}

    found = planned("tgr", images=20)
    assert [*found] == ["unlabelled images", "task space", "learning"]
    assert found["unlabelled images"] == {"image": 20, "label": 60}
    found = planned("zoo-distillation", share=0.5)
    assert [*found] == ["unlabelled images", "recovery", "trust", "learning"]
    assert found["unlabelled images"] == {"image": 24}


def test_what_cannot_be_is_refused_before_any_file_is_written(zoo: Zoo, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with raises(UsageError, subject="unlabelled images", problem="tgr", remedy="default"):
        train(zoo, "tgr", preset="published", out=out, unlabelled=folder)
    with raises(UsageError, subject="trust.mode", remedy="keep"):
        train(zoo, out=out, config={**OPTIONS, "trust": {"mode": "drop"}}, unlabelled=folder)
    with raises(UsageError, subject="absent"):
        learned(zoo, out, folder / "absent")
    other = learned(zoo, tmp_path / "other")
    with raises(UsageError, subject="reuse_images", remedy="unlabelled.share"):
        learned(zoo, out, folder, reuse_images=other)
    assert not out.exists()


def test_a_resumed_run_takes_no_other_images(alone: Run, zoo: Zoo, folder: Path, tmp_path: Path) -> None:
    before = content(alone.path)
    for other in (tmp_path, coloured_images(2, 16)):
        with raises(RunError, problem="another choice of unlabelled images"):
            train(zoo, "tgr", out=alone.path, unlabelled=other, resume=True)
    assert train(zoo, "tgr", out=alone.path, unlabelled=folder, resume=True).finished
    assert content(alone.path) == before


if sys.platform != "win32":
    from disturbed_runs import disturbed

    CHAINS = {
        "some moments": (
            "kill rename unlabelled/images/*/*.safetensors",
            "full create unlabelled.json",
            "kill rename unlabelled-predictions.safetensors",
            "kill call step #3",
            "kill unlink unlabelled-predictions.safetensors",
        ),
        "more moments": (
            "kill rename unlabelled/images/bank.json",
            "kill rename unlabelled.json",
            "kill rename unlabelled/labelled/bank.json",
            "full sync unlabelled-predictions.safetensors",
            "kill rename unlabelled/labelled/*/generation-0000.json #2",
        ),
    }

    @pytest.mark.parametrize("name", ["some moments", pytest.param("more moments", marks=pytest.mark.torture)])
    def test_a_disturbed_run_ends_bit_equal(zoo: Zoo, folder: Path, tmp_path: Path, name: str) -> None:
        options = {**OPTIONS, "unlabelled": {"weighting": "confidence"}}
        outcomes = disturbed(zoo.folder, options, tmp_path, {name: CHAINS[name]}, unlabelled=folder)
        for name, (*disturbances, last) in outcomes.items():
            for words, outcome in zip(CHAINS[name], disturbances, strict=True):
                assert outcome.unsound == "", words
                assert outcome.code == (-9 if words.startswith("kill") else 1), (words, outcome.error)
            assert (last.code, last.temporaries) == (0, []), last.error
            assert content(tmp_path / name) == content(tmp_path / "whole")
