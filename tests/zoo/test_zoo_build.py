import json
import pickle
import signal
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from error_checks import raises
from zoo_helpers import SIDE, coloured_images, content

from metazoo.choices import CONTROLS, Control
from metazoo.data import ImageSet, split_images
from metazoo.errors import DataError, Interrupted, MetazooError, RunError, UsageError, ZooError
from metazoo.storage.lock import exclusive
from metazoo.zoo import TrainingConfig, Zoo, build_zoo, with_pixel_statistics
from metazoo.zoo.building.jobs import plan_jobs

CONFIG = TrainingConfig(epochs=2, batch_size=8)


def build(out: Path, image_set: ImageSet, models: int = 3, **more: Any) -> Zoo:
    given = {"architecture": "thin-resnet", "ways": 3, "seed": 7, "config": CONFIG, "width": 4, "workers": 1}
    return build_zoo(out, image_set, models=models, **cast(Any, given | more))


def files_with_times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


@pytest.fixture(scope="module")
def built(image_set: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return build(tmp_path_factory.mktemp("built") / "zoo", image_set)


def test_what_is_recorded_is_what_was_done(built: Zoo, image_set: ImageSet) -> None:
    assert [contract.name for contract in built] == [f"colours-thin-resnet-w4-s7-{index:03d}" for index in range(3)]
    assert Zoo.open(built.folder).contracts == built.contracts
    for index, contract in enumerate(built):
        assert (contract.domain, contract.spec.classes, contract.spec.input_size) == ("colours", 3, SIDE)
        chosen = image_set.select_classes([image_set.class_names.index(name) for name in contract.class_names])
        training_set, validation_set = split_images(chosen)
        assert contract.spec == with_pixel_statistics(contract.spec, training_set.images)
        record = contract.training
        assert record is not None
        assert (record.source, record.data_sha256, record.seed) == ("colours", image_set.sha256, 7)
        assert (record.index, record.ways, record.train_fraction) == (index, 3, 0.8)
        assert (record.training_images, record.validation_images) == (len(training_set), len(validation_set)) == (24, 6)
        assert record.recipe == CONFIG.resolved("thin-resnet")
        assert record.torch_version == torch.__version__
        logits = built.teacher(contract.name)(validation_set.images / 255)
        accuracy = 100 * (logits.argmax(1) == validation_set.labels).double().mean().item()
        assert contract.accuracy == pytest.approx(accuracy)
    draws = {contract.class_names for contract in built}
    assert len(draws) == 3
    assert any(list(draw) != sorted(draw) for draw in draws)


def test_calling_again_changes_nothing(built: Zoo, image_set: ImageSet) -> None:
    before = files_with_times(built.folder)
    for models in (3, 2):
        assert build(built.folder, image_set, models).sha256 == built.sha256
    assert files_with_times(built.folder) == before


def test_more_models_adds_the_missing_ones_alone(built: Zoo, image_set: ImageSet, tmp_path: Path) -> None:
    zoo = build(tmp_path / "zoo", image_set, 1)
    before = files_with_times(zoo.folder / "models")
    zoo = build(tmp_path / "zoo", image_set, 3)
    assert content(zoo.folder) == content(built.folder)
    after = files_with_times(zoo.folder / "models")
    assert [path.name for path in before if before[path] != after[path]] == ["models"]


def test_a_model_that_was_removed_comes_back_bit_equal(built: Zoo, image_set: ImageSet, tmp_path: Path) -> None:
    zoo = build(tmp_path / "zoo", image_set)
    zoo.remove([zoo.contracts[1].name])
    assert content(build(tmp_path / "zoo", image_set).folder) == content(built.folder)


@pytest.mark.parametrize("stop_after", [0, 1, 3, 5, 6])
def test_an_interrupted_build_goes_on_where_it_was(
    built: Zoo, image_set: ImageSet, tmp_path: Path, stop_after: int
) -> None:
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == stop_after + 1:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped by SIGTERM: finished work is kept; call again") as caught:
        build(tmp_path / "zoo", image_set, check=check)
    assert caught.value.exit_code == 143
    # A model takes three checks: one before it, one after each of its two epochs.
    assert len(Zoo.open(tmp_path / "zoo")) == stop_after // 3
    assert content(build(tmp_path / "zoo", image_set).folder) == content(built.folder)


def test_two_workers_make_the_same_zoo_as_one(built: Zoo, image_set: ImageSet, tmp_path: Path) -> None:
    zoo = build(tmp_path / "zoo", image_set, workers=2)
    assert content(zoo.folder) == content(built.folder)


def test_a_job_travels_with_its_own_images_alone(image_set: ImageSet) -> None:
    jobs = plan_jobs(
        coloured_images(classes=60),
        "thin-resnet",
        models=2,
        ways=2,
        seed=0,
        domain="d",
        config=CONFIG,
        input_size=SIDE,
        channels=3,
        width=None,
        train_fraction=0.5,
    )
    for job in jobs:
        packed = pickle.dumps(job)
        assert len(packed) < 20 * 3 * SIDE * SIDE + 5000
        copied = pickle.loads(packed)  # noqa: S301 - made the line before
        assert copied.contract == job.contract
        for ours, theirs in zip(job.images(), copied.images(), strict=True):
            assert ours.sha256 == theirs.sha256
            assert ours.class_names == job.contract.class_names


def test_many_kinds_live_in_one_zoo(built: Zoo, image_set: ImageSet, tmp_path: Path) -> None:
    out = tmp_path / "zoo"
    build(out, image_set, 1)
    build(out, image_set, 1, seed=8)
    build(out, image_set, 1, domain="more colours/[é]", channels=1)
    zoo = build(out, image_set, 1, architecture="conv4", width=None, input_size=16)
    assert [contract.name for contract in zoo] == [
        "colours-conv4-s7-000",
        "colours-thin-resnet-w4-s7-000",
        "colours-thin-resnet-w4-s8-000",
        "more_colours-thin-resnet-w4-s7-000",
    ]
    assert zoo.contracts[3].domain == "more colours/[é]"
    assert zoo.contracts[3].spec.channels == len(zoo.contracts[3].spec.mean) == 1
    assert zoo.contracts[0].spec.input_size == 16
    assert zoo.contracts[1] == built.contracts[0]
    for teacher in zoo.teachers():
        assert teacher(torch.rand(2, 3, 11, 11)).shape == (2, 3)


def test_a_model_made_otherwise_is_named(built: Zoo, image_set: ImageSet) -> None:
    before = files_with_times(built.folder)
    other_data = ImageSet(image_set.images.flip(0), image_set.labels, image_set.class_names, name="colours")
    for change, problem in (
        ({"config": TrainingConfig(epochs=3, batch_size=8)}, "training.recipe.epochs (2, not 3)"),
        ({"ways": 2}, "spec.classes (3, not 2)"),
        ({"train_fraction": 0.7}, "training.train_fraction (0.8, not 0.7)"),
        ({"input_size": 12}, "spec.input_size (8, not 12)"),
        ({"channels": 1}, "spec.channels (3, not 1)"),
        ({"image_set": other_data}, "training.data_sha256"),
        ({"image_set": coloured_images(classes=7)}, "class_names"),
        ({"domain": "COLOURS"}, "name (colours-thin-resnet-w4-s7-000, not COLOURS"),
        ({"domain": "/colours"}, " ("),
    ):
        given = {"image_set": image_set} | change
        with raises(UsageError, subject="'colours-thin-resnet-w4-s7-000'", problem=problem, remedy="--domain"):
            build(built.folder, **cast(Any, given))
    assert files_with_times(built.folder) == before


def test_augmentation_is_part_of_how_a_model_is_made_and_silent_without(
    built: Zoo, image_set: ImageSet, tmp_path: Path
) -> None:
    moving = CONFIG.model_copy(update={"largest_shift": 0})
    with raises(UsageError, problem="training.recipe.largest_shift"):
        build(built.folder, image_set, config=moving)
    moved = build(tmp_path / "zoo", image_set, models=1, config=moving)
    with raises(UsageError, problem="training.recipe.largest_shift"):
        build(moved.folder, image_set, models=1)
    configs = [zoo.contracts[0].as_record()["training"]["recipe"] for zoo in (built, moved)]
    assert ["largest_shift" in config for config in configs] == [False, True]
    assert Zoo.open(moved.folder).contracts == moved.contracts


def test_a_newer_torch_is_not_another_model(built: Zoo, image_set: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "99.0")
    assert build(built.folder, image_set).sha256 == built.sha256


@pytest.mark.parametrize(
    ("change", "values"),
    [
        ({"architecture": "resnet-1000"}, ("resnet-1000", "did you mean resnet10")),
        ({"architecture": "conv4"}, ("conv4", "16 pixels, not 8")),
        ({"ways": 1}, ("--ways", "from 2 to", "6 classes of colours", "not 1")),
        ({"ways": 7}, ("--ways", "not 7")),
        ({"config": TrainingConfig(largest_shift=40)}, ("--shift", "40 pixels")),
        ({"models": 0}, ("--models", "not 0")),
        ({"seed": -1}, ("--seed", "not -1")),
        ({"width": 0}, ("width", "not 0")),
        ({"channels": 2}, ("channels: Input should be 1 or 3",)),
        ({"input_size": 0}, ("input_size: ",)),
        ({"train_fraction": 1.0}, ("not 1.0",)),
        ({"domain": ""}, ("domain: ",)),
        ({"config": TrainingConfig(optimiser="adam", momentum=0.5)}, ("momentum", "adam", "0.5")),
        ({"workers": 0}, ("workers", "not 0")),
    ],
)
def test_impossible_builds_are_refused_before_anything_is_made(
    image_set: ImageSet, tmp_path: Path, change: dict[str, Any], values: tuple[str, ...]
) -> None:
    with raises(UsageError) as caught:
        build(tmp_path / "zoo", image_set, **change)
    assert all(value in str(caught.value) for value in values), caught.value
    assert not (tmp_path / "zoo").exists()


def test_data_of_one_class_makes_no_model(image_set: ImageSet, tmp_path: Path) -> None:
    with raises(UsageError, subject="colours", problem="has 1 class"):
        build(tmp_path / "zoo", image_set.select_classes([0]))


def test_a_class_with_too_few_images_is_named_even_if_it_would_not_be_drawn(tmp_path: Path) -> None:
    whole = coloured_images()
    poor = whole.take(torch.arange(len(whole) - 9))
    for seed in range(3):
        with raises(DataError, subject="class 'colour 5' of colours", problem="1 images"):
            build(tmp_path / "zoo", poor, ways=2, seed=seed)
    assert not (tmp_path / "zoo").exists()


def test_other_folders_and_zoos_in_use_are_left_alone(built: Zoo, image_set: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with raises(UsageError, subject=str(tmp_path), problem="'thesis.tex'"):
        build(tmp_path, image_set)
    with exclusive(built.folder), raises(RunError):
        build(built.folder, image_set, 4)
    assert len(Zoo.open(built.folder)) == 3


def test_a_failed_training_keeps_what_was_finished(built: Zoo, image_set: ImageSet, tmp_path: Path) -> None:
    build(tmp_path / "zoo", image_set, 2)
    wild = TrainingConfig(epochs=9, learning_rate=1e6, gradient_norm=1e6, weight_decay=1e3)
    with raises(ZooError, subject="colours-thin-resnet-w4-s9-000", problem="in epoch"):
        build(tmp_path / "zoo", image_set, 1, config=wild, seed=9)
    assert Zoo.open(tmp_path / "zoo").contracts == built.contracts[:2]


def test_progress_counts_what_is_there_already(
    image_set: ImageSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(tmp_path / "zoo", image_set, 1)
    assert capsys.readouterr().err == ""
    build(tmp_path / "zoo", image_set, 2, progress=True)
    assert "training: 2/2, done in" in capsys.readouterr().err


def test_an_error_of_the_marker_is_met_before_training(built: Zoo, image_set: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "zoo.json").write_text(json.dumps({"format": "metazoo-zoo", "format_version": 9}))
    with pytest.raises(MetazooError, match="version 9"):
        build(tmp_path, image_set)


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_model_differs_in_its_weights_alone_and_is_recorded(
    built: Zoo, image_set: ImageSet, tmp_path: Path, control: Control
) -> None:
    zoo = build(tmp_path / "zoo", image_set, 1, control=control)
    (contract,), trained = zoo, built.contracts[0]
    assert contract.name == f"colours-thin-resnet-w4-{control}-s7-000"
    assert (contract.class_names, contract.spec) == (trained.class_names, trained.spec)
    assert contract.training is not None
    assert contract.training.control == contract.as_record()["training"]["control"] == control
    assert "control" not in trained.as_record()["training"]
    assert contract.weights_sha256 != trained.weights_sha256
    if control == "untrained":
        statistics = zoo.teacher(contract.name).classifier.network.state_dict()["stem.1.running_mean"]
        assert torch.equal(statistics, torch.zeros_like(statistics))
    assert content(build(tmp_path / "again", image_set, 1, control=control).folder) == content(zoo.folder)
    with raises(UsageError, problem="control", remedy=""):
        build(tmp_path / "zoo", image_set, 1, control="random")
