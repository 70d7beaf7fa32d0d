"""The preset `published` as a whole, on a tiny zoo of unlike models."""

from pathlib import Path
from typing import Any

import pytest
import torch
from error_checks import raises
from training_helpers import PUBLISHED_OPTIONS, build, content

from metazoo.bank import Bank
from metazoo.errors import Interrupted, RunError, UsageError
from metazoo.learn.replay_learning import ReplayLearner
from metazoo.pipeline.layout import BANK, CLASSES, CONFLICTS
from metazoo.runs.config import merged, resolve_config
from metazoo.runs.record import Run
from metazoo.runs.train import train
from metazoo.storage.run_folder import RunFolder
from metazoo.zoo import Zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return build(tmp_path_factory.mktemp("zoo") / "zoo")


def options(**changes: Any) -> dict[str, Any]:
    return {**PUBLISHED_OPTIONS, **changes}


@pytest.fixture(scope="module")
def whole(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Uninterrupted run, which tests must not change."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return train(zoo, "tgr", preset="published", out=out, config=options(), workers=1)


def test_a_run_learns_and_records_what_it_did(zoo: Zoo, whole: Run) -> None:
    run = whole
    rows = [row for row in run.metrics() if row["stage"] == "learning"]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(row["replay_updates"] >= 1 for row in rows)
    classifier = run.meta_model.networks[0]
    assert classifier.network.head.weight.abs().max() > 0
    assert classifier.spec.classes == 2
    bank = Bank.open(run.path / BANK)
    assert {len(bank.images_of(contract.name)[1]) for contract in zoo} == {12, 18, 24}
    names = {(name, contract.domain) for contract in zoo for name in contract.class_names}
    assert len(RunFolder(run.path).read_json(CLASSES)["names"]) == len(names)
    assert "preset published" in (run.path / "meta-model" / "README.md").read_text()


def test_an_interrupted_run_ends_as_a_whole_one(
    zoo: Zoo, whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ReplayLearner.step

    def stop_after_two(self: ReplayLearner) -> object:
        if self.steps_done == 2:
            raise Interrupted("for the test")
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(ReplayLearner, "step", stop_after_two)
        with pytest.raises(Interrupted):
            train(zoo, "tgr", preset="published", out=tmp_path / "again", config=options(), workers=1)
    again = train(zoo, "tgr", preset="published", out=tmp_path / "again", config=options(), workers=2, resume=True)
    assert content(whole.path / "meta-model").keys() == content(again.path / "meta-model").keys()
    states = (run.meta_model.networks[0].state_dict() for run in (whole, again))
    first, second = states
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_without_reinversion_the_bank_is_replayed(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metazoo.pipeline.visits.recover_requests", pytest.fail)
    changed = options(visits={"teachers": 2, "images_per_class": 5, "reinversion": False, "replacement": False})
    run = train(zoo, "tgr", preset="published", out=tmp_path / "run", config=changed, workers=1)
    assert run.finished


def test_images_recovered_in_pixels_are_those_of_the_default(zoo: Zoo, tmp_path: Path) -> None:
    pixels = {"iterations": 3, "guide_all": True}
    budget, visits = {**PUBLISHED_OPTIONS["budget"], "bucket_pixels": 10_000}, {"teachers": 2, "reinversion": False}
    given = options(images="pixels", pixels=pixels, budget=budget, visits={**visits, "images_per_class": 5})
    run = train(zoo, "tgr", preset="published", out=tmp_path / "run", config=given, workers=1)
    other = {"recovery": pixels, "budget": budget, "learning": {"steps": 1, "views": 3}}
    again = train(zoo, "zoo-distillation", out=tmp_path / "other", config=other, reuse_images=run)
    for contract in zoo:
        images = [Bank.open(own.path / BANK).images_of(contract.name)[0] for own in (run, again)]
        assert torch.equal(*images)
    with raises(RunError, subject=str(run.path), problem="recovery"):
        wrong = {**other, "recovery": {"iterations": 2, "guide_all": True}}
        train(zoo, "zoo-distillation", out=tmp_path / "wrong", config=wrong, reuse_images=run)


def test_visits_can_recover_in_pixels(zoo: Zoo, tmp_path: Path) -> None:
    given = options(images="pixels", pixels={"iterations": 2})
    assert train(zoo, "tgr", preset="published", out=tmp_path / "run", config=given, workers=1).finished


def test_without_a_class_map_the_zoo_is_asked(zoo: Zoo, tmp_path: Path) -> None:
    run = train(zoo, "tgr", preset="published", out=tmp_path / "run", config=options(class_map=None), workers=1)
    record = RunFolder(run.path).read_json(CLASSES)
    assert len(record["names"]) == sum(contract.spec.classes for contract in zoo)
    owners = [contract.name for contract in zoo for _ in contract.class_names]
    pairs = RunFolder(run.path).read_json(CONFLICTS)["pairs"]
    assert all(owners[first] != owners[second] for first, second in pairs)


def test_a_wrong_class_map_is_refused_before_anything_is_recovered(zoo: Zoo, tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("classes: {cat: {nobody: cat}}")
    with pytest.raises(UsageError, match="'nobody'"):
        train(zoo, preset="published", out=tmp_path / "run", config=options(class_map=str(path)), workers=1)
    assert not (tmp_path / "run" / BANK).exists()


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ({"meta_model": {"ways": 50}}, r"meta_model\.ways: .*\b50\b"),
        ({"learning": {"replay": {"queries": 100}}}, r"learning\.replay: .*\b101\b.*\b100\b"),
        ({"probe": {"architecture": "imagenet-resnet34", "weights": "nowhere.pth"}}, r"nowhere\.pth"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_recovered(
    changes: dict[str, Any], values: str, zoo: Zoo, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=values):
        train(zoo, preset="published", out=tmp_path / "run", config=merged(PUBLISHED_OPTIONS, changes), workers=1)
    assert not (tmp_path / "run" / BANK).exists()


def test_without_reinversion_a_visit_is_of_classes_that_the_bank_holds(zoo: Zoo, tmp_path: Path) -> None:
    changes = {"budget": {"classes_per_teacher": 2}, "visits": {"reinversion": False}, "meta_model": {"ways": 3}}
    run = train(zoo, preset="published", out=tmp_path / "run", config=merged(PUBLISHED_OPTIONS, changes), workers=1)
    assert run.finished


def test_options_of_another_preset_are_refused() -> None:
    with pytest.raises(UsageError, match=r"learning\.steps"):
        resolve_config({"learning": {"steps": 3}}, preset="published")
    with pytest.raises(UsageError, match="visits"):
        resolve_config({"visits": {}})
    with pytest.raises(UsageError, match="imagenet-resnet34"):
        resolve_config({"probe": {"architecture": "imagenet-resnet34"}}, preset="published")


@pytest.mark.parametrize(
    "architecture", ["timm:test_vit", pytest.param("torchvision:shufflenet_v2_x0_5", marks=pytest.mark.slow)]
)
def test_any_network_learns_by_second_order_maml(zoo: Zoo, tmp_path: Path, architecture: str) -> None:
    changes: dict[str, Any] = {"meta_model": {"architecture": architecture, "input_size": 32, "ways": 2}}
    changes["probe"] = PUBLISHED_OPTIONS["probe"] | {"architecture": "timm:test_efficientnet", "width": None}
    run = train(zoo, "tgr", preset="published", out=tmp_path / "run", config=options(**changes), workers=1)
    classifier = run.meta_model.networks[0]
    assert classifier.spec.architecture == architecture
    assert all(bool(tensor.isfinite().all()) for tensor in classifier.state_dict().values())
    assert classifier.network.head.weight.abs().max() > 0
