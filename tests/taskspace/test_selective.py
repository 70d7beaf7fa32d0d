"""Selective groups: affinities against slow loops, planted groups, and real updates of quadratic tasks."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from error_checks import raises
from pydantic import ValidationError
from torch import Tensor

from metazoo.errors import DataError, UsageError
from metazoo.execution.randomness import generator
from metazoo.learn.meta_optimiser import MetaOptimiser
from metazoo.learn.regularisers import Loss, MeanGradient, Parameters
from metazoo.learn.update_rules import GroupsInTurn, MemberStep
from metazoo.taskspace import AffinityConfig, SelectiveGrouping, draw_members, group, selective


def values(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def affinities_by_hand(sources: Sequence[int], members: Sequence[int], change: Sequence[float]) -> dict[Any, float]:
    found = {}
    for i, own in zip(members, change, strict=True):
        for j, other in zip(members, change, strict=True):
            if i not in sources:
                continue
            affinity = other
            if i == j:
                affinity = max(other, 0.0)
            elif j in sources and own * other < 0:
                affinity = -max(own, other)
            found[i, j] = affinity / len(sources)
    return found


@pytest.mark.parametrize("rate", [1e-3, 0.3, 1.0])
def test_affinities_are_means_of_what_was_observed(rate: float) -> None:
    random = np.random.default_rng(0)
    grouping = SelectiveGrouping(6, AffinityConfig(rate=rate))
    seen: dict[Any, list[float]] = {}
    for _ in range(40):
        members = random.permutation(6)[:4].tolist()
        sources = members[: random.integers(1, 5)]
        before, change = random.uniform(0.5, 2, 4), random.normal(size=4)
        after = before * (1 - change)
        grouping.observe(sources, members, torch.from_numpy(before), torch.from_numpy(after))
        for pair, affinity in affinities_by_hand(sources, members, change.tolist()).items():
            seen.setdefault(pair, []).append(affinity)
    for i, j in itertools.product(range(6), range(6)):
        observed = seen.get((i, j), [])
        weights = [rate * (1 - rate) ** (len(observed) - number) for number in range(1, len(observed) + 1)]
        expected = np.dot(weights, observed) / sum(weights) if observed else 0.0
        assert float(grouping.affinity[i, j]) == pytest.approx(expected, abs=1e-12)
    assert all(float(own) >= 0 for own in grouping.affinity.diagonal())


# Two tasks of two parameters. The first pulls x to 3; the second pulls x to -1, against it, and y to 1.
TASKS: tuple[Loss, ...] = (
    lambda p: (p["w"][0] - 3).square() + 0.5,
    lambda p: 2 * (p["w"][0] + 1).square() + (p["w"][1] - 1).square(),
)


def losses_of(point: np.ndarray) -> np.ndarray:
    x, y = point
    return np.array([(x - 3) ** 2 + 0.5, 2 * (x + 1) ** 2 + (y - 1) ** 2])


def gradient_of(task: int, point: np.ndarray) -> np.ndarray:
    x, y = point
    return np.array([2 * (x - 3), 0.0]) if task == 0 else np.array([4 * (x + 1), 2 * (y - 1)])


def test_the_effect_of_an_update_is_credited_to_the_group_that_was_updated() -> None:
    grouping, parameters = SelectiveGrouping(2), {"w": values(0, 0)}
    grouping.draw(0, torch.Generator().manual_seed(0))
    step = MemberStep(
        (0, 1),
        lambda positions: MeanGradient().direction([TASKS[position] for position in positions], parameters),
        lambda: torch.stack([task(parameters) for task in TASKS]),
        MetaOptimiser(parameters, 0.1),
        grouping=grouping,
    )
    first, second = [part[0] for part in grouping.sub_groups((0, 1))]
    assert {first, second} == {0, 1}
    GroupsInTurn().step(step)

    point, moments, trail = np.zeros(2), [np.zeros(2), np.zeros(2)], [losses_of(np.zeros(2))]
    for count, task in enumerate((first, second), 1):  # Adam by hand
        slope = gradient_of(task, point)
        moments = [0.9 * moments[0] + 0.1 * slope, 0.999 * moments[1] + 0.001 * slope**2]
        lengths = np.sqrt(moments[1] / (1 - 0.999**count)) + 1e-8
        point = point - 0.1 * moments[0] / (1 - 0.9**count) / lengths
        trail.append(losses_of(point))
    changes = [1 - after / before for before, after in itertools.pairwise(trail)]
    expected = np.zeros((2, 2))
    for task, change in zip((first, second), changes, strict=True):
        expected[task] = change
        expected[task, task] = max(change[task], 0)
    np.testing.assert_allclose(grouping.affinity.numpy(), expected, rtol=1e-9)
    assert grouping.affinity[first, first] > 0 > grouping.affinity[first, second]
    # As published, the change between two passes counts for the group that is updated after the second of them: the
    # first update seems to be one of the other task, and the second one is never seen.
    published = np.zeros((2, 2))
    published[second] = changes[0]
    assert published[second, second] < 0
    assert np.abs(published - expected).max() > 0.05


def planted(blocks: Sequence[int], seed: int, sign: int = 1) -> dict[str, Tensor]:
    """State with affinities that are `sign` within blocks and about zero between them, at scales of their own."""
    random = np.random.default_rng(seed)
    kind = np.array(blocks)
    affinity = sign * 0.8 * (kind[:, None] == kind) + 0.1 * random.normal(size=(len(kind), len(kind)))
    np.fill_diagonal(affinity, 1)
    affinity *= 10 ** random.uniform(-3, 0, len(kind))  # of every column, which its diagonal undoes
    counts = torch.full(affinity.shape, 5, dtype=torch.int64)
    return {"affinity": torch.from_numpy(affinity), "counts": counts, "groups": torch.arange(len(kind))}


def blocks_of(blocks: Sequence[int]) -> set[tuple[int, ...]]:
    return {tuple(np.flatnonzero(np.array(blocks) == kind).tolist()) for kind in set(blocks)}


@pytest.mark.parametrize("blocks", [[0, 1, 2] * 4, [0] * 6 + [1] * 6, [0, 0, 1, 2, 1, 2, 0, 1, 2, 2, 1, 0, 3, 3, 3]])
@pytest.mark.parametrize(("together", "sign"), [("helpful", 1), ("unlike", -1)])
@pytest.mark.parametrize("seed", range(3))
def test_planted_groups_are_found(blocks: list[int], together: Any, sign: int, seed: int) -> None:
    grouping = SelectiveGrouping(len(blocks), AffinityConfig(warm_up_steps=2, every=3, together=together))
    grouping.restore(planted(blocks, seed, sign))
    singles = {(index,) for index in range(len(blocks))}
    for step in range(2):
        grouping.draw(step, generator(seed, "step", "draw", step))
        assert {*grouping.groups} == singles
    grouping.draw(3, generator(seed, "step", "draw", 3))  # between two periods
    assert {*grouping.groups} == singles
    grouping.draw(5, generator(seed, "step", "draw", 5))
    assert {*grouping.groups} == blocks_of(blocks)


def test_pairs_that_never_met_count_as_average_ones() -> None:
    state = planted([0, 0, 0, 1, 1, 1], seed=0)
    state["counts"][0, 3] = state["counts"][3, 0] = 0
    state["affinity"][0, 3] = state["affinity"][3, 0] = 0
    complete, scale = {name: value.clone() for name, value in state.items()}, state["affinity"].diagonal()
    others = (state["counts"] > 0) & ~torch.eye(6, dtype=torch.bool)
    mean = (state["affinity"] / scale)[others].mean()
    complete["affinity"][0, 3], complete["affinity"][3, 0] = mean * scale[3], mean * scale[0]
    complete["counts"][:] = 1
    found = []
    for given in (state, complete):
        grouping = SelectiveGrouping(6, AffinityConfig(warm_up_steps=0))
        grouping.restore(given)
        grouping.draw(0, torch.Generator())
        found.append(grouping.groups)
    assert found[0] == found[1] == ((0, 1, 2), (3, 4, 5))


def test_without_observations_every_teacher_is_a_group() -> None:
    grouping = SelectiveGrouping(4, AffinityConfig(warm_up_steps=0))
    partition = grouping.draw(0, torch.Generator())
    assert partition.groups == ((0, 1, 2, 3),)
    assert grouping.groups == ((0,), (1,), (2,), (3,))
    lone = SelectiveGrouping(1)
    lone.draw(500, torch.Generator())
    assert lone.sub_groups((0, 0)) == ((0, 1),)


def test_a_teacher_that_its_own_updates_do_not_help_is_alone() -> None:
    state = planted([0, 0, 0, 1, 1, 1], seed=1)
    state["affinity"][4, 4] = 0
    grouping = SelectiveGrouping(6, AffinityConfig(warm_up_steps=0))
    grouping.restore(state)
    grouping.draw(0, torch.Generator())
    assert {*grouping.groups} == {(0, 1, 2), (3, 5), (4,)}


def test_groups_remain_if_no_new_ones_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    grouping = SelectiveGrouping(6, AffinityConfig(warm_up_steps=0))
    state = planted([0, 0, 0, 1, 1, 1], seed=1)
    state["groups"] = torch.tensor([0, 1, 0, 1, 0, 1])
    grouping.restore(state)
    monkeypatch.setattr(selective, "_MOST_ITERATIONS", 3)  # too few for affinity propagation
    grouping.draw(0, torch.Generator())
    assert grouping.groups == ((0, 2, 4), (1, 3, 5))


def test_the_members_of_a_step_are_split_in_a_random_order() -> None:
    grouping = SelectiveGrouping(6, AffinityConfig(warm_up_steps=10))
    grouping.restore(planted([0] * 6, 0) | {"groups": torch.tensor([0, 3, 0, 3, 5, 0])})
    seen = set()
    for step in range(8):
        grouping.draw(step, generator(0, "step", "draw", step))
        parts = grouping.sub_groups((3, 0, 4, 2, 3))
        assert {*parts} == {(0, 4), (1, 3), (2,)}
        grouping.draw(step, generator(0, "step", "draw", step))
        assert grouping.sub_groups((3, 0, 4, 2, 3)) == parts
        seen.add(parts)
    assert len(seen) > 2


def test_a_teacher_that_is_visited_twice_counts_once() -> None:
    twice, once = SelectiveGrouping(3), SelectiveGrouping(3)
    twice.observe([1, 1], [1, 1, 2], values(1, 2, 4), values(0.5, 1.8, 3))
    once.observe([1], [1, 2], values(1, 4), values(1 - (0.5 + 0.1) / 2, 3))
    torch.testing.assert_close(twice.affinity, once.affinity)
    assert float(once.affinity[1, 2]) == pytest.approx(0.25)


def test_losses_without_a_relative_change_are_ignored() -> None:
    grouping = SelectiveGrouping(3)
    for before, after in ((0.0, 1.0), (float("nan"), 1.0), (1.0, float("inf")), (-1.0, 1.0)):
        grouping.observe([0], [0, 1], values(before, before), values(after, after))
    assert not grouping.state()["counts"].any()
    grouping.observe([0, 1], [0, 1, 2], values(1, 0, 2), values(0.5, 1, 1))
    assert grouping.state()["counts"].tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert float(grouping.affinity[0, 2]) == 0.5 / 2


def quadratic(target: Tensor) -> Loss:
    return lambda parameters: (parameters["w"] - target).square().sum() + 0.1


def test_tasks_that_want_the_same_are_found_by_their_updates() -> None:
    random, kinds = torch.Generator().manual_seed(0), [0, 1, 1, 0, 2, 1, 0, 2, 2]
    centres = 10 * torch.eye(3, 6, dtype=torch.float64)
    tasks = [quadratic(centres[kind] + 0.3 * torch.randn(6, generator=random)) for kind in kinds]
    parameters: Parameters = {"w": torch.zeros(6, dtype=torch.float64)}
    optimiser = MetaOptimiser(parameters, 0.05)
    grouping = SelectiveGrouping(9, AffinityConfig(warm_up_steps=100, every=10))
    for number in range(151):
        drawn = generator(0, "step", "draw", number)
        members = draw_members(grouping.draw(number, drawn), 4, drawn)[1]
        losses = [tasks[member] for member in members]
        step = MemberStep(
            members,
            lambda positions, own=losses: MeanGradient().direction([own[p] for p in positions], parameters),
            lambda own=losses: torch.stack([loss(parameters) for loss in own]),
            optimiser,
            grouping=grouping,
        )
        GroupsInTurn(1).step(step)
    assert {*grouping.groups} == blocks_of(kinds)


def test_a_state_is_restored_or_refused() -> None:
    grouping = SelectiveGrouping(4)
    grouping.observe([0, 1], [0, 1, 3], values(1, 2, 3), values(0.5, 2.5, 3))
    state = {name: value.clone() for name, value in grouping.state().items()}
    again = SelectiveGrouping(4)
    again.restore({})
    again.restore(state)
    state["affinity"].zero_()  # a copy was taken
    assert all(torch.equal(value, again.state()[name]) for name, value in grouping.state().items())
    state = dict(grouping.state())
    for wrong in (
        {"affinity": state["affinity"]},
        state | {"more": state["groups"]},
        state | {"affinity": state["affinity"].float()},
        state | {"groups": torch.tensor([0, 1, 2, 4])},
        state | {"groups": torch.tensor([0, 1, 2, -1])},
        SelectiveGrouping(5).state(),
    ):
        with raises(DataError, subject="checkpoint", problem="groups", remedy="start the run again"):
            again.restore(wrong)
    assert all(torch.equal(value, again.state()[name]) for name, value in grouping.state().items())


def test_impossible_uses_are_refused() -> None:
    with raises(UsageError, subject="teachers", problem="0"):
        SelectiveGrouping(0)
    for wrong in ({"rate": 0}, {"rate": 1.5}, {"every": 0}, {"warm_up_steps": -1}, {"together": "dispersed"}):
        with pytest.raises(ValidationError):
            AffinityConfig.model_validate(wrong)
    with raises(UsageError, subject="grouping 'selective'", problem="before the meta-model learns", remedy="distances"):
        group(1 - torch.eye(4), "selective", 2, keys=list("abcd"))
