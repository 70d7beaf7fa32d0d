"""Learners whose regulariser is trained and whose groups are drawn anew, stopped and resumed."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import pytest
import torch
from error_checks import raises
from learn_helpers import resident_bank, student, targets
from test_replay_learning import REPLAY, SPEC, TEACHERS, WAYS, visits
from torch import Tensor

from metazoo.errors import DataError
from metazoo.execution.randomness import generator
from metazoo.execution.threads import CALLING_THREAD, WorkerThreads
from metazoo.learn.episode_memory import EpisodeMemory
from metazoo.learn.group_learning import GroupLearner
from metazoo.learn.learning_config import LearningConfig, RegularisationConfig
from metazoo.learn.meta_optimiser import MetaOptimiser
from metazoo.learn.regularisers import Direction, Loss, MeanGradient, Parameters, Regulariser
from metazoo.learn.replay_learning import ReplayLearner, ReplayLearningConfig, Visit
from metazoo.models import build_classifier
from metazoo.storage.tensor_files import read_tensors, write_tensors
from metazoo.taskspace import FixedGrouping, Grouping, Partition

CONFIG = LearningConfig(
    steps=10,
    teachers_per_step=2,
    batch_size=8,
    learning_rate=0.01,
    warm_up_steps=2,
    views=12,
    steps_per_views=4,
    update="in-turn",
    teachers_per_update=2,
    regularisation=RegularisationConfig(displacement=1e-2, strength=1e-2, every=2),
)


class Modulator(Regulariser):
    """Regulariser that pulls every tensor to zero by a gate trained on a held-out loss (as in ProMetaR)."""

    needs_held_out = True

    def __init__(self) -> None:
        self._weights = {"gate": torch.tensor([0.5, 0.1, 0.0])}
        self._optimiser = MetaOptimiser(self._weights, 0.05)

    def direction(
        self,
        losses: Sequence[Loss],
        parameters: Parameters,
        threads: WorkerThreads = CALLING_THREAD,
        *,
        displaced: Sequence[Loss] | None = None,
        held_out: Loss | None = None,
    ) -> Direction:
        assert held_out is not None
        found = MeanGradient().direction(losses, parameters, threads)
        with torch.enable_grad():
            weights = self._weights["gate"].clone().requires_grad_()
            joined = {}
            for name, own in found.gradient.items():
                added = 0.1 * parameters[name].detach()
                figures = torch.stack([own.norm(), added.norm(), torch.ones(())])
                joined[name] = own + torch.sigmoid(figures @ weights) * added
            moved = {name: value.detach() - 0.1 * joined[name] for name, value in parameters.items()}
            (gradient,) = torch.autograd.grad(held_out(moved), weights)
        self._optimiser.step({"gate": gradient})
        gradient = {name: value.detach() for name, value in joined.items()}
        return Direction(gradient, found.losses, found.agreement, found.disagreement, found.relative_change)

    def state(self) -> dict[str, Tensor]:
        return self._optimiser.state()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        if tensors:
            self._optimiser.restore(tensors)


class Regrouping(Grouping):
    """Grouping of teachers that help each other, updated every third step (as in Selective Task Groups)."""

    observes = True

    def __init__(self, count: int) -> None:
        self._affinity = torch.zeros(count, count, dtype=torch.float64)
        self._order = torch.arange(count)
        self.drawn: list[Partition] = []

    def draw(self, step: int, random: torch.Generator) -> Partition:
        if step % 3 == 0:
            first = int(torch.randint(len(self._order), (1,), generator=random))
            explored = 0.1 * torch.rand(len(self._order), generator=random)
            self._order = (self._affinity[first] + explored).argsort(descending=True, stable=True)
        half = (len(self._order) + 1) // 2
        order = self._order.tolist()
        self.drawn.append(Partition((tuple(order[:half]), tuple(order[half:])), "affinity"))
        return self.drawn[-1]

    def observe(
        self, sources: Sequence[int], members: Sequence[int], losses_before: Tensor, losses_after: Tensor
    ) -> None:
        gain = (1 - losses_after / losses_before).double() / len(sources)
        for source in sources:
            for member, own in zip(members, gain, strict=True):
                self._affinity[source, member] = 0.7 * self._affinity[source, member] + 0.3 * own

    def state(self) -> dict[str, Tensor]:
        return {"affinity": self._affinity, "order": self._order}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        if tensors:
            self._affinity, self._order = tensors["affinity"], tensors["order"]


def group_learner(weights: int = 0) -> GroupLearner:
    return GroupLearner(
        student(weights), resident_bank(), Regrouping(3), targets, CONFIG, seed=4, regulariser=Modulator()
    )


def replay_learner(weights: int = 0) -> ReplayLearner:
    grouping = Regrouping(TEACHERS)

    def visit(iteration: int) -> Sequence[Visit]:
        partition = grouping.draw(iteration, generator(3, "visits", "iteration", iteration))
        wanted = max(partition.groups, key=len)
        found: dict[int, Visit] = {}
        for attempt in range(iteration, iteration + 100):
            found |= {visit.teacher: visit for visit in visits(attempt) if visit.teacher in wanted}
            if len(found) == len(wanted):
                break
        return [found[teacher] for teacher in wanted]

    config = ReplayLearningConfig.model_validate(
        {"learning_rate": 5e-3, "replay": REPLAY, "regularisation": {"displacement": 1e-2, "every": 2}}
    )
    classifier = build_classifier(SPEC, torch.Generator().manual_seed(weights))
    memory = EpisodeMemory(TEACHERS * WAYS, 4)
    return ReplayLearner(classifier, memory, visit, config, 3, grouping=grouping, regulariser=Modulator())


class StatefulLearner(Protocol):
    steps_done: int

    def step(self) -> Any: ...
    def calibrate(self) -> None: ...
    def state(self) -> dict[str, Tensor]: ...
    def restore(self, steps_done: int, tensors: dict[str, Tensor], /) -> None: ...


def copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}


def network_of(learner: StatefulLearner) -> torch.nn.Module:
    return learner.student if isinstance(learner, GroupLearner) else learner.classifier  # pyright: ignore[reportAttributeAccessIssue]


# Groups change after 3, 6 and 9 steps, and the pools of the first learner after 4 and 8.
@pytest.mark.parametrize("make", [group_learner, replay_learner])
def test_stopped_anywhere_they_end_as_if_they_had_not(
    tmp_path: Path, make: Callable[[int], GroupLearner | ReplayLearner]
) -> None:
    whole, steps = make(0), 10 if make is group_learner else 7
    states, reports = [copied(whole.state())], []
    for _ in range(steps):
        reports.append([float(value) for value in vars(whole.step()).values()])
        states.append(copied(whole.state()))
    whole.calibrate()
    expected = {name: value.clone() for name, value in network_of(whole).named_buffers()}
    gates = {tuple(state["regulariser.parameters.gate"].tolist()) for state in states}
    assert len(gates) == 1 + steps // 2  # one step in two is regularised
    grouping = whole._grouping
    assert isinstance(grouping, Regrouping)
    assert len({partition.groups for partition in grouping.drawn}) > 1
    for stopped_after in (1, 3, 5, steps - 2, steps):
        write_tensors(tmp_path / f"{stopped_after}.safetensors", states[stopped_after])
        resumed = make(5)  # with other first weights
        resumed.restore(stopped_after, read_tensors(tmp_path / f"{stopped_after}.safetensors"))
        for number in range(stopped_after, steps):
            assert [float(value) for value in vars(resumed.step()).values()] == reports[number]
        found = resumed.state()
        assert found.keys() == states[-1].keys()
        assert [name for name, value in states[-1].items() if not torch.equal(value, found[name])] == []
        if stopped_after in (5, steps):
            resumed.calibrate()
            assert all(torch.equal(value, expected[name]) for name, value in network_of(resumed).named_buffers())


def test_a_state_of_another_regulariser_or_grouping_is_refused() -> None:
    learner = group_learner()
    learner.step()
    learner.step()
    fixed = FixedGrouping(Partition(((0, 1, 2),), "single"))
    state = learner.state()
    with raises(DataError, subject="checkpoint", problem="regulariser"):
        GroupLearner(student(), resident_bank(), fixed, targets, CONFIG, 4).restore(2, state)
    with pytest.raises(DataError, match="strategy"):
        GroupLearner(student(), resident_bank(), fixed, targets, CONFIG, 4, regulariser=Modulator()).restore(2, state)


def test_without_state_of_their_own_nothing_is_added_to_the_checkpoint() -> None:
    fixed = FixedGrouping(Partition(((0, 1, 2),), "single"))
    learner = GroupLearner(student(), resident_bank(), fixed, targets, CONFIG, 4)
    learner.step()
    assert {name.partition(".")[0] for name in learner.state()} == {"parameters", "optimiser"}


class HeldOut(Regulariser):
    """Mean gradient that reads the loss of a held-out teacher."""

    needs_held_out = True

    def __init__(self) -> None:
        self.values: list[Tensor] = []

    def direction(
        self,
        losses: Sequence[Loss],
        parameters: Parameters,
        threads: WorkerThreads = CALLING_THREAD,
        *,
        displaced: Sequence[Loss] | None = None,
        held_out: Loss | None = None,
    ) -> Direction:
        if held_out is not None:
            with torch.no_grad():
                self.values.append(held_out(parameters))
        return MeanGradient().direction(losses, parameters, threads)


@pytest.mark.parametrize(
    ("groups", "members", "allowed"),
    [
        (((0, 1), (2,)), 1, {(0,): {1}, (1,): {0}, (2,): {0, 1}}),
        (((0, 1, 2),), 2, {(0, 1): {2}, (0, 2): {1}, (1, 2): {0}}),
    ],
)
def test_a_held_out_teacher_is_another_of_the_group_if_there_is_one(
    groups: tuple[tuple[int, ...], ...], members: int, allowed: dict[tuple[int, ...], set[int]]
) -> None:
    config = CONFIG.model_copy(
        update={"update": "joint", "teachers_per_step": members, "regularisation": RegularisationConfig(kind="mean")}
    )
    grouping, regulariser = FixedGrouping(Partition(groups, "random")), HeldOut()
    learner, plain = (
        GroupLearner(student(), resident_bank(), grouping, targets, config, 0, **more)
        for more in (cast(dict[str, Any], {"regulariser": regulariser}), {})
    )
    owners: list[int] = []
    real = learner._loss

    def watched(pool: Any, rows: Tensor) -> Loss:
        (owner,) = set(pool.owners[rows].tolist())
        owners.append(owner)
        return real(pool, rows)

    learner._loss = watched  # pyright: ignore[reportAttributeAccessIssue]
    seen = set()
    for _ in range(10):
        owners.clear()
        assert float(learner.step().loss) == float(plain.step().loss)  # other draws are as without it
        assert len(owners) == members + 1
        drawn = tuple(sorted(owners[:members]))
        assert owners[members] in allowed[drawn]
        seen.add((drawn, owners[members]))
    assert len(seen) > 1
    assert len({float(value) for value in regulariser.values}) == 10
    assert all(torch.equal(value, plain.state()[name]) for name, value in learner.state().items())


def test_no_member_is_held_out_where_all_teachers_are_members() -> None:
    config = CONFIG.model_copy(
        update={"teachers_per_step": 3, "regularisation": RegularisationConfig(kind="mean"), "update": "joint"}
    )
    grouping, regulariser = FixedGrouping(Partition(((0, 1, 2),), "single")), HeldOut()
    learner = GroupLearner(student(), resident_bank(), grouping, targets, config, 0, regulariser=regulariser)
    for _ in range(3):
        learner.step()
    assert regulariser.values == []


@pytest.mark.parametrize(
    ("teachers", "held_out", "members"),
    [
        ((0, 1, 2), 2, (0, 1)),
        ((0, 1, 1), 0, (1, 1)),
        ((2, 0, 1, 0), 1, (2, 0, 0)),
        ((1, 1, 0, 0), None, (1, 1, 0, 0)),
        ((1, 1), None, (1, 1)),
        ((1,), None, (1,)),
    ],
)
def test_a_teacher_that_is_visited_once_is_held_out_of_a_meta_iteration(
    teachers: tuple[int, ...], held_out: int | None, members: tuple[int, ...]
) -> None:
    config = ReplayLearningConfig.model_validate(
        {"replay": {**REPLAY, "most_updates": 0}, "shared_augmentation": False, "shift": 0.0}
    )
    by_teacher = {visit.teacher: visit for visit in (*visits(0), *visits(1), *visits(2))}
    grouping, regulariser = Regrouping(TEACHERS), HeldOut()
    seen: list[tuple[int, ...]] = []
    grouping.observe = lambda sources, *_: seen.append(tuple(sources))  # pyright: ignore[reportAttributeAccessIssue]

    def made(own: Sequence[int], **more: Any) -> ReplayLearner:
        classifier = build_classifier(SPEC, torch.Generator().manual_seed(0))
        memory = EpisodeMemory(TEACHERS * WAYS, 4)
        learner = ReplayLearner(classifier, memory, lambda _: [by_teacher[one] for one in own], config, 3, **more)
        learner._augmented = lambda visits, random: [visit.images.float() / 255 for visit in visits]
        return learner

    made(teachers, grouping=grouping, regulariser=regulariser).step()
    assert seen == [members]
    expected = [] if held_out is None else [made([held_out]).step().loss]
    assert [float(value) for value in regulariser.values] == pytest.approx(expected, rel=1e-6)


def test_the_last_visit_is_held_out_of_a_meta_iteration() -> None:
    config = ReplayLearningConfig.model_validate(
        {"replay": {**REPLAY, "most_updates": 0}, "shared_augmentation": False, "shift": 0.0}
    )

    def made(visit: Callable[[int], Sequence[Visit]], regulariser: Regulariser) -> ReplayLearner:
        classifier = build_classifier(SPEC, torch.Generator().manual_seed(0))
        memory = EpisodeMemory(TEACHERS * WAYS, 4)
        return ReplayLearner(classifier, memory, visit, config, 3, regulariser=regulariser)

    held_out = HeldOut()
    both, alone = made(visits, held_out), made(lambda number: visits(number)[:1], HeldOut())
    both._augmented = alone._augmented = lambda visits, random: [visit.images.float() / 255 for visit in visits]
    last = made(lambda number: visits(number)[1:], MeanGradient())
    last._augmented = alone._augmented
    expected = last.step().loss
    assert both.step().loss == alone.step().loss
    assert float(held_out.values[0]) == pytest.approx(expected, rel=1e-6)
    assert all(torch.equal(value, alone.state()[name]) for name, value in both.state().items() if "memory" not in name)
