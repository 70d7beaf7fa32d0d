"""Meta-iterations on visits of synthetic teachers, whose images are noise around one colour per class."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from error_checks import raises
from torch import Tensor
from torch.nn import functional

from metazoo.errors import DataError
from metazoo.execution.threads import CALLING_THREAD, WorkerThreads
from metazoo.features.batch_norm import batch_statistics
from metazoo.learn.episode_memory import EpisodeMemory
from metazoo.learn.learning_config import RegularisationConfig
from metazoo.learn.losses import distillation_loss, published_distillation_loss
from metazoo.learn.replay_learning import ReplayConfig, ReplayLearner, ReplayLearningConfig, Visit
from metazoo.models import ClassifierSpec, build_classifier

TEACHERS, WAYS, EACH, SIDE = 3, 3, 6, 16
SPEC = ClassifierSpec(
    architecture="conv4", arguments={"width": 4}, classes=WAYS, input_size=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3
)
REPLAY = {"shots": 1, "queries": 3, "episodes_per_update": 2, "patience": 1, "most_updates": 3, "inner_steps": 2}


def images_of(identities: Tensor, random: torch.Generator) -> Tensor:
    colours = torch.rand(TEACHERS * WAYS, 3, 1, 1, generator=torch.Generator().manual_seed(7))[identities]
    return ((0.8 * colours + 0.2 * torch.rand(len(identities), 3, SIDE, SIDE, generator=random)) * 255).to(torch.uint8)


def visits(iteration: int) -> Sequence[Visit]:
    random = torch.Generator().manual_seed(iteration)
    labels = torch.arange(WAYS).repeat(EACH)
    found = []
    for teacher in torch.randperm(TEACHERS, generator=random)[:2].tolist():
        identities = teacher * WAYS + labels
        weight = torch.randn(3, WAYS, generator=torch.Generator().manual_seed(teacher))
        found.append(
            Visit(
                images_of(identities, random),
                labels,
                identities,
                lambda images, weight=weight: 4 * (images - 0.5).mean((2, 3)) @ weight,
                teacher,
            )
        )
    return found


def learner(threads: WorkerThreads = CALLING_THREAD, **options: Any) -> ReplayLearner:
    config = ReplayLearningConfig.model_validate({"learning_rate": 5e-3, "replay": REPLAY, **options})
    classifier = build_classifier(SPEC, torch.Generator().manual_seed(0))
    return ReplayLearner(classifier, EpisodeMemory(TEACHERS * WAYS, 4), visits, config, seed=3, threads=threads)


def test_the_loss_falls_and_replayed_episodes_get_better() -> None:
    learning = learner()
    reports = [learning.step() for _ in range(12)]
    assert [report.step for report in reports] == list(range(1, 13))
    assert sum(r.loss for r in reports[-3:]) < 0.7 * sum(r.loss for r in reports[:3])
    assert all(1 <= report.replay_updates <= 3 for report in reports)
    assert sum(r.replay_loss for r in reports[-4:]) < sum(r.replay_loss for r in reports[:4])
    assert all(report.relative_change > 0 for report in reports)


def test_it_resumes_bit_equal_from_its_state() -> None:
    whole, first, second = learner(), learner(), learner()
    for _ in range(4):
        whole.step()
    for _ in range(2):
        first.step()
    second.restore(2, {name: value.clone() for name, value in first.state().items()})
    for _ in range(2):
        second.step()
    expected, found = whole.state(), second.state()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert second.steps_done == 4


def test_threads_that_share_teachers_and_episodes_change_nothing() -> None:
    learners = [learner(WorkerThreads(count)) for count in (1, 2)]
    for learning in learners:
        for _ in range(2):
            learning.step()
    alone, shared = (learning.state() for learning in learners)
    assert all(torch.equal(value, shared[name]) for name, value in alone.items())


def test_a_step_without_replay_is_the_regularised_gradient_of_the_published_losses() -> None:
    # One teacher does not deviate from the mean: the direction is its plain gradient, and Adam's first step its sign.
    learning = learner(shared_augmentation=False, shift=0.0, replay={**REPLAY, "most_updates": 0})
    learning._visit = lambda iteration: visits(iteration)[:1]
    visit = visits(0)[0]
    before = {name: value.detach().clone() for name, value in learning.classifier.named_parameters()}
    network = build_classifier(SPEC, torch.Generator().manual_seed(0))
    images = visit.images.float() / 255
    mirrored = torch.stack([images, images.flip(-1)])
    learning._augmented = lambda visits, random: [mirrored[0]]
    with batch_statistics(network):
        logits = network(images)
    taught = visit.logits(images)
    kd = functional.kl_div(logits.softmax(1), taught.softmax(1), reduction="none").mean()
    (functional.cross_entropy(logits, visit.labels) + kd).backward()
    assert learning.step().replay_updates == 0
    for name, parameter in network.named_parameters():
        moved = dict(learning.classifier.named_parameters())[name].detach() - before[name]
        assert parameter.grad is not None
        clear = parameter.grad.abs() > 1e-4
        torch.testing.assert_close(moved[clear], -5e-3 * parameter.grad.sign()[clear], rtol=1e-2, atol=1e-5)


def test_displaced_points_can_see_other_crops() -> None:
    options = {"shared_augmentation": False, "shift": 0.0, "replay": {**REPLAY, "most_updates": 0}}
    options["regularisation"] = {"displacement": 0.01, "strength": 0.01}
    seen: dict[bool, list[list[Tensor]]] = {}
    moved = {}
    for second in (False, True):
        learning, seen[second] = learner(second_augmentation=second, **options), []
        plain = learning._augmented
        learning._augmented = lambda visits, random, plain=plain, seen=seen[second]: (
            seen.append(plain(visits, random)) or seen[-1]
        )
        learning.step()
        moved[second] = torch.cat([value.flatten() for value in learning.classifier.parameters()])
    assert [len(drawn) for drawn in seen.values()] == [1, 2]
    assert torch.equal(torch.cat(seen[False][0]), torch.cat(seen[True][0]))
    assert not torch.equal(*map(torch.cat, seen[True]))
    assert not torch.equal(moved[False], moved[True])


@pytest.mark.parametrize("name", ["maml-first-order", "anil", "protonet"])
def test_every_learner_replays(name: str) -> None:
    learning = learner(replay={**REPLAY, "learner": name}, regularisation={"kind": "mean"})
    reports = [learning.step() for _ in range(3)]
    assert all(0 <= report.replay_accuracy <= 1 and report.relative_change == 0 for report in reports)


def test_a_memory_of_too_few_classes_is_not_replayed() -> None:
    learning = learner(replay={**REPLAY, "queries": 50})
    assert learning.step().replay_updates == 0


def test_a_full_memory_takes_no_visits_and_is_no_part_of_the_state() -> None:
    full, random = EpisodeMemory(TEACHERS * WAYS), torch.Generator().manual_seed(0)
    identities = torch.arange(TEACHERS * WAYS).repeat(8)
    full.add(images_of(identities, random), identities)
    config = ReplayLearningConfig.model_validate({"replay": REPLAY})
    classifier = build_classifier(SPEC, torch.Generator().manual_seed(0))
    learning = ReplayLearner(classifier, full, visits, config, seed=3, grows=False)
    assert learning.step().replay_updates >= 1
    assert full.counts().tolist() == [8] * (TEACHERS * WAYS)
    assert not any(name.startswith("memory.") for name in learning.state())
    learning.restore(1, learning.state())
    assert full.counts().tolist() == [8] * (TEACHERS * WAYS)


def test_calibration_stores_the_statistics_of_what_is_in_memory() -> None:
    learning = learner()
    learning.step()
    learning.calibrate()
    random = torch.Generator().manual_seed(9)
    images = images_of(torch.arange(TEACHERS * WAYS).repeat(20), random).float() / 255
    layer = next(part for part in learning.classifier.modules() if isinstance(part, torch.nn.BatchNorm2d))
    assert layer.running_mean is not None
    convolution = next(part for part in learning.classifier.modules() if isinstance(part, torch.nn.Conv2d))
    seen = convolution(learning.classifier.preprocess(images)).mean((0, 2, 3))
    assert (layer.running_mean - seen).abs().max() < 0.5 * seen.abs().max() + 0.2


def test_a_loss_that_is_not_finite_names_the_iteration() -> None:
    learning = learner(learning_rate=1e30, replay={**REPLAY, "most_updates": 0})
    learning.step()
    with raises(DataError, problem="meta-iteration 1"):
        learning.step()


def test_the_published_distillation_has_another_gradient_than_the_divergence() -> None:
    random = torch.Generator().manual_seed(0)
    logits, taught = (torch.randn(150, 5, generator=random, dtype=torch.float64) for _ in range(2))
    logits.requires_grad_()
    (true,) = torch.autograd.grad(distillation_loss(logits, taught, (5,)), logits)
    (published,) = torch.autograd.grad(published_distillation_loss(logits, taught), logits)
    student, teacher = logits.detach().softmax(1), taught.softmax(1)
    minus_overlap = -(student * teacher).sum() / teacher.numel()
    constant = published_distillation_loss(logits.detach(), taught) - minus_overlap
    torch.testing.assert_close(constant, (teacher * teacher.log()).mean())
    assert true.norm() > 15 * published.norm()
    assert 0.6 < functional.cosine_similarity(true.flatten(), published.flatten(), dim=0) < 0.9


def test_the_default_is_as_published() -> None:
    config = ReplayLearningConfig()
    assert config.regularisation == RegularisationConfig(
        displacement=1e-3, strength=1e-3, differentiate_displacement=True
    )
    assert (config.iterations, config.learning_rate) == (1200, 1e-3)
    replay = ReplayConfig()
    assert (replay.learner, replay.inner_steps, replay.inner_learning_rate) == ("maml", 5, 0.01)
    assert (replay.episodes_per_update, replay.patience, replay.slots) == (16, 4, 20)
