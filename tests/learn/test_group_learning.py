import dataclasses
import gc
import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from error_checks import raises
from learn_helpers import resident_bank, student, targets
from pydantic import ValidationError
from recorded_operations import PlayedBack
from torch import Tensor

from metazoo.bank import ResidentBank
from metazoo.errors import DataError
from metazoo.execution.compute import in_full_float32
from metazoo.execution.threads import WorkerThreads
from metazoo.learn import group_learning
from metazoo.learn.augmented_images import AugmentedImages, Targets, add_teacher_outputs
from metazoo.learn.group_learning import GroupLearner, Student
from metazoo.learn.learning_config import LearningConfig, RegularisationConfig
from metazoo.learn.regularisers import ExplicitRegularisation, ImplicitRegularisation, MeanGradient
from metazoo.storage.tensor_files import read_tensors, write_tensors
from metazoo.taskspace import FixedGrouping, Grouping, Partition

# All options that the tests rely on; the defaults may change.
CONFIG = LearningConfig(
    steps=40,
    teachers_per_step=2,
    batch_size=24,
    learning_rate=0.01,
    warm_up_steps=4,
    joint_features=1.0,
    relations=1.0,
    distillation=0.5,
    temperature=1.0,
    views=48,
    steps_per_views=20,
    calibration_images=200,
    mix=True,
    shift=0.125,
    regularisation=RegularisationConfig(kind="implicit", displacement=1e-2, strength=1e-2),
)


def learner_of(
    config: LearningConfig = CONFIG,
    seed: int = 0,
    teachers: Targets = targets,
    bank: ResidentBank | None = None,
    learner: Student | None = None,
    members: tuple[int, ...] | None = None,
    grouping: Grouping | None = None,
    **more: Any,
) -> GroupLearner:
    """Learner from groups of two and of one teacher, or from the group `members`."""
    groups = ((0, 2), (1,)) if members is None else (members,)
    return GroupLearner(
        learner or student(seed),
        bank or resident_bank(),
        grouping or FixedGrouping(Partition(groups, "random")),
        teachers,
        config,
        seed,
        **more,
    )


def changed(**values: Any) -> LearningConfig:
    return CONFIG.model_copy(update=values)


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}


def assert_equal_states(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name, value in one.items() if not torch.equal(value, other[name])] == []


@pytest.mark.parametrize("kind", ["implicit", "explicit", "mean"])
def test_the_loss_falls(kind: str) -> None:
    config = changed(regularisation=RegularisationConfig(kind=kind, displacement=1e-2, strength=1e-2))  # pyright: ignore[reportArgumentType]
    learner = learner_of(config)
    reports = [learner.step() for _ in range(config.steps)]
    losses = [float(report.loss) for report in reports]
    assert sum(losses[-8:]) < 0.9 * sum(losses[:8])
    assert [report.step for report in reports] == list(range(1, 41))
    figures = [vars(report)[name] for report in reports for name in ("agreement", "disagreement", "relative_change")]
    assert all(bool(torch.as_tensor(figure).isfinite()) for figure in figures)
    groups_of_two = [report for report in reports if float(report.disagreement) > 1e-9]
    assert 5 < len(groups_of_two) < 35
    assert all((float(report.relative_change) > 0) == (kind != "mean") for report in groups_of_two)


@pytest.mark.parametrize("term", ["joint_features", "relations", "distillation"])
def test_each_term_can_be_learned_from_alone(term: str) -> None:
    alone = {"joint_features": 0.0, "relations": 0.0, "distillation": 0.0, term: 1.0}
    learner = learner_of(changed(**alone, batch_size=48, regularisation=RegularisationConfig(kind="mean")))
    losses = [float(learner.step().loss) for _ in range(40)]
    assert sum(losses[-8:]) < 0.95 * sum(losses[:8])


# Augmented images are drawn anew after 4 steps and after 8.
@pytest.mark.parametrize("stopped_after", [1, 3, 4, 5, 9])
def test_restored_midway_it_ends_as_if_it_had_not_stopped(tmp_path: Path, stopped_after: int) -> None:
    config = changed(steps=10, steps_per_views=4, batch_size=8, views=12)
    whole = learner_of(config)
    for _ in range(stopped_after):
        whole.step()
    write_tensors(tmp_path / "state.safetensors", whole.state())
    restored = learner_of(config, learner=student(5))  # with other first weights
    restored.restore(stopped_after, read_tensors(tmp_path / "state.safetensors"))
    assert_equal_states(restored.state(), whole.state())
    while whole.steps_done < config.steps:
        reports = whole.step(), restored.step()
        assert float(reports[0].loss) == float(reports[1].loss)
    assert_equal_states(restored.state(), whole.state())


@pytest.mark.parametrize("kind", ["implicit", "explicit", "mean"])
def test_threads_that_share_the_members_change_nothing(kind: Any) -> None:
    regularisation = RegularisationConfig(kind=kind)
    config = CONFIG.model_copy(update={"regularisation": regularisation, "teachers_per_step": 3})
    learners = [learner_of(config, members=(0, 1, 2), threads=WorkerThreads(count)) for count in (1, 2)]
    for learner in learners:
        for _ in range(6):
            learner.step()
    alone, shared = (learner.state() for learner in learners)
    assert all(torch.equal(value, shared[name]) for name, value in alone.items())


def test_the_state_is_all_parameters_and_both_moments() -> None:
    learner = learner_of()
    learner.step()
    names = learner.student.trained_parameters().keys()
    expected = {f"{prefix}.{name}" for name in names for prefix in ("parameters", "optimiser.exp_avg")}
    expected |= {f"optimiser.{kind}.{name}" for name in names for kind in ("exp_avg_sq", "step")}
    assert learner.state().keys() == expected


def test_a_checkpoint_of_another_student_is_refused() -> None:
    learner = learner_of()
    learner.step()
    state = copied(learner.state())
    name = "parameters.to_features.weight"
    for wrong in ({key: value for key, value in state.items() if key != name}, {**state, name: torch.zeros(2, 3)}):
        with raises(DataError, subject="checkpoint", problem="meta-model"):
            learner_of().restore(1, wrong)


def test_the_seed_determines_the_result() -> None:
    ends = []
    for seed in (0, 0, 1):
        learner = learner_of(seed=seed, learner=student(0))
        learner.step()
        ends.append(copied(learner.state()))
    assert_equal_states(ends[0], ends[1])
    assert not torch.equal(ends[0]["parameters.to_features.weight"], ends[2]["parameters.to_features.weight"])


def test_a_loss_that_is_not_finite_names_the_step_and_changes_nothing() -> None:
    failing = False

    def sometimes(images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = targets(images)
        return (features * math.nan, logits) if failing else (features, logits)

    learner = learner_of(changed(steps_per_views=2), teachers=sometimes)
    learner.step()
    learner.step()
    failing, before = True, copied(learner.state())
    with raises(DataError, subject="meta-model", problem="step 2", remedy="learning.learning_rate"):
        learner.step()
    assert_equal_states(learner.state(), before)
    assert learner.steps_done == 2
    assert all(parameter.grad is None for parameter in learner.student.parameters())


def test_steps_do_not_change_buffers_flags_and_the_head() -> None:
    learner = learner_of()
    module = learner.student
    before = copied(dict(module.named_buffers()))
    flags = [part.training for part in module.modules()]
    for _ in range(3):
        learner.step()
    assert_equal_states(dict(module.named_buffers()), before)
    assert [part.training for part in module.modules()] == flags
    assert not module.classifier.network.head.weight.any()


def test_a_step_learns_from_the_images_of_its_members_only() -> None:
    """Teacher outputs of other images may be NaN."""

    def of_owner_1(images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = targets(images)
        other = images[:, 0].mean((1, 2)) > 0.5
        return torch.where(other[:, None], math.nan, features), logits

    bank = resident_bank()
    marked = bank.images[:].clone()
    marked[:, 0] = 255
    marked[bank.indices_of(1), 0] = 0
    bank = dataclasses.replace(bank, images=marked)
    config = changed(mix=False)
    assert math.isfinite(float(learner_of(config, teachers=of_owner_1, bank=bank, members=(1,)).step().loss))
    with pytest.raises(DataError):
        learner_of(config, teachers=of_owner_1, bank=bank, members=(0, 2)).step()


def test_the_learning_rate_rises_and_falls_as_a_cosine() -> None:
    learner = learner_of(changed(steps=8, warm_up_steps=2, batch_size=4, views=6))
    rates = [learner.step().learning_rate for _ in range(8)]
    expected = [0.01 * min(1, (step + 1) / 2) * 0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    assert rates == pytest.approx(expected)
    assert learner_of(changed(warm_up_steps=0)).step().learning_rate == pytest.approx(0.01)


def test_a_new_pool_is_drawn_when_it_is_due() -> None:
    judged: list[int] = []

    def counting(images: Tensor) -> tuple[Tensor, Tensor]:
        judged.append(len(images))
        return targets(images)

    learner = learner_of(changed(views=1, steps_per_views=2, batch_size=4), teachers=counting)
    for _ in range(5):
        learner.step()
    assert judged == [3, 3, 3]  # at least one image of each of the three teachers


def test_a_pool_is_freed_before_the_next_one_without_the_garbage_collector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pools: list[weakref.ref[AugmentedImages]] = []

    def judging(*of: Any, **options: Any) -> AugmentedImages:
        assert [pool for pool in pools if pool() is not None] == []
        pool = add_teacher_outputs(*of, **options)
        pools.append(weakref.ref(pool))
        return pool

    monkeypatch.setattr(group_learning, "add_teacher_outputs", judging)
    learner = learner_of(changed(steps_per_views=2))
    gc.disable()
    try:
        for _ in range(5):
            learner.step()
        learner.calibrate()
    finally:
        gc.enable()
    assert [pool() for pool in pools] == [None] * 3


def test_without_strength_all_regularisers_step_alike() -> None:
    ends = []
    for kind in ("mean", "implicit", "explicit"):
        learner = learner_of(changed(regularisation=RegularisationConfig(kind=kind, strength=0.0)))
        for _ in range(3):
            learner.step()
        ends.append(copied(learner.state()))
    for end in ends[1:]:
        for name, value in ends[0].items():
            torch.testing.assert_close(end[name], value)


def test_calibration_stores_statistics_and_trains_nothing() -> None:
    learner = learner_of()
    learner.step()
    parameters = copied(learner.state())
    before = copied(dict(learner.student.named_buffers()))
    learner.calibrate()
    first = copied(dict(learner.student.named_buffers()))
    assert_equal_states(learner.state(), parameters)
    changed_names = {name for name, value in first.items() if not torch.equal(value, before[name])}
    assert {name.rsplit(".")[-1] for name in changed_names} == {"running_mean", "running_var"}
    assert len(changed_names) == 8
    assert all(bool(first[name].isfinite().all()) for name in changed_names)
    learner.calibrate()
    assert_equal_states(dict(learner.student.named_buffers()), first)


def test_calibration_sees_images_that_were_not_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[Tensor] = []
    calibrated: list[Tensor] = []

    def recording(images: Tensor) -> tuple[Tensor, Tensor]:
        judged.append(images)
        return targets(images)

    monkeypatch.setattr(group_learning, "calibrate_statistics", lambda _, parts: calibrated.extend(parts))
    learner = learner_of(teachers=recording)
    learner.step()
    learner.calibrate()
    learned = {image.numpy().tobytes() for image in torch.cat(judged)}
    fresh = {image.numpy().tobytes() for image in torch.cat(calibrated)}
    assert len(learned) == 48
    assert sum(map(len, calibrated)) == 200
    assert len(fresh) > 100
    assert not learned & fresh


@pytest.mark.parametrize(
    ("kind", "built"),
    [("mean", MeanGradient), ("implicit", ImplicitRegularisation), ("explicit", ExplicitRegularisation)],
)
def test_a_config_builds_the_regulariser_of_its_period(kind: Any, built: type) -> None:
    config = RegularisationConfig(kind=kind, every=3)
    assert [config.is_due(step) for step in range(1, 7)] == [False, False, True] * 2
    assert type(config.build()) is built
    assert RegularisationConfig(kind=kind, every=1).is_due(1)


@pytest.mark.parametrize("kind", ["implicit", "explicit"])
def test_a_longer_period_regularises_more_strongly(kind: Any) -> None:
    parameters = {"w": torch.tensor([1.0, -2.0])}
    losses = [lambda own: own["w"].square().sum(), lambda own: (own["w"] ** 3).sum()]
    always, seldom = (
        RegularisationConfig(kind=kind, displacement=1e-3, strength=1e-2, every=every)
        .build()
        .direction(losses, parameters)
        for every in (1, 4)
    )
    mean = MeanGradient().direction(losses, parameters)
    added, added_seldom = (own.gradient["w"] - mean.gradient["w"] for own in (always, seldom))
    assert float(added.norm()) > 1e-2
    torch.testing.assert_close(added_seldom, 4 * added, rtol=1e-3, atol=1e-4)


def test_steps_between_regularised_ones_follow_the_mean_gradient() -> None:
    config = changed(regularisation=RegularisationConfig(kind="implicit", displacement=1e-2, strength=1e-2, every=3))
    learner = learner_of(config, members=(0, 1, 2))
    assert [float(learner.step().relative_change) > 0 for _ in range(7)] == [False, False, True] * 2 + [False]


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 0},
        {"learning_rate": math.inf},
        {"joint_features": math.inf},
        {"batch_size": 1},
        {"shift": 0.5},
        {"regularisation": {"strength": -1}},
        {"regularisation": {"kind": "none"}},
        {"joint_features": 0, "relations": 0, "distillation": 0},
    ],
)
def test_an_impossible_config_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LearningConfig.model_validate(wrong)


@pytest.mark.parametrize("kind", ["implicit", "explicit", "mean"])
def test_steps_played_back_from_a_recording_learn_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two pools and groups of two sizes: four recordings.
    regularisation = RegularisationConfig.model_validate({"kind": kind, "displacement": 1e-2, "strength": 1e-2})
    config = changed(steps=9, steps_per_views=5, regularisation=regularisation)

    def learn() -> tuple[dict[str, Tensor], list[list[float]]]:
        learner = learner_of(config)
        reports = [learner.step() for _ in range(config.steps)]
        return learner.state(), [[float(value) for value in vars(report).values()] for report in reports]

    called, called_reports = learn()
    monkeypatch.setattr(group_learning, "Repeated", PlayedBack)
    played, played_reports = learn()
    assert played_reports == called_reports
    assert all(torch.equal(value, played[name]) for name, value in called.items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("differentiated", [False, True])
@pytest.mark.parametrize("kind", ["implicit", "explicit", "mean"])
def test_a_gpu_learns_what_the_cpu_learns(kind: str, differentiated: bool) -> None:
    how = {"kind": kind, "displacement": 1e-2, "strength": 1e-2, "differentiate_displacement": differentiated}
    config = changed(steps=18, steps_per_views=9, regularisation=RegularisationConfig.model_validate(how))
    found = []
    for device in ("cpu", "cuda"):
        learner = learner_of(config, bank=resident_bank().to(device), learner=student().to(device))
        with in_full_float32():
            reports = [learner.step() for _ in range(config.steps)]
        found.append(torch.tensor([[float(value) for value in vars(report).values()] for report in reports]))
    torch.testing.assert_close(*found, rtol=0.02, atol=0.02)
