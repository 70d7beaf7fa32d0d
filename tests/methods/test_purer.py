"""PURER as a whole: images that unlike models share, made harder, stored, and protected as contracts require."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from error_checks import raises
from torch import Tensor
from torch.nn import functional
from training_helpers import OPTIONS, PURER_OPTIONS, SIDE, build, coloured_images, content, untrained

from metazoo.bank import Bank
from metazoo.errors import Interrupted, UsageError
from metazoo.execution.randomness import generator
from metazoo.learn.curriculum import CurriculumConfig, CurriculumLearner
from metazoo.learn.learners import FunctionalClassifier, Maml
from metazoo.models import ClassifierSpec, build_classifier
from metazoo.pipeline import curriculum_stage
from metazoo.pipeline.layout import BANK, CLASSES, CONFLICTS, HEALTH
from metazoo.recover import RecoveryBudget
from metazoo.recover.shared_pixels import SharedPixels, SharedPixelsConfig
from metazoo.runs.config import merged
from metazoo.runs.plan import plan_run
from metazoo.runs.record import Run
from metazoo.runs.train import train
from metazoo.storage.run_folder import RunFolder
from metazoo.zoo import TrainingConfig, Zoo, build_zoo, identify_classes

ALONE: dict[str, Any] = merged(PURER_OPTIONS, {"recovery": None, "learning": {"steps": 2}})


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Models of other architectures, sizes, channels and numbers of classes."""
    return build(tmp_path_factory.mktemp("zoo") / "zoo")


@pytest.fixture(scope="module")
def whole(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Uninterrupted run, which tests must not change."""
    return train(zoo, out=tmp_path_factory.mktemp("whole") / "run", config=PURER_OPTIONS, workers=1)


def test_a_run_learns_and_keeps_its_final_images(zoo: Zoo, whole: Run) -> None:
    rows = [row for row in whole.metrics() if row["stage"] == "learning"]
    assert rows[-1]["step"] == 6
    assert rows[-1]["harder_steps"] >= 2
    assert whole.meta_model.networks[0].spec.classes == 2
    bank = Bank.open(whole.path / BANK)
    identity = identify_classes(zoo, "names")
    assert RunFolder(whole.path).read_json(CLASSES)["names"] == [*identity.names]
    pictures: dict[int, list[set[bytes]]] = {}
    for index, contract in enumerate(zoo):
        assert bank.generations_of(contract.name) == (0, 1)
        images, labels = bank.images_of(contract.name)
        assert torch.bincount(labels).tolist() == [6] * contract.spec.classes
        for label, known in enumerate(identity.of(index).tolist()):
            pictures.setdefault(known, []).append({each.numpy().tobytes() for each in images[labels == label]})
    shared = [found for found in pictures.values() if len(found) > 1]
    assert shared
    assert all(len(found[0]) == 6 and found[0] == other for found in shared for other in found[1:])
    record = RunFolder(whole.path).read_json(HEALTH)
    assert {row["teacher"] for row in record["teachers"]} == {contract.name for contract in zoo}
    assert all((whole.path / "recovered" / f"{contract.name}.png").exists() for contract in zoo)


def test_an_interrupted_run_ends_as_a_whole_one(
    zoo: Zoo, whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = CurriculumLearner.step

    def stop_when_armed(self: CurriculumLearner) -> object:
        if self.steps_done >= 2 and bool(self.state()["switch"][2]):
            raise Interrupted("for the test")
        return real(self)

    monkeypatch.setattr(curriculum_stage, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(CurriculumLearner, "step", stop_when_armed)
        with pytest.raises(Interrupted):
            train(zoo, out=tmp_path / "again", config=PURER_OPTIONS, workers=1)
    assert list((tmp_path / "again" / "checkpoints").glob("learning-*"))
    again = train(zoo, out=tmp_path / "again", config=PURER_OPTIONS, workers=2, resume=True)
    assert content(again.path / "meta-model") == content(whole.path / "meta-model")
    assert content(again.path / BANK) == content(whole.path / BANK)


def test_images_can_start_as_noise_without_a_recovery(zoo: Zoo, tmp_path: Path) -> None:
    config = merged(ALONE, {"initial_weights": "random"})
    run = train(zoo, preset="published", out=tmp_path / "run", config=config, workers=1)
    bank = Bank.open(run.path / BANK)
    assert {name: bank.generations_of(name) for name in bank.teachers} == {contract.name: (0,) for contract in zoo}
    assert RunFolder(run.path).read_json(HEALTH)["teachers"]


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    folder, images = tmp_path_factory.mktemp("alike") / "zoo", coloured_images(4, SIDE)
    return build_zoo(folder, images, "conv4", 2, 3, config=TrainingConfig(epochs=8), width=4, workers=1)


def test_weights_can_start_at_the_average_of_the_models(zoo: Zoo, alike: Zoo, tmp_path: Path) -> None:
    config = merged(ALONE, {"learning": {"learning_rate": 1e-12}})
    run = train(alike, preset="published", out=tmp_path / "run", config=config, workers=1)
    found = run.meta_model.networks[0].network.state_dict()
    models = [teacher.classifier.network.state_dict() for teacher in alike.teachers()]
    for name in (name for name in found if "head" not in name and "running" not in name and "num" not in name):
        torch.testing.assert_close(found[name], torch.stack([model[name] for model in models]).mean(0))
    assert found["head.weight"].abs().max() > 0
    with raises(UsageError, subject="thin-resnet", problem="the meta-model", remedy="initial_weights random"):
        train(zoo, preset="published", out=tmp_path / "other", config=config, workers=1)


def test_without_a_class_map_recovered_images_are_compared(zoo: Zoo, tmp_path: Path) -> None:
    run = train(zoo, out=tmp_path / "run", config=merged(PURER_OPTIONS, {"class_map": None}), workers=1)
    assert RunFolder(run.path).has(CONFLICTS)
    assert len(RunFolder(run.path).read_json(CLASSES)["names"]) == sum(contract.spec.classes for contract in zoo)


@pytest.mark.parametrize(
    ("changes", "subject", "problem"),
    [
        ({"meta_model": {"ways": 50}}, "meta_model.ways", "50"),
        ({"learning": {"queries": 100}}, "budget.images_per_class", "101"),
        ({"budget": {"images_per_class": 300_000, "disk_megabytes": 1000}}, "disk_megabytes", "more than 1000"),
        ({"budget": {"classes_per_teacher": 1}, "meta_model": {"ways": 5}}, "meta_model.ways", "known to differ"),
        ({"recovery": None, "class_map": None}, "class_map", "recovery is null"),
        ({"class_map": "nowhere.yaml"}, "nowhere.yaml", ""),
        ({"initial_weights": "average"}, "thin-resnet", "shapes of its weights"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_recovered(
    changes: dict[str, Any], subject: str, problem: str, zoo: Zoo, tmp_path: Path
) -> None:
    with raises(UsageError, subject=subject, problem=problem):
        train(zoo, out=tmp_path / "run", config=merged(PURER_OPTIONS, changes), workers=1)
    assert not (tmp_path / "run" / BANK).exists()


def test_a_class_of_a_protected_model_is_not_kept_for_others(tmp_path: Path) -> None:
    """Classes a and b are of all three models, and one of these says `discard`; c is of the others only."""
    run = train(untrained(tmp_path / "zoo"), out=tmp_path / "run", config=ALONE, workers=1)
    bank = Bank.open(run.path / BANK)
    assert {name: bank.images_of(name)[1].unique().tolist() for name in ("model-0", "model-1")} == {
        "model-0": [2],
        "model-1": [2],
    }
    assert bank.is_discarded("model-2")
    assert sorted(path.stem for path in (run.path / "recovered").iterdir()) == ["model-0", "model-1"]


def test_a_contract_that_becomes_stricter_reaches_images_that_others_share(tmp_path: Path) -> None:
    zoo = untrained(tmp_path / "zoo", ("none", "none"))
    run = train(zoo, out=tmp_path / "run", config=ALONE, workers=1)
    assert sorted(path.stem for path in (run.path / "recovered").iterdir()) == ["model-0", "model-1"]
    zoo.permit(["model-0"], "keep")
    train(Zoo.open(zoo.folder), out=run.path, resume=True)
    assert not [*(run.path / "recovered").iterdir()]
    zoo.permit(["model-0"], "discard")
    train(Zoo.open(zoo.folder), out=run.path, resume=True)
    bank = Bank.open(run.path / BANK)
    assert bank.is_discarded("model-0")
    assert bank.is_discarded("model-1")


def test_other_methods_reuse_what_was_recovered_and_not_what_was_made_of_it(
    zoo: Zoo, whole: Run, tmp_path: Path
) -> None:
    own = whole.config.options
    config = {**{key: OPTIONS[key] for key in ("learning", "meta_model")}, "method": "zoo-distillation"}
    config |= {key: getattr(own, key).model_dump() for key in ("recovery", "budget")}
    run = train(zoo, out=tmp_path / "run", config=config, workers=1, reuse_images=whole)
    bank, source = Bank.open(run.path / BANK), Bank.open(whole.path / BANK)
    for contract in zoo:
        assert bank.generations_of(contract.name) == (0,)
        for one, other in zip(bank.images_of(contract.name), source.images_of(contract.name, 0), strict=True):
            assert torch.equal(one, other)


def test_images_are_not_reused_if_none_are_recovered(alike: Zoo, tmp_path: Path) -> None:
    run = train(alike, out=tmp_path / "run", config=ALONE, workers=1)
    with raises(UsageError, subject="reuse_images", problem="purer", remedy="omit"):
        train(alike, out=tmp_path / "other", config=ALONE, workers=1, reuse_images=run)


def test_a_plan_bounds_a_real_run(zoo: Zoo, whole: Run) -> None:
    plan = plan_run(zoo, config=PURER_OPTIONS, workers=1)
    assert [*plan.stages] == ["recovery", "learning"]
    assert plan.is_complete
    assert plan.stages["learning"].units == {"inversion step": 6, "update": 6}
    assert sum(path.stat().st_size for path in whole.path.rglob("*") if path.is_file()) < plan.disk
    longer = plan_run(zoo, config=merged(PURER_OPTIONS, {"learning": {"steps": 6000}}), workers=1)
    few, many = (made.stages["learning"].seconds for made in (plan, longer))
    assert few is not None
    assert many is not None
    assert many > 50 * few


def test_a_step_of_the_curriculum_raises_the_loss_of_its_episode_and_a_plain_one_does_not(tmp_path: Path) -> None:
    images = coloured_images(6, SIDE)
    config = TrainingConfig(epochs=20)
    zoo = build_zoo(tmp_path / "zoo", images, "conv4", 3, 3, config=config, width=8, workers=1)
    identity = identify_classes(zoo, "names")
    classes = torch.arange(len(identity.names)).repeat_interleave(8)
    start = torch.rand(len(classes), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    inversion = SharedPixelsConfig(batch_norm=0.01, learning_rate=0.02)
    budget = RecoveryBudget(images_per_class=8)
    pixels = SharedPixels(start, classes, zoo.teachers(), identity.identities, inversion, budget, 0)
    spec = ClassifierSpec(
        architecture="conv4", arguments={"width": 8}, classes=3, input_size=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3
    )
    options = CurriculumConfig(
        shots=2, queries=4, start=1000, learning_rate=0.01, inner_learning_rate=0.1, episodes_per_step=2
    )
    learner = CurriculumLearner(build_classifier(spec, torch.Generator().manual_seed(0)), pixels, options, 0)
    for _ in range(15):
        learner.step()

    def loss(shown: Tensor, rows: Tensor, number: int) -> float:
        task, drawn = learner.episode(generator(0, "curriculum", "harder", number))
        assert torch.equal(rows, drawn)
        split = len(task.support_images)
        task = replace(task, support_images=shown[rows[:split]], query_images=shown[rows[split:]])
        parameters: dict[str, Tensor] = dict(learner.classifier.named_parameters())
        logits = Maml(1, 0.1).query_logits(FunctionalClassifier(learner.classifier), parameters, task)
        return functional.cross_entropy(logits, task.query_labels).item()

    kept = {name: tensor.clone() for name, tensor in pixels.state().items()}
    changes: dict[bool, list[float]] = {True: [], False: []}
    for number in range(100, 104):
        for harder, found in changes.items():
            pixels.restore(kept)
            rows, gradient = learner._harder(number)
            before = loss(pixels.pixels, rows, number)
            pixels.step(number, (rows, gradient) if harder else None)
            found.append(loss(pixels.pixels, rows, number) - before)
    assert min(changes[True]) > 0
    assert all(harder > plain for harder, plain in zip(changes[True], changes[False], strict=True))
    assert sum(changes[False]) < 0.2 * sum(changes[True])


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_a_killed_run_is_resumed_and_ends_bit_equal(tmp_path: Path) -> None:
    from disturbed_runs import disturbed

    chain = (
        "kill call episode #8",
        "full create bank/*/generation-0001-*",
        "kill create bank/*/generation-0001.json #2",
    )
    (tmp_path / "runs").mkdir()
    outcomes = disturbed(untrained(tmp_path / "zoo").folder, PURER_OPTIONS, tmp_path / "runs", {"killed": chain})
    *disturbances, last = outcomes["killed"]
    assert [outcome.code for outcome in disturbances] == [-9, 1, -9], [o.error for o in disturbances]
    assert all(outcome.unsound == "" for outcome in disturbances)
    assert (last.code, last.temporaries) == (0, []), last.error
    assert content(tmp_path / "runs" / "killed") == content(tmp_path / "runs" / "whole")
