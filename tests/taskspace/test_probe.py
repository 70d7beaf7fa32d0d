import copy
from typing import Any

import pytest
import torch
from error_checks import raises
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from metazoo.bank import ResidentBank
from metazoo.errors import DataError, UsageError
from metazoo.models import build_classifier
from metazoo.taskspace import (
    FisherEmbeddings,
    Probe,
    ProbeConfig,
    dissimilarity_matrix,
    group,
    similarity_matrix,
    train_probe,
)
from metazoo.taskspace.probe import probe_spec

SIDE, EACH = 16, 12
CONFIG = ProbeConfig(architecture="conv4", width=8, input_size=SIDE, steps=60, batch_size=128, learning_rate=5e-3)


def task(seed: int, classes: int) -> tuple[Tensor, Tensor]:
    """Noise around one colour per class."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat(EACH)
    colours = torch.randint(30, 226, (classes, 3, 1, 1), generator=random)
    noise = torch.randint(-40, 41, (len(labels), 3, SIDE, SIDE), generator=random)
    return (colours[labels] + noise).clamp(0, 255).to(torch.uint8), labels


def bank_of(tasks: dict[str, tuple[Tensor, Tensor]]) -> ResidentBank:
    starts = torch.tensor([0, *(len(labels) for _, labels in tasks.values())]).cumsum(0).tolist()
    images, labels = (torch.cat([each[part] for each in tasks.values()]) for part in (0, 1))
    return ResidentBank(tuple(tasks), images, labels, tuple(starts))


COUNTS = {"two": 2, "five": 5, "three": 3}
TASKS = {name: task(count, count) for name, count in COUNTS.items()}


@pytest.fixture(scope="module")
def probe() -> Probe:
    return train_probe(bank_of(TASKS), COUNTS, CONFIG, 0)


def rows_of(name: str) -> slice:
    """Slice of a teacher's classes in the head of the probe."""
    start = sum(list(COUNTS.values())[: list(COUNTS).index(name)])
    return slice(start, start + COUNTS[name])


def own_loss(probe: Probe, name: str) -> float:
    images, labels = TASKS[name]
    with torch.no_grad():
        return float(functional.cross_entropy(probe.classifier(images.float() / 255)[:, rows_of(name)], labels))


def embedding(probe: Probe, name: str) -> dict[str, Tensor]:
    return probe.embed(name, *TASKS[name]).tensors


def with_head(probe: Probe, weight: Tensor, bias: Tensor) -> Probe:
    other = Probe(copy.deepcopy(probe.classifier), COUNTS)
    with torch.no_grad():
        other.classifier.network.head.weight.copy_(weight)
        other.classifier.network.head.bias.copy_(bias)
    return other


def test_every_teacher_is_learned_among_its_own_classes(probe: Probe) -> None:
    fresh = train_probe(bank_of(TASKS), COUNTS, CONFIG.model_copy(update={"steps": 1}), 0)
    for name in COUNTS:
        assert own_loss(probe, name) < 0.7 * own_loss(fresh, name)


def test_a_task_is_embedded_in_the_body_alone(probe: Probe) -> None:
    network = probe.classifier.network
    left_out = ("head.weight", "head.bias", *(f"blocks.{block}.0.bias" for block in range(4)))
    body = {f"network.{name}": value for name, value in network.named_parameters() if name not in left_out}
    for name in COUNTS:
        tensors = embedding(probe, name)
        assert {key: value.shape for key, value in tensors.items()} == {key: v.shape for key, v in body.items()}
        assert sum(float(value.sum()) for value in tensors.values()) > 0


def test_tasks_of_any_number_of_classes_are_comparable(probe: Probe) -> None:
    embeddings = FisherEmbeddings.stack([probe.embed(name, *TASKS[name]) for name in COUNTS])
    assert embeddings.names == ("two", "five", "three")


def test_the_order_of_the_classes_does_not_matter(probe: Probe) -> None:
    head, images, labels = probe.classifier.network.head, *TASKS["five"]
    order = torch.tensor([3, 0, 4, 1, 2])
    weight, bias = head.weight.detach().clone(), head.bias.detach().clone()
    rows = rows_of("five")
    weight[rows], bias[rows] = weight[rows][order], bias[rows][order]
    relabelled = with_head(probe, weight, bias).embed("five", images, order.argsort()[labels]).tensors
    for key, value in embedding(probe, "five").items():
        torch.testing.assert_close(relabelled[key], value)
    unlike = probe.embed("five", images, order.argsort()[labels]).tensors
    assert not all(torch.allclose(unlike[key], value, rtol=0.01) for key, value in relabelled.items())


def test_the_heads_of_other_teachers_do_not_matter(probe: Probe) -> None:
    head = probe.classifier.network.head
    weight, bias = torch.ones_like(head.weight), torch.ones_like(head.bias)
    weight[rows_of("five")], bias[rows_of("five")] = head.weight[rows_of("five")], head.bias[rows_of("five")]
    other = with_head(probe, weight.detach(), bias.detach())
    assert all(torch.equal(value, embedding(other, "five")[key]) for key, value in embedding(probe, "five").items())


def test_embedding_is_the_mean_over_images_of_the_squared_gradient(probe: Probe) -> None:
    images, labels = TASKS["two"]
    classifier = copy.deepcopy(probe.classifier).eval()
    name, parameter = next(iter(classifier.network.named_parameters()))
    squares = torch.zeros_like(parameter)
    for image, label in zip(images[:5], labels[:5], strict=True):
        logits = classifier(image[None].float() / 255)[:, rows_of("two")]
        loss = functional.cross_entropy(logits, label[None])
        squares += torch.autograd.grad(loss, parameter)[0].square()
    expected = probe.embed("two", images[:5], labels[:5]).tensors[f"network.{name}"]
    torch.testing.assert_close(squares.detach() / 5, expected, rtol=1e-4, atol=1e-9)


def test_embedding_leaves_the_probe_as_it_was(probe: Probe) -> None:
    own = Probe(copy.deepcopy(probe.classifier), COUNTS)
    own.classifier.requires_grad_(False)
    next(own.classifier.parameters()).requires_grad_(True)
    before = [parameter.requires_grad for parameter in own.classifier.parameters()]
    found = embedding(own, "two")
    assert [parameter.requires_grad for parameter in own.classifier.parameters()] == before
    assert all(torch.equal(values, embedding(probe, "two")[name]) for name, values in found.items())
    with raises(DataError, subject="labels", problem="[0, 2)"):
        own.embed("two", TASKS["two"][0], TASKS["two"][1] + 2)
    assert [parameter.requires_grad for parameter in own.classifier.parameters()] == before


def test_grey_images_of_another_size_are_embedded_too(probe: Probe) -> None:
    images, labels = TASKS["two"]
    tensors = probe.embed("two", images[:, :1, :12, :12], labels).tensors
    assert tensors.keys() == embedding(probe, "two").keys()


def test_duplicates_are_alike_and_are_put_into_different_groups() -> None:
    tasks = {"a": task(7, 3), "copy of a": task(7, 3), "b": task(8, 4), "c": task(9, 2)}
    counts = {"a": 3, "copy of a": 3, "b": 4, "c": 2}
    probe = train_probe(bank_of(tasks), counts, CONFIG, 0)
    similarity = similarity_matrix(FisherEmbeddings.stack([probe.embed(name, *tasks[name]) for name in tasks]))
    others = similarity[torch.triu_indices(4, 4, 1).unbind()][1:]
    assert float(similarity[0, 1]) > 0.9
    assert float(similarity[0, 1]) > float(others.max()) + 0.1
    grouping = group(dissimilarity_matrix(similarity), "dispersed", 2, keys=list(tasks))
    assert [0, 1] not in [sorted(members) for members in grouping.groups]


def test_the_seed_settles_the_probe() -> None:
    config = CONFIG.model_copy(update={"steps": 2})
    before = torch.get_rng_state()
    weights = [train_probe(bank_of(TASKS), COUNTS, config, seed).classifier.state_dict() for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert not torch.equal(weights[0]["network.head.weight"], weights[2]["network.head.weight"])


def test_every_step_is_reported_and_may_end_the_training() -> None:
    steps: list[None] = []
    train_probe(bank_of(TASKS), COUNTS, CONFIG.model_copy(update={"steps": 3}), 0, lambda: steps.append(None))
    assert len(steps) == 3

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_probe(bank_of(TASKS), COUNTS, CONFIG, 0, stop)


def test_a_loss_that_is_not_finite_names_the_step() -> None:
    config = CONFIG.model_copy(update={"learning_rate": 1e30, "steps": 5})
    with raises(DataError, subject="probe", problem="not finite at step", remedy="probe.learning_rate") as caught:
        train_probe(bank_of(TASKS), COUNTS, config, 0)
    assert int(caught.value.problem.split()[-1]) in range(1, 5)


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("timm:test_vit", {"patch_size": 8}),
        ("timm:test_efficientnet", {}),
        ("torchvision:shufflenet_v2_x0_5", {}),
        ("cifar-resnet20", {"shortcut": "B"}),
    ],
)
def test_any_network_can_be_the_probe(architecture: str, arguments: dict[str, Any]) -> None:
    config = ProbeConfig(architecture=architecture, arguments=arguments, input_size=32, steps=2, batch_size=8)
    noise = torch.randint(256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    tasks = {name: (noise, torch.arange(4) % COUNTS[name]) for name in COUNTS}
    probe = train_probe(bank_of(tasks), COUNTS, config, 0)
    assert dict(probe.classifier.spec.arguments).items() >= arguments.items()
    found = probe.embed("two", *tasks["two"], config).tensors
    assert found.keys() <= {name for name, _ in probe.classifier.named_parameters()}.union(
        f"network.{name}" for name, _ in probe.classifier.network.named_parameters()
    )
    assert not any("network.head." in name or name.startswith("head.") for name in found)
    assert all(bool(values.isfinite().all()) for values in found.values())
    assert any(float(values.max()) > 0 for values in found.values())


def test_the_width_of_a_probe_is_its_own_where_it_has_one() -> None:
    assert ProbeConfig().network_arguments == {"width": 32}
    assert ProbeConfig(width=None).network_arguments == {}
    config = ProbeConfig(architecture="timm:test_vit", arguments={"patch_size": 8})
    assert config.network_arguments == {"patch_size": 8}
    again = ProbeConfig.model_validate(config.model_dump(mode="json"))
    assert (again, hash(again)) == (config, hash(config))
    for wrong in ({"arguments": {"width": 8}}, {"architecture": "unheard-of"}, {"width": 0}):
        with pytest.raises(ValidationError):
            ProbeConfig.model_validate(wrong)
    with raises(UsageError, subject="torchvision:mobilenet_v2", problem="'width'"):
        build_classifier(probe_spec(ProbeConfig(architecture="torchvision:mobilenet_v2", width=8), 3))
