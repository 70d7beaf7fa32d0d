"""Parameters after a step by an update rule, compared with the same rule by hand."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from learn_helpers import CLASS_COUNTS, FEATURE_SIZES, resident_bank, student, targets
from pydantic import ValidationError
from recorded_operations import PlayedBack
from torch import Tensor

from metazoo.execution.randomness import generator
from metazoo.execution.threads import WorkerThreads
from metazoo.features.batch_norm import batch_statistics
from metazoo.learn import group_learning
from metazoo.learn.augmented_images import add_teacher_outputs, draw_augmented_images
from metazoo.learn.group_learning import GroupLearner, Student
from metazoo.learn.learning_config import LearningConfig, RegularisationConfig
from metazoo.learn.losses import distillation_loss, joint_feature_loss
from metazoo.learn.meta_optimiser import MetaOptimiser
from metazoo.learn.regularisers import Loss, MeanGradient, Parameters
from metazoo.learn.replay_learning import ReplayLearningConfig
from metazoo.learn.update_rules import (
    GroupsInTurn,
    JointUpdate,
    MemberStep,
    Reptile,
    ReptileConfig,
    UpdateRule,
    build_update,
)
from metazoo.taskspace import FixedGrouping, Grouping, Partition, draw_members

START = {"w": torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), "b": torch.tensor([[0.3]], dtype=torch.float64)}
TARGETS = torch.tensor([[0.0, 1.0, 2.0], [3.0, -1.0, 0.0], [1.0, 1.0, -4.0], [0.5, 0.0, 0.0]], dtype=torch.float64)
MEMBERS = (7, 3, 5, 2)


def loss_of(member: int) -> Loss:
    def loss(parameters: Parameters) -> Tensor:
        away = parameters["w"] - TARGETS[member]
        return away.square().sum() + (parameters["b"] * away).square().sum() / (member + 1)

    return loss


LOSSES = [loss_of(member) for member in range(4)]


class Noted(Grouping):
    """Fixed partition that records its observations."""

    observes = True

    def __init__(self, partition: Partition | None = None) -> None:
        self.seen: list[tuple[list[int], list[int], Tensor, Tensor]] = []
        self._partition = partition or Partition(((0, 1, 2),), "single")

    def draw(self, step: int, random: torch.Generator) -> Partition:
        return self._partition

    def observe(
        self, sources: Sequence[int], members: Sequence[int], losses_before: Tensor, losses_after: Tensor
    ) -> None:
        self.seen.append(([*sources], [*members], losses_before, losses_after))


def carried_out(rule: UpdateRule, grouping: Grouping | None = None, steps: int = 3) -> tuple[Parameters, list[Any]]:
    """Parameters after some steps by `rule`, and the figures of each."""
    parameters = {name: value.clone() for name, value in START.items()}
    optimiser, figures = MetaOptimiser(parameters, 0.1), []
    for _ in range(steps):
        step = MemberStep(
            MEMBERS,
            lambda positions: MeanGradient().direction([LOSSES[index] for index in positions], parameters),
            lambda: torch.stack([loss(parameters) for loss in LOSSES]),
            optimiser,
            learning_rate=0.05,
            grouping=grouping,
        )
        rule.step(step)
        figures.append(step.figures())
    return parameters, figures


def by_hand(parts: Sequence[Sequence[int]], steps: int = 3) -> tuple[Parameters, list[float]]:
    """Steps along the mean gradient of each part in turn, by the formulas of loss, gradient and Adam, in NumPy.

    Returns:
        The parameters, and the mean loss of the members of each step, each where its gradient is taken.
    """
    w, b = START["w"].numpy(), float(START["b"])
    values, moments, squares = np.array([*w, b]), np.zeros(4), np.zeros(4)
    means, updates = [], 0
    for _ in range(steps):
        losses = []
        for part in parts:
            gradient = np.zeros(4)
            for member in part:
                away, bias = values[:3] - TARGETS[member].numpy(), values[3]
                losses.append((away**2).sum() * (1 + bias**2 / (member + 1)))
                gradient[:3] += 2 * away * (1 + bias**2 / (member + 1)) / len(part)
                gradient[3] += 2 * bias * (away**2).sum() / (member + 1) / len(part)
            updates += 1
            moments = 0.9 * moments + 0.1 * gradient
            squares = 0.999 * squares + 0.001 * gradient**2
            step = moments / (1 - 0.9**updates) / (np.sqrt(squares / (1 - 0.999**updates)) + 1e-8)
            values = values - 0.05 * step
        means.append(float(np.mean(losses)))
    return {"w": torch.tensor(values[:3]), "b": torch.tensor([[values[3]]])}, means


@pytest.mark.parametrize(
    ("rule", "parts"),
    [
        (JointUpdate(), [[0, 1, 2, 3]]),
        (GroupsInTurn(4), [[0, 1, 2, 3]]),
        (GroupsInTurn(9), [[0, 1, 2, 3]]),
        (GroupsInTurn(3), [[0, 1, 2], [3]]),
        (GroupsInTurn(2), [[0, 1], [2, 3]]),
        (GroupsInTurn(), [[0], [1], [2], [3]]),
    ],
)
def test_each_part_is_one_step_of_adam(rule: UpdateRule, parts: list[list[int]]) -> None:
    found, figures = carried_out(rule)
    expected, losses = by_hand(parts)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-14)
    assert all(figure.dim() == 0 for row in figures for figure in row)
    assert [float(row[0]) for row in figures] == pytest.approx(losses, rel=1e-12)


@pytest.mark.parametrize("rule", [JointUpdate(), GroupsInTurn(2), GroupsInTurn(1), GroupsInTurn(4)])
def test_a_grouping_observes_the_losses_before_and_after_each_update(rule: UpdateRule) -> None:
    size = 4 if isinstance(rule, JointUpdate) else rule._size  # pyright: ignore[reportAttributeAccessIssue]
    grouping = Noted()
    found, _ = carried_out(rule, grouping, steps=1)
    parts = [range(4)[start : start + size] for start in range(0, 4, size)]
    assert [sources for sources, *_ in grouping.seen] == [[MEMBERS[index] for index in part] for part in parts]
    for number, (_, members, before, after) in enumerate(grouping.seen):
        assert members == [*MEMBERS]
        for values, done in ((before, number), (after, number + 1)):
            there = by_hand(parts[:done], steps=1)[0] if done else START
            torch.testing.assert_close(values, torch.stack([loss(there) for loss in LOSSES]), rtol=1e-12, atol=1e-12)
    unobserved, _ = carried_out(rule, FixedGrouping(Partition(((0,),), "single")), steps=1)
    assert all(torch.equal(found[name], unobserved[name]) for name in found)


@pytest.mark.parametrize("part", [(2, 0, 3, 1), (0, 1, 2, 3)])
def test_losses_are_in_the_order_of_the_members_whatever_the_order_of_a_sub_group(part: tuple[int, ...]) -> None:
    grouping = Noted()
    grouping.sub_groups = lambda members: (part,)  # pyright: ignore[reportAttributeAccessIssue]
    carried_out(GroupsInTurn(), grouping, steps=1)
    ((sources, members, before, _),) = grouping.seen
    assert (sources, members) == ([MEMBERS[position] for position in part], [*MEMBERS])
    torch.testing.assert_close(before, torch.stack([loss(START) for loss in LOSSES]))


def test_losses_are_measured_again_for_a_grouping_that_observes_only() -> None:
    asked: list[int] = []

    def measured() -> Tensor:
        asked.append(1)
        return torch.zeros(4)

    for grouping, joint, in_turn in (
        (None, 0, 0),
        (FixedGrouping(Partition(((0,),), "single")), 0, 0),
        (Noted(), 1, 5),
    ):
        for rule, expected in ((JointUpdate(), joint), (GroupsInTurn(), in_turn)):
            asked.clear()
            parameters = {name: value.clone() for name, value in START.items()}
            rule.step(
                MemberStep(
                    MEMBERS,
                    lambda positions, own=parameters: MeanGradient().direction([LOSSES[p] for p in positions], own),
                    measured,
                    MetaOptimiser(parameters, 0.1),
                    grouping=grouping,
                )
            )
            assert len(asked) == expected


def test_a_rule_may_descend_along_the_way_of_an_inner_loop() -> None:
    grouping = Noted()
    rule = Reptile(config=ReptileConfig(optimiser="sgd", learning_rate=0.01))
    found, _ = carried_out(rule, grouping, steps=1)
    inner = {name: value.clone().requires_grad_() for name, value in START.items()}
    for loss in LOSSES:
        gradients = torch.autograd.grad(loss(inner), [*inner.values()])
        inner = {
            name: (value - 0.01 * gradient).detach().requires_grad_()
            for (name, value), gradient in zip(inner.items(), gradients, strict=True)
        }
    for name, value in START.items():  # the first step of Adam is the sign of the gradient
        torch.testing.assert_close(found[name], value - 0.05 * (value - inner[name]).sign().detach())
    ((sources, _, before, after),) = grouping.seen
    assert sources == [*MEMBERS]
    torch.testing.assert_close(before, torch.stack([loss(START) for loss in LOSSES]))
    torch.testing.assert_close(after, torch.stack([loss(found) for loss in LOSSES]))


CONFIG = LearningConfig(
    steps=12,
    teachers_per_step=3,
    batch_size=24,
    learning_rate=0.01,
    warm_up_steps=2,
    relations=0.0,
    views=24,
    steps_per_views=5,
    regularisation=RegularisationConfig(displacement=1e-2, strength=1e-2, every=2),
)


def learned(config: LearningConfig, grouping: Grouping | None = None, steps: int = 6, **more: Any) -> GroupLearner:
    learner = GroupLearner(student(), resident_bank(), grouping or Noted(), targets, config, 0, **more)
    for _ in range(steps):
        learner.step()
    return learner


def assert_equal_states(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name, value in one.items() if not torch.equal(value, other[name])] == []


def test_a_single_sub_group_in_turn_learns_as_jointly() -> None:
    joint = learned(CONFIG)
    for size in (3, 5):
        config = CONFIG.model_copy(update={"update": "in-turn", "teachers_per_update": size})
        assert_equal_states(learned(config).state(), joint.state())
    singles = learned(CONFIG.model_copy(update={"update": "in-turn", "teachers_per_update": 1}))
    name = "parameters.to_features.weight"
    assert not torch.equal(singles.state()[name], joint.state()[name])
    counts = {int(value) for key, value in singles.state().items() if key.startswith("optimiser.step.")}
    assert counts == {18}  # three steps of the optimiser a step
    assert_equal_states(learned(CONFIG, update=GroupsInTurn()).state(), singles.state())


def test_updates_in_turn_are_regularised_by_default_but_not_those_of_one_teacher() -> None:
    for given, regularised in ({}, True), ({"teachers_per_update": 1}, False):
        regularisation = {"displacement": 1e-2, "strength": 1e-2}
        options = CONFIG.model_dump(exclude={"update", "teachers_per_update"}) | given
        config = LearningConfig.model_validate(options | {"update": "in-turn", "regularisation": regularisation})
        report = learned(config, steps=0).step()
        assert (report.disagreement > 0) == regularised
        assert (report.relative_change > 0) == regularised


def test_sub_groups_in_turn_learn_the_same_by_threads_and_played_back(monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIG.model_copy(update={"update": "in-turn", "teachers_per_update": 2})
    called = learned(config).state()
    assert_equal_states(learned(config, threads=WorkerThreads(2)).state(), called)
    monkeypatch.setattr(group_learning, "Repeated", PlayedBack)
    assert_equal_states(learned(config).state(), called)


def losses_by_hand(module: Student, step: int, partition: Partition) -> tuple[tuple[int, ...], Tensor]:
    """The members of a step and their losses, from the images on."""
    bank = resident_bank()
    images, owners = draw_augmented_images(
        bank, partition.groups, 24, generator(0, "learn", "views", step // 5), shift=2, mix=CONFIG.mix
    )
    pool = add_teacher_outputs(images, owners, targets)
    random = generator(0, "learn", "step", step)
    members = draw_members(partition, 3, random)[1]
    values = []
    for member in members:
        own = (owners == member).nonzero().flatten()
        rows = own[torch.randint(len(own), (24 // len(members),), generator=random)]
        with torch.no_grad(), batch_statistics(module.classifier):
            _, features, logits = module(pool.images[rows].float() / 255)
        loss = joint_feature_loss(features, torch.as_tensor(pool.features[rows]).float(), FEATURE_SIZES)
        values.append(loss + 0.3 * distillation_loss(logits, pool.logits[rows], CLASS_COUNTS))
    return members, torch.stack(values)


@pytest.mark.parametrize("regularised", [False, True])
def test_a_grouping_observes_the_losses_of_one_step_of_a_learner(regularised: bool) -> None:
    partition = Partition(((0, 2), (1,)), "random")
    grouping = Noted(partition)
    every = 1 if regularised else 100
    config = CONFIG.model_copy(
        update={"regularisation": RegularisationConfig(displacement=1e-2, strength=1e-2, every=every)}
    )
    learner = learned(config, grouping, steps=0)
    for number in range(7):
        modules = [copy.deepcopy(learner.student)]
        loss = learner.step().loss
        modules.append(learner.student)
        sources, members, *seen = grouping.seen[-1]
        assert len(grouping.seen) == number + 1
        for module, values in zip(modules, seen, strict=True):
            expected_members, expected = losses_by_hand(module, number, partition)
            assert tuple(members) == tuple(sources) == expected_members
            torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(loss, seen[0].mean())
        assert not torch.equal(*seen)
    unobserved = learned(config, FixedGrouping(partition), steps=7)
    assert_equal_states(unobserved.state(), {k: v for k, v in learner.state().items() if k != "views.groups"})


def test_the_rule_is_chosen_by_name_and_joint_by_default() -> None:
    for config in (LearningConfig, ReplayLearningConfig):
        options = config.model_validate({})
        assert type(build_update(options.update, options.teachers_per_update)) is JointUpdate
        options = config.model_validate({"update": "in-turn", "teachers_per_update": 2})
        assert type(build_update(options.update, options.teachers_per_update)) is GroupsInTurn
        options = config.model_validate({"update": "reptile"})
        assert type(build_update(options.update, options.teachers_per_update, options.reptile)) is Reptile
        for wrong in ({"update": "never"}, {"teachers_per_update": 0}, {"reptile": {"learning_rate": 0}}):
            with pytest.raises(ValidationError):
                config.model_validate(wrong)
