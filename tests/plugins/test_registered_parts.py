"""Architectures, groupings, regularisers and learners that are registered are built, checked and used by name."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from error_checks import raises
from plugin_helpers import without_plugins
from torch import Tensor, nn
from training_helpers import OPTIONS, untrained

import metazoo
from metazoo.errors import DataError, UsageError
from metazoo.learn.learners import Learner
from metazoo.learn.learning_config import RegularisationConfig
from metazoo.learn.regularisers import ExplicitRegularisation
from metazoo.learn.replay_learning import ReplayConfig
from metazoo.models import ClassifierSpec, Network, build_network, network_without_weights
from metazoo.pipeline.layout import GROUPING, META_MODEL
from metazoo.runs.config import resolve_config
from metazoo.runs.option_list import options_text
from metazoo.storage.tensor_files import read_tensors
from metazoo.taskspace import (
    AffinityConfig,
    ChangingGroups,
    CheckedGrouping,
    FixedGrouping,
    Grouping,
    Partition,
    ProbeConfig,
    group,
)

SHAPE: dict[str, Any] = {"classes": 3, "channels": 3, "input_size": 16}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    with without_plugins():
        yield


class Plain(Network):
    def __init__(self, *, classes: int, channels: int, input_size: int, depth: int = 1, wide: bool = False) -> None:
        super().__init__()
        if depth > 8:
            raise ValueError("depth goes to 8")
        self.feature_size = channels * input_size**2
        self.head = nn.Linear(self.feature_size, classes)

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def test_an_architecture_takes_the_arguments_of_its_builder() -> None:
    metazoo.register_architecture("plain", Plain)
    network = build_network("plain", **SHAPE, arguments={"depth": 2, "wide": True})
    assert isinstance(network, Plain)
    for arguments, problem in (
        ({"width": 2}, "depth, wide, not 'width'"),
        ({"classes": 2}, "depth, wide, not 'classes'"),
        ({"depth": 9}, "3 channels and 16 pixels, depth 9 (depth goes to 8)"),
    ):
        with raises(UsageError, subject="plain", problem=problem):
            build_network("plain", **SHAPE, arguments=arguments)
    metazoo.register_architecture("any", lambda **given: Plain(**{key: given[key] for key in SHAPE}))
    assert isinstance(build_network("any", **SHAPE, arguments={"whatever": 1}), Plain)


def spec_of(name: str) -> ClassifierSpec:
    return ClassifierSpec(architecture=name, **SHAPE, mean=(0.5,) * 3, std=(0.25,) * 3)


def endless(**shape: Any) -> nn.Module:
    return endless(**shape)


class WithoutHead(Plain):
    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.head = nn.Linear(3, given["classes"])


@pytest.mark.parametrize(
    ("builder", "problem"),
    [
        (WithoutHead, "its head is not a linear layer with bias from feature_size"),
        (lambda **_: nn.Linear(2, 2), "cannot be built for 3 channels and 16 pixels"),
        (lambda **_: None, "its builder returns a NoneType"),
        (lambda **_: sys.exit(0), "cannot be built for 3 channels and 16 pixels (0)"),
        (endless, "(maximum recursion depth exceeded"),
        (5, "its builder, 5, is not a function or class"),
        (dict, "is not a function or class with known arguments"),
    ],
)
def test_a_builder_of_something_else_is_refused(builder: Any, problem: str) -> None:
    metazoo.register_architecture("wrong", builder)
    for build in (build_network, lambda name, **_: network_without_weights(spec_of(name))):
        with raises(UsageError, subject="wrong", problem=problem):
            build("wrong", **SHAPE)


def test_a_builder_that_reads_values_is_refused_before_anything_is_loaded() -> None:
    @metazoo.register_architecture("reading")
    class Reading(Plain):
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            self.scale = torch.ones(1).item()

    assert isinstance(build_network("reading", **SHAPE), Reading)
    with raises(UsageError, subject="reading", problem="3 channels and 16 pixels"):
        network_without_weights(spec_of("reading"))


def test_options_take_a_width_where_the_architecture_does() -> None:
    metazoo.register_architecture("plain", Plain)
    metazoo.register_architecture("wide", lambda *, classes, channels, input_size, width=(1, 2): None)  # pyright: ignore
    for width in (3, [3, 4, 5]):
        assert resolve_config({"meta_model": {"architecture": "wide", "width": width}}).options
    assert resolve_config({"meta_model": {"architecture": "plain", "width": None}}).options
    for options, problem in (
        ({"meta_model": {"architecture": "plain", "width": 3}}, "meta_model.width.* depth, wide, not 'width'"),
        ({"meta_model": {"architecture": "wide", "width": 0}}, "meta_model.width.* from 1 to 4096, not 0"),
        ({"probe": {"architecture": "plain", "width": 3}}, "probe.* depth, wide, not 'width'"),
    ):
        with pytest.raises(UsageError, match=problem):
            resolve_config(options)
    assert ProbeConfig(architecture="wide").trained


def by_turns(distance: np.ndarray, groups: int, seed: int) -> tuple[np.ndarray, tuple[str, ...]]:
    return np.arange(len(distance)) % groups + seed, ("in the order of the names",)


def test_a_grouping_is_asked_for_by_its_name() -> None:
    metazoo.register_grouping("by-turns", by_turns)
    distance = 1 - torch.eye(5)
    found = group(distance, "by-turns", 2, keys=list("edcba"), seed=7)
    assert (found.groups, found.strategy) == (((4, 2, 0), (3, 1)), "by-turns")
    assert found.notes == ("in the order of the names",)
    assert group(distance, "by-turns", 1, keys=list("edcba")).groups == ((4, 3, 2, 1, 0),)
    assert "strategy: dispersed  # dispersed | spectral | homogeneous | random | single | selective | by-turns; " in (
        options_text(resolve_config())
    )


def test_a_run_learns_from_groups_of_a_registered_strategy_that_change(tmp_path: Path) -> None:
    made: list[int] = []

    def build(count: int, _options: object) -> FixedGrouping:
        made.append(count)
        return FixedGrouping(Partition((tuple(range(count)),), "everyone"))

    metazoo.register_grouping("everyone", ChangingGroups(build))
    zoo, weights = untrained(tmp_path / "zoo"), []
    for strategy in ("everyone", "single"):
        config = {**OPTIONS, "grouping": {"strategy": strategy}}
        run = metazoo.train(zoo, out=tmp_path / strategy, config=config, workers=1)
        weights.append(read_tensors(run.path / META_MODEL / "model.safetensors"))
    assert made == [3, 3]  # one is a trial
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


class Faulty(Grouping):
    """Grouping with given groups and sub-groups."""

    def __init__(self, groups: Any, parts: Any = ()) -> None:
        self._groups, self._parts = groups, parts

    def draw(self, step: int, random: torch.Generator) -> Partition:
        return Partition(self._groups, "faulty")

    def sub_groups(self, members: Sequence[int]) -> Any:
        return self._parts


@pytest.mark.parametrize(
    ("strategy", "problem"),
    [
        (ChangingGroups(lambda count: Faulty(count)), "for 3 teachers (TypeError: "),  # pyright: ignore[reportArgumentType]
        (ChangingGroups(lambda count, _: Faulty(((0, 1),))), "draws no partition of the 3 teachers in step 0"),
        (ChangingGroups(lambda count, _: Faulty(((0, 1, 2), ()))), "draws no partition of the 3 teachers in step 0"),
        (
            ChangingGroups(lambda count, _: Faulty(((0, 1, 2),), ((0,), (0,)))),
            "3 members of a step into the sub-groups",
        ),
        (ChangingGroups(lambda count, _: Faulty(((0, 1, 2),), ((2, 0, 1), ()))), "into the sub-groups ((2, 0, 1), ())"),
        (ChangingGroups(lambda count, _: Faulty(((0, 1, 2),), (7, 8))), "fails for 3 teachers (Type"),
        (Faulty, "is neither a function of distances nor ChangingGroups"),
    ],
)
def test_a_faulty_grouping_is_refused_before_any_work(tmp_path: Path, strategy: Any, problem: str) -> None:
    metazoo.register_grouping("faulty", strategy)
    zoo, config = untrained(tmp_path / "zoo"), {**OPTIONS, "grouping": {"strategy": "faulty"}}
    with raises(UsageError, subject="grouping 'faulty'", problem=problem):
        metazoo.train(zoo, out=tmp_path / "run", config=config, workers=1)
    assert not (tmp_path / "run").exists()


def test_a_grouping_is_checked_in_every_step() -> None:
    class Later(Faulty):
        def draw(self, step: int, random: torch.Generator) -> Partition:
            return Partition(((0, 1, 2),) if step < 5 else ((0, 1),), "later")

    metazoo.register_grouping("later", ChangingGroups(lambda *_: Later(())))
    grouping, random = CheckedGrouping("later", 3, AffinityConfig()), torch.Generator()
    assert grouping.draw(4, random).groups == ((0, 1, 2),)
    with raises(UsageError, subject="grouping 'later'", problem="3 teachers in step 5"):
        grouping.draw(5, random)


@pytest.mark.parametrize("answer", [np.zeros(4, int), np.zeros(5), [0] * 5])
def test_a_grouping_with_a_wrong_result_is_refused(answer: Any) -> None:
    metazoo.register_grouping("wrong", lambda *_: (answer, ()))
    with raises(UsageError, subject="grouping 'wrong'", remedy="integers [5]"):
        group(1 - torch.eye(5), "wrong", 2, keys=list("abcde"))


def test_a_learner_gets_the_options_of_the_inner_loop() -> None:
    @metazoo.register_learner("own")
    class Own(Learner):
        def __init__(self, steps: int, learning_rate: float) -> None:
            self.options = (steps, learning_rate)

        def query_logits(self, model: Any, parameters: Any, episode: Any) -> Tensor:
            raise DataError("not asked for here")

    learner = ReplayConfig.model_validate(
        {"learner": "own", "inner_steps": 3, "inner_learning_rate": 0.5}
    ).build_learner()
    assert isinstance(learner, Own)
    assert learner.options == (3, 0.5)
    with pytest.raises(UsageError, match=r"unknown learner 'reptile'; choose one of maml, .*own"):
        resolve_config({"preset": "published", "learning": {"replay": {"learner": "reptile"}}})


def test_a_run_groups_and_regularises_by_what_is_registered(tmp_path: Path) -> None:
    metazoo.register_grouping("by-turns", by_turns)

    asked = []

    @metazoo.register_regulariser("twice")
    def twice(config: RegularisationConfig) -> ExplicitRegularisation:
        asked.append(config.step_strength)
        return ExplicitRegularisation(2 * config.step_strength)

    zoo = untrained(tmp_path / "zoo")
    weights = []
    for kind, strength in (("twice", 0.5), ("explicit", 1.0)):
        learning = {**OPTIONS["learning"], "regularisation": {"kind": kind, "strength": strength, "every": 2}}
        config = {**OPTIONS, "grouping": {"strategy": "by-turns", "groups": 2}, "learning": learning}
        run = metazoo.train(zoo, out=tmp_path / kind, config=config, workers=1)
        assert run.record(GROUPING)["strategy"] == "by-turns"
        weights.append(read_tensors(run.path / META_MODEL / "model.safetensors"))
    assert {*asked} == {1.0}
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
