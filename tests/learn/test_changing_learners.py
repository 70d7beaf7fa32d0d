"""Learners with selective groups and a modulated regulariser, stopped and resumed."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from learn_helpers import resident_bank, student, targets
from test_learner_state import CONFIG, SPEC, TEACHERS, WAYS, StatefulLearner, copied, network_of
from test_replay_learning import REPLAY, visits

from metazoo.execution.randomness import generator
from metazoo.execution.threads import WorkerThreads
from metazoo.learn.episode_memory import EpisodeMemory
from metazoo.learn.group_learning import GroupLearner
from metazoo.learn.learning_config import RegularisationConfig
from metazoo.learn.replay_learning import ReplayLearner, ReplayLearningConfig, Visit
from metazoo.models import build_classifier
from metazoo.storage.tensor_files import read_tensors, write_tensors
from metazoo.taskspace import AffinityConfig, SelectiveGrouping

AFFINITY = AffinityConfig(warm_up_steps=2, every=1, rate=0.3)
MODULATED = {"kind": "modulated", "displacement": 1e-2, "strength": 1e-2, "every": 2}


def group_learner(weights: int = 0, threads: int = 1, members: int = 2) -> GroupLearner:
    regularisation = RegularisationConfig.model_validate(MODULATED)
    config = CONFIG.model_copy(update={"regularisation": regularisation, "teachers_per_step": members})
    grouping = SelectiveGrouping(3, AFFINITY)
    return GroupLearner(
        student(weights), resident_bank(), grouping, targets, config, seed=4, threads=WorkerThreads(threads)
    )


def replay_learner(weights: int = 0) -> ReplayLearner:
    grouping = SelectiveGrouping(TEACHERS, AFFINITY)

    def visit(iteration: int) -> Sequence[Visit]:
        grouping.draw(iteration, generator(3, "visits", "iteration", iteration))
        return [*visits(iteration), *visits(iteration + 1)]

    config = ReplayLearningConfig.model_validate(
        {"learning_rate": 5e-3, "replay": REPLAY, "regularisation": MODULATED, "update": "in-turn"}
    )
    classifier = build_classifier(SPEC, torch.Generator().manual_seed(weights))
    return ReplayLearner(classifier, EpisodeMemory(TEACHERS * WAYS, 4), visit, config, 3, grouping=grouping)


@pytest.mark.parametrize("make", [group_learner, replay_learner])
def test_stopped_anywhere_they_end_as_if_they_had_not(tmp_path: Path, make: Callable[[int], StatefulLearner]) -> None:
    whole, steps = make(0), 7
    states, reports = [copied(whole.state())], []
    for _ in range(steps):
        reports.append([float(value) for value in vars(whole.step()).values()])
        states.append(copied(whole.state()))
    whole.calibrate()
    expected = {name: value.clone() for name, value in network_of(whole).named_buffers()}
    assert int(states[-1]["regulariser.count"]) >= steps // 2
    assert states[-1]["regulariser.output.bias"] != 0
    assert (states[-1]["grouping.counts"] > 0).sum() > 4
    for stopped_after in (1, 3, 4, steps):
        write_tensors(tmp_path / f"{stopped_after}.safetensors", states[stopped_after])
        resumed = make(5)  # with other first weights
        resumed.restore(stopped_after, read_tensors(tmp_path / f"{stopped_after}.safetensors"))
        for number in range(stopped_after, steps):
            assert [float(value) for value in vars(resumed.step()).values()] == reports[number]
        found = resumed.state()
        assert found.keys() == states[-1].keys()
        assert [name for name, value in states[-1].items() if not torch.equal(value, found[name])] == []
    resumed.calibrate()
    assert all(torch.equal(value, expected[name]) for name, value in network_of(resumed).named_buffers())


def test_the_members_of_a_group_take_one_step_together() -> None:
    learner = group_learner(members=3)
    grouping = learner._grouping
    assert isinstance(grouping, SelectiveGrouping)
    seen: list[tuple[list[int], int]] = []
    real = grouping.observe

    def watched(sources: list[int], members: Sequence[int], before: torch.Tensor, after: torch.Tensor) -> None:
        seen.append((sorted(sources), len(members)))
        real(sources, members, before, after)

    grouping.observe = watched  # pyright: ignore[reportAttributeAccessIssue]
    for number in range(4):
        seen.clear()
        learner.step()
        assert sorted(tuple(sources) for sources, _ in seen) == sorted(grouping.groups)
        assert {count for _, count in seen} == {3}
        if number < 2:
            assert len(seen) == 3
    adam = learner.state()["optimiser.step.to_features.bias"]
    before = int(adam)
    grouping._labels = torch.tensor([0, 2, 0])
    grouping._config = AffinityConfig(warm_up_steps=100)
    learner.step()
    assert sorted(sources for sources, _ in seen[-2:]) == [[0, 2], [1]]
    assert int(learner.state()["optimiser.step.to_features.bias"]) == before + 2


def test_threads_change_nothing() -> None:
    one, two = group_learner(), group_learner(threads=2)
    for _ in range(5):
        one.step()
        two.step()
    found = two.state()
    assert [name for name, value in one.state().items() if not torch.equal(value, found[name])] == []
