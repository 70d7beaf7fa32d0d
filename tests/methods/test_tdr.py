"""The method `tdr` as a whole, on a tiny zoo of unlike models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from error_checks import raises
from training_helpers import TDR_OPTIONS, build, coloured_images, content

import metazoo
from metazoo.bank import Bank
from metazoo.data import ImageSet, UnlabelledImages
from metazoo.errors import Interrupted, RunError, UsageError
from metazoo.evaluate import evaluate
from metazoo.evaluate.subjects import Subject
from metazoo.learn.interpolated_learning import InterpolationConfig, InterpolationLearner
from metazoo.pipeline.layout import BANK, CHOICE
from metazoo.pipeline.reward_episodes import recovered_episodes, split_bank, validation_episodes
from metazoo.runs.config import merged, resolve_config
from metazoo.runs.plan import plan_run
from metazoo.runs.record import Run
from metazoo.runs.train import train
from metazoo.study.study_file import study_from
from metazoo.zoo import Zoo


def save_npz(path: Path, images: ImageSet) -> None:
    pixels, names = images.images.permute(0, 2, 3, 1).numpy(), np.array(images.class_names)
    np.savez(path, images=pixels, labels=images.labels.numpy(), class_names=names)


GENERATOR = {"recovery": {"iterations": 2, "latent": 8, "width": 4}}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return build(tmp_path_factory.mktemp("zoo") / "zoo")


@pytest.fixture(scope="module")
def whole(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Uninterrupted run, which tests must not change."""
    return train(zoo, out=tmp_path_factory.mktemp("whole") / "run", config=TDR_OPTIONS, workers=1)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pack") / "validation.npz"
    save_npz(path, coloured_images(4, 20))
    return path


def of_labelled(pack: Path, **changes: Any) -> dict[str, Any]:
    return merged(TDR_OPTIONS, {"preset": "published", "validation": str(pack), **GENERATOR, **changes})


def test_a_run_learns_and_records_which_models_it_chose(zoo: Zoo, whole: Run) -> None:
    rows = [row for row in whole.metrics() if row["stage"] == "learning"]
    assert rows[-1]["step"] == 7
    record = whole.record(CHOICE)
    assert (record["strategy"], record["reward"]) == ("policy", "recovered images")
    assert [row["model"] for row in record["models"]] == [contract.name for contract in zoo]
    assert sum(row["probability"] for row in record["models"]) == pytest.approx(1)
    assert sum(row["visits"] for row in record["models"]) == 2 * rows[-1]["refills"]
    state = whole.meta_model.networks[0].state_dict()
    assert all(bool(value.isfinite().all()) for value in state.values())
    assert {len(Bank.open(whole.path / BANK).images_of(contract.name)[1]) for contract in zoo} == {12, 18, 24}
    card = whole.meta_model.card
    assert "- data-free" in card
    assert "labelled validation images" not in card


def test_an_interrupted_run_ends_as_a_whole_one(
    zoo: Zoo, whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = InterpolationLearner.step

    def stop_after_four(self: InterpolationLearner) -> object:
        if self.steps_done == 4:
            raise Interrupted("for the test")
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(InterpolationLearner, "step", stop_after_four)
        patch.setattr("metazoo.pipeline.interpolation_stage._SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        with pytest.raises(Interrupted):
            train(zoo, out=tmp_path / "again", config=TDR_OPTIONS, workers=1)
    again = train(zoo, out=tmp_path / "again", workers=2, resume=True)
    assert content(whole.path) == content(again.path)


def test_the_published_reward_needs_labelled_images_and_every_record_says_so(
    zoo: Zoo, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with raises(UsageError, subject="validation", problem="tdr needs labelled images", remedy="name an image set"):
        train(zoo, "tdr", preset="published", out=tmp_path / "none", workers=1)
    assert not (tmp_path / "none").exists()
    monkeypatch.chdir(pack.parent)
    run = train(zoo, out=tmp_path / "run", config=of_labelled(Path(pack.name)), workers=1)
    assert run.config.as_record()["validation"] == str(pack)
    assert run.description["inputs"] == {"validation images": coloured_images(4, 20).sha256}
    assert run.record(CHOICE)["reward"] == "labelled images"
    assert not (run.path / BANK).exists()
    model = run.meta_model
    for text in (repr(run), repr(model), model.card, repr(metazoo.MetaModel.load(run.path / "meta-model"))):
        assert "uses labelled validation images" in text
    assert "- data-free" not in model.card
    subject = Subject.of("it", "tdr", model.module)
    subject = type(subject)(**{**vars(subject), "validated": model.validated})
    results = evaluate([subject], coloured_images(6, 16), ways=2, shots=(1,), queries=2, episodes=3)
    assert results[0].validated
    assert run.count_validated(UnlabelledImages(pack)) == len(coloured_images(4, 20))
    assert run.count_validated(UnlabelledImages(coloured_images(6, 16))) == 0
    model.save(tmp_path / "copy")
    assert metazoo.MetaModel.load(tmp_path / "copy").validated


def test_a_run_is_not_resumed_with_other_labelled_images(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "images.npz"
    save_npz(path, coloured_images(4, 20))

    def stop(self: InterpolationLearner) -> object:
        raise Interrupted("for the test")

    with monkeypatch.context() as patch:
        patch.setattr(InterpolationLearner, "step", stop)
        with pytest.raises(Interrupted):
            train(zoo, out=tmp_path / "run", config=of_labelled(path), workers=1)
    path.unlink()
    save_npz(path, coloured_images(5, 20))
    with raises(RunError, subject="run", problem="validation images", remedy="restore"):
        train(zoo, out=tmp_path / "run", workers=1, resume=True)


def test_the_reward_of_recovered_images_never_reads_the_labelled_ones(
    zoo: Zoo, whole: Run, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metazoo.methods.tdr.load_images_at", pytest.fail)
    with raises(UsageError, subject="validation", problem="reward recovered", remedy="reward"):
        train(zoo, out=tmp_path / "refused", config={**TDR_OPTIONS, "validation": str(pack)}, workers=1)
    run = train(zoo, out=tmp_path / "run", config=TDR_OPTIONS, workers=1)
    assert "inputs" not in run.description
    assert run.count_validated(UnlabelledImages(pack)) is None
    assert not run.meta_model.validated
    pairs = zip(*(own.meta_model.networks[0].state_dict().values() for own in (run, whole)), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(
    "changes",
    [
        {"reward": "recovered", "validation": None},
        {"reward": "recovered", "validation": None, "refill": {"reinversion": False}},
        {"class_map": None},
        {"choice": {"strategy": "uniform"}},
    ],
)
def test_every_combination_of_options_learns(zoo: Zoo, pack: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    run = train(zoo, out=tmp_path / "run", config=of_labelled(pack, **changes), workers=1)
    assert run.finished
    assert run.meta_model.validated == (changes.get("reward") != "recovered")
    assert (run.path / BANK).exists() == ("reward" in changes or "class_map" in changes)


def test_reward_episodes_are_of_models_that_were_not_chosen_and_of_images_kept_from_learning(
    zoo: Zoo, whole: Run
) -> None:
    config = InterpolationConfig(shots=1, queries=2, reward_episodes=3)
    own, kept = split_bank(Bank.open(whole.path / BANK), zoo, 16, 3)
    for contract, learned, rewarded in zip(zoo, own, kept, strict=True):
        everything = Bank.open(whole.path / BANK).images_of(contract.name)[1]
        assert len(learned[1]) + len(rewarded[1]) == len(everything)
        assert torch.bincount(rewarded[1]).tolist() == [3] * contract.spec.classes
    # Images that are the number of their model all over.
    marked = [(torch.full_like(images, 10 * model), labels) for model, (images, labels) in enumerate(kept)]
    draw = recovered_episodes(marked, 2, config, 0, "cpu")
    for step in range(10):
        found = draw(step, (1, 3))
        assert sorted(part.subject for part in found) == [0, 2]
        for part in found:
            assert {*(part.episode.query_images * 255).round().unique().tolist()} == {10.0 * part.subject}
            assert len(part.episode.support_images) == 2
    assert {part.subject for part in draw(0, (0, 1, 2, 3))} <= {0, 1, 2, 3}  # none is left: all count
    again = [part.episode.query_images for part in recovered_episodes(kept, 2, config, 0, "cpu")(4, (1, 3))]
    same = [part.episode.query_images for part in recovered_episodes(kept, 2, config, 0, "cpu")(4, (1, 3))]
    assert all(torch.equal(one, other) for one, other in zip(again, same, strict=True))


def test_validation_episodes_have_the_labels_of_their_images() -> None:
    images = coloured_images(5, 16)
    draw = validation_episodes(images, 3, InterpolationConfig(shots=2, queries=3), 0, 16, "cpu")
    for step in range(3):
        for part in draw(step, ()):
            episode = part.episode
            assert (len(episode.support_images), len(episode.query_images)) == (6, 9)
            flat = images.images.flatten(1).float() / 255
            for shown, labels in (
                (episode.support_images, episode.support_labels),
                (episode.query_images, episode.query_labels),
            ):
                rows = [int((flat - image.flatten()).abs().sum(1).argmin()) for image in shown]
                classes = images.labels[rows]
                pairs = {(int(own), int(label)) for own, label in zip(classes, labels, strict=True)}
                assert len(pairs) == 3


@pytest.mark.parametrize(
    ("changes", "subject", "problem"),
    [
        ({"meta_model": {"ways": 50}}, "meta_model.ways", "50"),
        ({"refill": {"images_per_class": 2}}, "refill.images_per_class", "3 images"),
        ({"budget": {"images_per_class": 5}}, "budget.images_per_class", "6 are needed"),
        ({"reward": "validation", "validation": "glyphs:nowhere"}, "nowhere", ""),
        ({"reward": "validation", "validation": "no/such.npz"}, "such.npz", "does not exist"),
    ],
)
def test_impossible_options_are_refused_before_any_work(
    zoo: Zoo, tmp_path: Path, changes: dict[str, Any], subject: str, problem: str
) -> None:
    with raises(UsageError, problem=problem) as caught:
        train(zoo, out=tmp_path / "run", config=merged(TDR_OPTIONS, changes), workers=1)
    assert subject in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_labelled_images_with_too_few_classes_are_refused_before_any_work(zoo: Zoo, pack: Path, tmp_path: Path) -> None:
    with raises(UsageError, problem="4 classes"):
        train(zoo, out=tmp_path / "run", config=of_labelled(pack, meta_model={"ways": 5}), workers=1)
    assert not (tmp_path / "run").exists()


def test_a_plan_has_the_inversions_of_refills_only_where_there_are_any(zoo: Zoo, pack: Path) -> None:
    units = {}
    for name, config in (("once", TDR_OPTIONS), ("again", of_labelled(pack))):
        stages = resolve_config(config).method.plan(zoo, resolve_config(config).options)
        units[name] = {(stage.stage, stage.unit): stage.units for stage in stages}
    assert ("learning", "refill from a model") not in units["once"]
    assert units["again"].keys() == {("learning", "refill from a model"), ("learning", "step")}
    assert units["again"]["learning", "refill from a model"] == 2  # one refill of two models in 25 steps
    assert plan_run(zoo, config=TDR_OPTIONS).total_seconds > 0


def test_a_study_makes_the_path_of_labelled_images_absolute(tmp_path: Path) -> None:
    def row(validation: str) -> str:
        rows = [{"name": "tdr", "method": "tdr", "set": {"reward": "validation", "validation": validation}}]
        study = study_from(
            {"zoos": {"z": {"path": "zoo"}}, "data": "glyphs:lao", "rows": rows, "sources": {"ours": "x/y.npz"}},
            folder=tmp_path,
        )
        return str(study.rows[0].set["validation"])

    assert row("images.npz") == str(tmp_path / "images.npz")
    assert row("ours") == str(tmp_path / "x" / "y.npz")
    assert row("glyphs:lao") == "glyphs:lao"
    assert row("cifar-fs/val:data") == f"cifar-fs/val:{tmp_path / 'data'}"


def test_the_overview_names_the_preset_that_needs_labelled_images() -> None:
    overview = next(own for own in metazoo.list_methods() if own.name == "tdr")
    assert overview.labelled_validation == ("published",)
    assert overview.cells()["labelled validation"] == "needs (published)"
    json.dumps(overview.cells())
