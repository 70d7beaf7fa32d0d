"""The curriculum: gradients into images, the gradient switch, and a learner that ends bit-equal when resumed."""

import itertools
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from error_checks import raises
from learn_helpers import SIDE
from torch import Tensor
from torch.nn import functional

from metazoo.errors import DataError
from metazoo.execution.threads import WorkerThreads
from metazoo.learn.curriculum import CurriculumConfig, CurriculumLearner, CurriculumReport, GradientSwitch
from metazoo.learn.episode_gradients import EpisodeGradients
from metazoo.learn.learners import EpisodeImages, FunctionalClassifier, build_learner
from metazoo.models import ClassifierSpec, ImageClassifier, build_classifier

WAYS, CLASSES, EACH = 3, 6, 8
SPEC = ClassifierSpec(
    architecture="conv4", arguments={"width": 4}, classes=WAYS, input_size=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3
)
CONFIG = CurriculumConfig(steps=9, episodes_per_step=2, shots=2, queries=3, start=2, patience=1, learning_rate=0.01)


def episode(shots: int = 1, queries: int = 2) -> EpisodeImages:
    random = torch.Generator().manual_seed(0)

    def images(each: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(WAYS).repeat_interleave(each)
        return torch.rand(len(labels), 3, SIDE, SIDE, generator=random, dtype=torch.float64), labels

    return EpisodeImages(*images(shots), *images(queries), WAYS)


def classifier(seed: int = 0) -> ImageClassifier:
    built = build_classifier(SPEC, torch.Generator().manual_seed(seed))
    return built.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(("learner", "steps"), [("maml", 1), ("maml", 3), ("anil", 2), ("protonet", 1)])
def test_gradients_of_images_are_those_of_finite_differences(learner: str, steps: int) -> None:
    built = classifier().double()
    functioning = FunctionalClassifier(built)
    adapting = build_learner(learner, steps=steps, learning_rate=0.1)
    gradients = EpisodeGradients(adapting, functioning, dict(built.named_parameters()))
    task = episode(shots=2)
    found = gradients.of_images(task)

    def loss(changed: EpisodeImages) -> Tensor:
        parameters = {name: value.detach().requires_grad_(True) for name, value in built.named_parameters()}
        logits = adapting.query_logits(functioning, parameters, changed)
        return functional.cross_entropy(logits, task.query_labels).detach()

    assert found.loss.item() == pytest.approx(loss(task).item(), rel=1e-12)
    for seed, (field, gradient) in enumerate((("support_images", found.support), ("query_images", found.query))):
        images = getattr(task, field)
        along = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        step = 1e-6
        ends = [loss(replace(task, **{field: images + sign * step * along})) for sign in (1, -1)]
        numeric = ((ends[0] - ends[1]) / (2 * step)).item()
        assert (gradient * along).sum().item() == pytest.approx(numeric, rel=1e-4, abs=1e-9)
        assert gradient.abs().max() > 0


def test_gradients_of_images_equal_those_of_plain_torch() -> None:
    """One inner step by hand, with batch norm and pooling as torch has them."""
    built = classifier().double()
    task, rate = episode(shots=2), 0.1
    gradients = EpisodeGradients(
        build_learner("maml", steps=1, learning_rate=rate), FunctionalClassifier(built), dict(built.named_parameters())
    )
    found = gradients.of_images(task)
    support, query = (images.clone().requires_grad_(True) for images in (task.support_images, task.query_images))
    built.train()
    parameters = dict(built.named_parameters())
    inner = functional.cross_entropy(built(support), task.support_labels)
    inward = torch.autograd.grad(inner, list(parameters.values()), create_graph=True)
    moved = {name: value - rate * part for (name, value), part in zip(parameters.items(), inward, strict=True)}
    logits = torch.func.functional_call(built, moved, (query,))
    expected = torch.autograd.grad(functional.cross_entropy(logits, task.query_labels), (support, query))
    torch.testing.assert_close((found.support, found.query), expected, rtol=1e-8, atol=1e-12)


def test_without_second_order_only_the_queries_have_a_gradient() -> None:
    built = classifier()
    adapting = build_learner("maml-first-order", steps=1, learning_rate=0.1)
    gradients = EpisodeGradients(adapting, FunctionalClassifier(built), dict(built.named_parameters()))
    task = episode()
    task = replace(task, support_images=task.support_images.float(), query_images=task.query_images.float())
    found = gradients.of_images(task)
    assert not found.support.any()
    assert found.query.any()


@pytest.mark.parametrize(("seed", "every"), [*itertools.product(range(4), (1, 3))])
def test_the_switch_is_that_of_a_plain_loop(seed: int, every: int) -> None:
    draw = random.Random(seed)
    start, patience = draw.randrange(5), draw.randrange(1, 7)
    switch = GradientSwitch(start, patience)
    best, misses, wanted, harder = None, 0, False, []
    for number in range(200):
        wanted |= number == start
        assert switch.is_armed_at(number) == wanted
        if number % every == 0 and wanted:
            harder.append(number)
            switch.reset()
            best, misses, wanted = None, 0, False
        accuracy = draw.randrange(6) / 5
        switch.observe(number, accuracy)
        if number >= start:
            if best is None or accuracy > best:
                best, misses = accuracy, 0
            else:
                misses += 1
            wanted |= misses >= patience
        other = GradientSwitch(start, patience)
        other.restore(switch.state())
        switch = other
    assert 200 / (patience + 7 * every) / 3 < len(harder) <= 200 / patience + 2


class Drifting:
    """Images that move against what is added, and else a little by themselves."""

    def __init__(self) -> None:
        self.classes = torch.arange(CLASSES).repeat_interleave(EACH)
        random = torch.Generator().manual_seed(0)
        prototypes = torch.rand(CLASSES, 3, SIDE, SIDE, generator=random)
        noise = torch.rand(len(self.classes), 3, SIDE, SIDE, generator=random)
        self.pixels = 0.5 * prototypes[self.classes] + 0.5 * noise
        self.added: list[tuple[int, Tensor | None]] = []

    def step(self, number: int, added: tuple[Tensor, Tensor] | None = None) -> Tensor:
        random = torch.Generator().manual_seed(number)
        self.pixels += 0.01 * torch.randn(self.pixels.shape, generator=random)
        if added is not None:
            self.pixels[added[0]] -= 0.1 * added[1]
        self.pixels.clamp_(0, 1)
        self.added.append((number, None if added is None else added[1]))
        return self.pixels.square().mean()

    def state(self) -> dict[str, Tensor]:
        return {"pixels": self.pixels}

    def restore(self, tensors: Mapping[str, Tensor], /) -> None:
        self.pixels = tensors["pixels"].clone()


def learner(images: Drifting | None = None, threads: int = 1, **changes: Any) -> CurriculumLearner:
    config = CONFIG.model_copy(update=changes)
    return CurriculumLearner(classifier(), images or Drifting(), config, 5, threads=WorkerThreads(threads))


def run(trained: CurriculumLearner, steps: int) -> list[CurriculumReport]:
    return [trained.step() for _ in range(steps)]


def test_a_learner_resumed_with_its_switch_armed_ends_bit_equal() -> None:
    whole = learner()
    reports, kept, left = [], {}, 0
    for number in range(1, 10):
        reports += run(whole, 1)
        armed = bool(whole.state()["switch"][2])
        if armed and not kept:
            kept, left = {name: tensor.clone() for name, tensor in whole.state().items()}, 9 - number
    assert kept
    assert left > 0
    again = learner(threads=2)
    again.restore(9 - left, kept)
    assert run(again, left) == reports[-left:]
    assert reports[-1].harder_steps > reports[-left - 1].harder_steps
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, again.state()[name]), name


def test_images_get_harder_only_when_the_switch_is_armed() -> None:
    images = Drifting()
    reports = run(learner(images, curriculum=3.0), 9)
    harder = [number for number, added in images.added if added is not None]
    assert harder[0] == 2
    assert reports[-1].harder_steps == len(harder) >= 2
    plain = Drifting()
    assert run(learner(plain, curriculum=0.0), 9)[-1].harder_steps == 0
    assert all(added is None for _, added in plain.added)
    seldom = Drifting()
    run(learner(seldom, steps_per_inversion=4), 9)
    assert [number for number, _ in seldom.added] == [0, 4, 8]
    assert seldom.added[1][1] is not None  # armed at 2, and kept until there is a step


def test_what_is_added_is_minus_the_weighted_gradient_of_an_episode() -> None:
    images, twice = Drifting(), Drifting()
    run(learner(images, start=0, curriculum=1.5), 1)
    run(learner(twice, start=0, curriculum=3.0), 1)
    (_, once), (_, doubled) = images.added[0], twice.added[0]
    assert once is not None
    assert doubled is not None
    torch.testing.assert_close(2 * once, doubled)


def test_an_episode_has_different_images_of_classes_that_differ() -> None:
    conflicts = torch.zeros(CLASSES, CLASSES, dtype=torch.bool)
    conflicts[0, 1:4] = conflicts[1:4, 0] = True
    images = Drifting()
    drawing = CurriculumLearner(classifier(), images, CONFIG, 0, conflicts=conflicts)
    generator, supports = torch.Generator().manual_seed(0), set()
    for _ in range(60):
        task, rows = drawing.episode(generator)
        assert len(rows.unique()) == len(rows) == WAYS * 5
        classes = images.classes[rows]
        support, query = classes[: WAYS * 2].view(WAYS, 2), classes[WAYS * 2 :].view(WAYS, 3)
        assert bool((support == support[:, :1]).all() & (query == support[:, :1]).all())
        chosen = set(support[:, 0].tolist())
        assert len(chosen) == WAYS
        assert 0 not in chosen or not chosen & {1, 2, 3}
        assert torch.equal(torch.cat([task.support_images, task.query_images]), images.pixels[rows])
        supports |= set(rows[: WAYS * 2].tolist())
    assert len(supports) == len(images.classes)  # every image is in a support sometimes


def test_a_loss_that_is_not_finite_names_the_remedy() -> None:
    images = Drifting()
    diverging = learner(images)
    images.pixels[:] = torch.nan
    with raises(DataError, problem="meta-batch 0", remedy="learning.learning_rate"):
        diverging.step()


def test_episodes_that_need_too_many_images_are_refused() -> None:
    with raises(DataError, problem=f"no {WAYS} classes", remedy="learning.queries"):
        learner(queries=EACH).step()


def test_a_foreign_state_is_refused() -> None:
    state = learner().state()
    with raises(DataError, subject="checkpoint", problem="switch"):
        learner().restore(3, {name: tensor for name, tensor in state.items() if name != "switch"})


def test_calibration_stores_statistics_of_the_images() -> None:
    trained = learner()
    trained.calibrate()
    layers = [part for part in trained.classifier.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    pixels = trained.images.pixels
    with torch.no_grad():
        first = trained.classifier.network.blocks[0][0](trained.classifier.preprocess(pixels))  # pyright: ignore[reportIndexIssue, reportCallIssue]
    assert layers[0].running_mean is not None
    torch.testing.assert_close(layers[0].running_mean, first.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
