"""Learning from interpolated tasks, on images that are noise around one colour a class."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from error_checks import raises
from torch import Tensor
from torch.nn import functional

from metazoo.errors import DataError
from metazoo.execution.threads import CALLING_THREAD, WorkerThreads
from metazoo.learn.episode_memory import EpisodeMemory
from metazoo.learn.interpolated_learning import (
    InterpolatedTask,
    InterpolationConfig,
    InterpolationLearner,
    beta,
    draw_task,
    visit_distillation,
)
from metazoo.learn.learners import EpisodeImages, FunctionalClassifier, ProtoNet
from metazoo.learn.model_choice import ChoiceConfig, Reward, RewardEpisode
from metazoo.learn.replay_learning import Visit
from metazoo.models import ClassifierSpec, build_classifier

TEACHERS, WAYS, EACH, SIDE = 4, 3, 6, 16
SPEC = ClassifierSpec(
    architecture="conv4", arguments={"width": 4}, classes=WAYS, input_size=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3
)
CONFIG = InterpolationConfig(steps=20, learning_rate=5e-3, shots=2, queries=3, tasks_per_step=3, patience=2)


def images_of(identities: Tensor, random: torch.Generator) -> Tensor:
    colours = torch.rand(TEACHERS * WAYS, 3, 1, 1, generator=torch.Generator().manual_seed(7))[identities]
    return ((0.8 * colours + 0.2 * torch.rand(len(identities), 3, SIDE, SIDE, generator=random)) * 255).to(torch.uint8)


def teacher_logits(images: Tensor, teacher: int) -> Tensor:
    weight = torch.randn(3, WAYS, generator=torch.Generator().manual_seed(teacher))
    return 4 * (images - 0.5).mean((2, 3)) @ weight.to(images)


def visits(number: int, chosen: Sequence[int]) -> list[Visit]:
    random, labels = torch.Generator().manual_seed(number), torch.arange(WAYS).repeat(EACH)
    return [
        Visit(
            images_of(own * WAYS + labels, random),
            labels,
            own * WAYS + labels,
            lambda images, own=own: teacher_logits(images, own),
            own,
        )
        for own in chosen
    ]


def filled(teachers: Sequence[int], conflicts: Tensor | None = None) -> EpisodeMemory:
    memory = EpisodeMemory(TEACHERS * WAYS, conflicts=conflicts)
    for visit in visits(0, teachers):
        memory.add(visit.images, visit.identities)
    return memory


def model(double: bool = False) -> tuple[FunctionalClassifier, dict[str, Tensor]]:
    classifier = build_classifier(SPEC, torch.Generator().manual_seed(0))
    classifier = classifier.double() if double else classifier
    return FunctionalClassifier(classifier), {name: own.detach() for name, own in classifier.named_parameters()}


def reward_episodes(step: int, chosen: Sequence[int]) -> list[RewardEpisode]:
    asked = [own for own in range(TEACHERS) if own not in chosen]
    random = torch.Generator().manual_seed(step)
    return [RewardEpisode(own, filled([own]).draw(WAYS, 2, 3, random)) for own in asked]


def learner(threads: WorkerThreads = CALLING_THREAD, refill: Any = visits, **options: Any) -> InterpolationLearner:
    return InterpolationLearner(
        build_classifier(SPEC, torch.Generator().manual_seed(0)),
        EpisodeMemory(TEACHERS * WAYS, 2),
        refill,
        ChoiceConfig(models=2, steps_per_update=2).build(TEACHERS),
        Reward(reward_episodes, TEACHERS, centred=True),
        CONFIG.model_copy(update=options),
        seed=3,
        models=TEACHERS,
        threads=threads,
    )


def test_a_weight_of_zero_or_one_is_one_of_the_episodes_alone() -> None:
    memory, (network, parameters) = filled([0, 1]), model()
    first, second = (memory.draw(WAYS, 2, 3, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    plain = ProtoNet()
    for weight, alone in ((0.0, first), (1.0, second)):
        found = InterpolatedTask(first, second, weight).logits(network, parameters)
        assert torch.equal(found, plain.query_logits(network, parameters, alone))
    assert torch.equal(
        InterpolatedTask(first).logits(network, parameters), plain.query_logits(network, parameters, first)
    )


def test_a_mixture_is_that_of_a_loop_in_feature_space() -> None:
    memory, (network, parameters) = filled([0, 1]), model(double=True)
    first, second = (memory.draw(WAYS, 2, 3, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    found = InterpolatedTask(_double(first), _double(second), 0.3).loss(network, parameters)
    with torch.no_grad():
        features = [
            [network.features(parameters, part).numpy() for part in (own.support_images, own.query_images)]
            for own in (_double(first), _double(second))
        ]
    support, queries = (0.7 * features[0][part] + 0.3 * features[1][part] for part in range(2))
    losses = []
    for query, label in zip(queries, first.query_labels.tolist(), strict=True):
        means = [support[first.support_labels.numpy() == own].mean(0) for own in range(WAYS)]
        logits = np.array([-((query - mean) ** 2).sum() for mean in means])
        losses.append(np.log(np.exp(logits).sum()) - logits[label])
    assert float(found) == pytest.approx(np.mean(losses))


def _double(episode: EpisodeImages) -> EpisodeImages:
    return EpisodeImages(
        episode.support_images.double(),
        episode.support_labels,
        episode.query_images.double(),
        episode.query_labels,
        episode.ways,
    )


def test_a_memory_of_one_teacher_interpolates_nothing() -> None:
    for seed in range(10):
        tasks = [
            draw_task(filled([2]), WAYS, CONFIG.model_copy(update={"interpolation": chance}),
                      torch.Generator().manual_seed(seed), seed)
            for chance in (0.0, 1.0)
        ]  # fmt: skip
        assert [task.second for task in tasks] == [None, None]
        for one, other in zip(vars(tasks[0].first).values(), vars(tasks[1].first).values(), strict=True):
            assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))


def test_only_episodes_of_classes_that_differ_are_mixed() -> None:
    always = CONFIG.model_copy(update={"interpolation": 1.0})
    shown = torch.arange(TEACHERS * WAYS).repeat_interleave(EACH)
    # An image that is its class all over, so that the classes of an episode can be read off it.
    images = shown.view(-1, 1, 1, 1).expand(-1, 3, 2, 2).to(torch.uint8)
    conflicts = torch.zeros(TEACHERS * WAYS, TEACHERS * WAYS, dtype=torch.bool)
    conflicts[:3, 3:6] = conflicts[3:6, :3] = True
    memory = EpisodeMemory(TEACHERS * WAYS, conflicts=conflicts)
    memory.add(images, shown)
    for seed in range(30):
        task = draw_task(memory, WAYS, always, torch.Generator().manual_seed(seed), seed)
        assert task.second is not None
        first, second = (
            (own.query_images[:, 0, 0, 0] * 255).round().long().unique() for own in (task.first, task.second)
        )
        assert not set(first.tolist()) & set(second.tolist())
        assert not conflicts[first][:, second].any()
        assert 0 <= task.weight <= 1


def test_mixing_weights_are_drawn_from_the_beta_distribution() -> None:
    drawn = np.array([beta(0.5, seed) for seed in range(4000)])
    assert drawn.mean() == pytest.approx(0.5, abs=0.03)
    assert drawn.var() == pytest.approx(1 / 8, abs=0.01)  # of the arcsine distribution
    assert beta(0.5, 7) == beta(0.5, 7)


def test_the_gradient_of_distillation_is_that_of_a_loop_in_double_precision() -> None:
    network, parameters = model(double=True)
    visit = visits(0, [1])[0]
    images = visit.images.double() / 255
    taught = visit.logits(images)
    leaves = {name: own.requires_grad_(True) for name, own in parameters.items() if "head" not in name}
    loss = visit_distillation(network, leaves, images, visit.labels, taught, 2)
    chosen = [[int(row) for row in (visit.labels == own).nonzero()] for own in range(WAYS)]
    support, queries = [row for own in chosen for row in own[:2]], [row for own in chosen for row in own[2:]]
    features = network.features(leaves, images[sorted(support)])
    means = [features[[sorted(support).index(row) for row in own[:2]]].mean(0) for own in chosen]
    total = torch.zeros((), dtype=torch.float64)
    asked = network.features(leaves, images[sorted(queries)])
    for query, row in zip(asked, sorted(queries), strict=True):
        student = torch.stack([-(query - mean).square().sum() for mean in means])
        wanted = functional.softmax(taught[row], 0)
        for own in range(WAYS):
            total = total + wanted[own] * (wanted[own].log() - student[own] + student.exp().sum().log())
    total = total / len(queries)
    torch.testing.assert_close(loss, total)
    found, expected = (torch.autograd.grad(own, list(leaves.values())) for own in (loss, total))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_refill_distils_every_teacher_from_its_own_outputs() -> None:
    learning = learner()
    report = learning.step()
    network, parameters = model()
    chosen = learning.visits.nonzero().flatten().tolist()
    order = learning.state()["chosen"].tolist()
    assert sorted(order) == chosen
    own = []
    for visit in visits(0, order):
        images = visit.images.float() / 255
        own.append(visit_distillation(network, parameters, images, visit.labels, visit.logits(images), 2))
    assert report.loss == pytest.approx(float(torch.stack(own).mean()), rel=1e-5)
    assert (report.refills, report.interpolated) == (1, 0)


def test_the_memory_is_refilled_when_the_reward_stops_rising() -> None:
    learning = learner()
    rewards, refills = [], []
    for _ in range(20):
        report = learning.step()
        rewards.append(report.reward)
        refills.append(report.refills)
    expected, best, since = [1], rewards[0], 0
    for reward in rewards[1:]:
        # This step is a refill if the two steps before it brought no better reward.
        is_refill = since >= 2
        expected.append(expected[-1] + is_refill)
        best, since = (reward, 0) if is_refill or reward > best else (best, since + 1)
    assert refills == expected
    assert refills[-1] > 3
    assert int(learning.visits.sum()) == 2 * refills[-1]


def test_tasks_get_better() -> None:
    learning = learner(patience=5, interpolation=0.0)
    reports = [learning.step() for _ in range(60)]
    tasks = [now.loss for before, now in itertools.pairwise(reports) if now.refills == before.refills]
    assert sum(tasks[-10:]) < 0.8 * sum(tasks[:10])
    assert all(1 <= own.effective_models <= TEACHERS + 1e-9 for own in reports)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_restored_learner_ends_bit_equal(threads: int) -> None:
    whole, first, second = learner(), learner(), learner(WorkerThreads(threads))
    last = [whole.step() for _ in range(11)][-1]
    for _ in range(6):
        first.step()
    second.restore(6, {name: value.clone() for name, value in first.state().items()})
    again = [second.step() for _ in range(5)][-1]
    assert again == last
    states = whole.state(), second.state()
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():  # NaN is the expected accuracy of a model that was never asked
        torch.testing.assert_close(states[1][name], value, rtol=0, atol=0, equal_nan=True, msg=name)
    whole.calibrate()
    second.calibrate()
    for (name, one), other in zip(
        whole.classifier.state_dict().items(), second.classifier.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


def test_a_state_of_another_learner_is_refused() -> None:
    other = learner()
    other.step()
    state = other.state()
    del state["counters"]
    with raises(DataError, subject="checkpoint", problem="counters", remedy="start the run again"):
        learner().restore(1, state)


def test_a_memory_without_an_episode_is_refilled_at_once() -> None:
    def few(number: int, chosen: Sequence[int]) -> list[Visit]:
        (own,) = visits(number, chosen[:1])
        kept = (own.labels < 2).nonzero().flatten()
        logits = lambda images: own.logits(images)[:, :2]  # noqa: E731
        return [Visit(own.images[kept], own.labels[kept], own.identities[kept], logits, own.teacher)]

    learning = learner(refill=few)
    refills = [learning.step().refills for _ in range(2)]
    assert refills == [1, 2]  # two of three classes are no episode


def test_a_loss_that_is_not_finite_is_named() -> None:
    with raises(DataError, subject="meta-model", problem="not finite in step", remedy="learning_rate"):
        learning = learner(learning_rate=1e30)
        for _ in range(5):
            learning.step()
