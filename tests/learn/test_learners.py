import copy

import pytest
import torch
from recorded_operations import PlayedBack
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional

from metazoo.errors import UsageError
from metazoo.execution.threads import WorkerThreads
from metazoo.features.batch_norm import batch_statistics
from metazoo.learn import episode_gradients
from metazoo.learn.episode_gradients import EpisodeGradients
from metazoo.learn.learners import (
    LEARNERS,
    Anil,
    EpisodeImages,
    FunctionalClassifier,
    Learner,
    Maml,
    ProtoNet,
    build_learner,
)
from metazoo.models import ClassifierSpec, build_classifier

WAYS, SHOTS, QUERIES = 3, 2, 4
SPEC = ClassifierSpec(
    architecture="conv4", arguments={"width": 4}, classes=WAYS, input_size=16, mean=(0.5,) * 3, std=(0.25,) * 3
)


def episode(seed: int = 0) -> EpisodeImages:
    random = torch.Generator().manual_seed(seed)
    prototypes = torch.rand(WAYS, 3, 16, 16, generator=random, dtype=torch.float64)

    def images(each: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(WAYS).repeat_interleave(each)
        noise = 0.3 * torch.rand(len(labels), 3, 16, 16, generator=random, dtype=torch.float64)
        return 0.7 * prototypes[labels] + noise, labels

    return EpisodeImages(*images(SHOTS), *images(QUERIES), WAYS)


def model(seed: int = 0) -> FunctionalClassifier:
    return FunctionalClassifier(build_classifier(SPEC, torch.Generator().manual_seed(seed)).double())


def parameters_of(model: FunctionalClassifier) -> dict[str, Tensor]:
    return dict(model.classifier.named_parameters())


def query_loss(learner: Learner, model: FunctionalClassifier, parameters: dict[str, Tensor]) -> Tensor:
    task = episode()
    return functional.cross_entropy(learner.query_logits(model, parameters, task), task.query_labels)


def test_without_inner_gradient_maml_is_the_plain_classifier() -> None:
    functioning = model()
    logits = Maml(3, 0.0).query_logits(functioning, parameters_of(functioning), episode())
    torch.testing.assert_close(logits, functioning.classifier(episode().query_images))


@pytest.mark.parametrize("learner", [Maml(2, 0.05), Anil(3, 0.05), ProtoNet()])
def test_the_outer_gradient_is_that_of_finite_differences(learner: Learner) -> None:
    functioning = model()
    parameters = {name: value.detach() for name, value in parameters_of(functioning).items()}
    random = torch.Generator().manual_seed(5)
    direction = {name: torch.randn(v.shape, generator=random, dtype=v.dtype) for name, v in parameters.items()}
    length = 1e-6
    batch = EpisodeGradients(learner, functioning, parameters)([episode()])

    def moved(by: float) -> dict[str, Tensor]:
        return {name: (v + by * direction[name]).requires_grad_() for name, v in parameters.items()}

    ahead, behind = (query_loss(learner, functioning, moved(by)).item() for by in (length, -length))
    slope = sum((batch.gradient[name] * direction[name]).sum().item() for name in parameters)
    assert slope == pytest.approx((ahead - behind) / (2 * length), rel=1e-4)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_outer_gradient_of_maml_is_that_of_torch_func(steps: int) -> None:
    """In float64, without the learner, its batch norm and its second derivatives."""
    functioning, task = model(), episode()
    parameters = {name: value.detach() for name, value in parameters_of(functioning).items()}
    network = copy.deepcopy(functioning.classifier).train()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None

    def loss(own: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(network, own, (images,)), labels)

    def after_descent(own: dict[str, Tensor]) -> Tensor:
        for _ in range(steps):
            gradient = grad(loss)(own, task.support_images, task.support_labels)
            own = {name: value - 0.1 * gradient[name] for name, value in own.items()}
        return loss(own, task.query_images, task.query_labels)

    expected = grad(after_descent)(parameters)
    found = EpisodeGradients(Maml(steps, 0.1), functioning, parameters)([task]).gradient
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-10)


def test_maml_is_gradient_descent_on_a_copy_of_the_network() -> None:
    functioning, task = model(), episode()
    network = copy.deepcopy(functioning.classifier)
    with batch_statistics(network):
        optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(3):
            optimiser.zero_grad()
            functional.cross_entropy(network(task.support_images), task.support_labels).backward()
            optimiser.step()
        logits = Maml(3, 0.1).query_logits(functioning, parameters_of(functioning), task)
        torch.testing.assert_close(logits, network(task.query_images))


def test_first_order_has_the_same_queries_and_the_gradient_at_the_adapted_parameters() -> None:
    functioning, task = model(), episode()
    parameters = parameters_of(functioning)
    second, first = Maml(2, 0.1), Maml(2, 0.1, first_order=True)
    torch.testing.assert_close(
        second.query_logits(functioning, parameters, task), first.query_logits(functioning, parameters, task)
    )
    adapted = parameters
    for _ in range(2):
        loss = functional.cross_entropy(functioning.logits(adapted, task.support_images), task.support_labels)
        gradients = torch.autograd.grad(loss, list(adapted.values()))
        adapted = {
            name: (value - 0.1 * gradient).detach().requires_grad_()
            for (name, value), gradient in zip(adapted.items(), gradients, strict=True)
        }
    loss = functional.cross_entropy(functioning.logits(adapted, task.query_images), task.query_labels)
    expected = dict(zip(adapted, torch.autograd.grad(loss, list(adapted.values())), strict=True))
    found = EpisodeGradients(first, functioning, parameters)([task]).gradient
    exact = EpisodeGradients(second, functioning, parameters)([task]).gradient
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)
    assert any(not torch.allclose(exact[name], found[name], rtol=1e-3) for name in expected)


def test_anil_changes_the_head_alone() -> None:
    functioning, task = model(), episode()
    parameters = parameters_of(functioning)
    support = functioning.features(parameters, task.support_images).detach()
    head = torch.nn.Linear(support.shape[1], WAYS, dtype=torch.float64)
    head.load_state_dict(functioning.classifier.network.head.state_dict())
    optimiser = torch.optim.SGD(head.parameters(), lr=0.1)
    for _ in range(4):
        optimiser.zero_grad()
        functional.cross_entropy(head(support), task.support_labels).backward()
        optimiser.step()
    logits = Anil(4, 0.1).query_logits(functioning, parameters, task)
    torch.testing.assert_close(logits, head(functioning.features(parameters, task.query_images)))


def test_protonet_takes_the_nearest_mean() -> None:
    functioning, task = model(), episode()
    parameters = parameters_of(functioning)
    means = functioning.features(parameters, task.support_images).view(WAYS, SHOTS, -1).mean(1)
    distances = torch.cdist(functioning.features(parameters, task.query_images), means).square()
    torch.testing.assert_close(ProtoNet().query_logits(functioning, parameters, task), -distances)


@pytest.mark.parametrize("name", LEARNERS.names())
def test_gradients_of_episodes_add_up_and_learning_helps(name: str) -> None:
    functioning, learner = model(), build_learner(name, steps=2, learning_rate=0.05)
    parameters = parameters_of(functioning)
    assert learner.name == name or name == "maml-first-order"
    tasks = [episode(seed) for seed in range(3)]
    together = EpisodeGradients(learner, functioning, parameters)(tasks)
    alone = [EpisodeGradients(learner, functioning, parameters)([task]) for task in tasks]
    for key in parameters:
        torch.testing.assert_close(together.gradient[key], torch.stack([one.gradient[key] for one in alone]).sum(0))
    torch.testing.assert_close(together.loss, torch.stack([one.loss for one in alone]).mean())
    for _ in range(15):
        gradient = EpisodeGradients(learner, functioning, parameters)(tasks).gradient
        parameters = {key: value - 0.02 * gradient[key] for key, value in parameters.items()}
    later = EpisodeGradients(learner, functioning, parameters)(tasks)
    assert later.loss < together.loss
    assert later.accuracy > together.accuracy or later.accuracy == 1


@pytest.mark.parametrize("name", LEARNERS.names())
def test_threads_that_share_episodes_change_no_gradient(name: str) -> None:
    functioning, tasks = model(), [episode(seed) for seed in range(5)]
    learner, parameters = build_learner(name, steps=2, learning_rate=0.05), parameters_of(functioning)
    alone, shared = (
        EpisodeGradients(learner, functioning, parameters, threads=WorkerThreads(count))(tasks) for count in (1, 3)
    )
    assert all(torch.equal(value, shared.gradient[key]) for key, value in alone.gradient.items())
    assert torch.equal(alone.loss, shared.loss)
    assert torch.equal(alone.accuracy, shared.accuracy)


def test_an_unknown_learner_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'reptile'.* maml"):
        build_learner("reptile")


@pytest.mark.parametrize("name", LEARNERS.names())
def test_episodes_played_back_from_a_recording_have_the_same_gradients(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    functioning, tasks = model(), [episode(seed) for seed in range(3)]
    learner, parameters = build_learner(name, steps=2, learning_rate=0.05), parameters_of(functioning)

    def learn() -> list[dict[str, Tensor]]:
        moving = {key: value.detach().clone() for key, value in parameters.items()}
        gradients = EpisodeGradients(learner, functioning, moving)
        seen = []
        for _ in range(2):
            batch = gradients(tasks)
            found = {key: value.clone() for key, value in batch.gradient.items()}
            seen.append(found | {"loss": batch.loss, "accuracy": batch.accuracy})
            for key, value in moving.items():
                value -= 0.1 * found[key]
        return seen

    called = learn()
    monkeypatch.setattr(episode_gradients, "Repeated", PlayedBack)
    for one, two in zip(called, learn(), strict=True):
        assert all(torch.equal(value, two[key]) for key, value in one.items())
