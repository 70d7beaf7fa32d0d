import copy
import gc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from error_checks import raises
from recorded_operations import PlayedBack
from recover_helpers import recover, spec_of, teacher_of, trained
from torch import Tensor, nn
from torch.nn import functional

from metazoo.data.augment import Augmentation, ShiftAndFlip
from metazoo.errors import UsageError
from metazoo.execution.repeat import Repeated
from metazoo.models import Generator
from metazoo.recover import (
    BatchNormDistance,
    Canvas,
    CrossEntropy,
    GeneratorCanvas,
    GeneratorConfig,
    Inversion,
    Objective,
    PixelCanvas,
    RecoveryConfig,
    TeacherOutputs,
    inversion,
)
from metazoo.zoo import WhiteBoxTeacher

WANTED = torch.arange(4).repeat(6)
PIXELS = RecoveryConfig(iterations=7)
GENERATOR = GeneratorConfig(iterations=5, latent=16, width=4)


class Still(Augmentation):
    """No augmentation."""

    def __init__(self) -> None:
        super().__init__(0)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.zeros(1, dtype=torch.int64)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        return images


@pytest.fixture(scope="module")
def other() -> WhiteBoxTeacher:
    """A residual network trained on five letters at 20 pixels."""
    return teacher_of(trained(spec_of(5, 20, architecture="thin-resnet")), "other")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int = len(WANTED), side: int = 16) -> Tensor:
    return torch.rand(count, 3, side, side, generator=seeded(9))


def small_generator() -> Generator:
    network = Generator(16, latent=16, width=8)
    network.initialise(seeded(4))
    return network


def latents(count: int) -> Tensor:
    return torch.randn(count, 16, generator=seeded(count))


@pytest.mark.parametrize("config", [PIXELS, GENERATOR])
def test_stepping_by_hand_is_the_same_whatever_happens_in_between(
    config: RecoveryConfig | GeneratorConfig, teacher: WhiteBoxTeacher, other: WhiteBoxTeacher
) -> None:
    buckets, images = [WANTED, WANTED[:9]], noise()
    at_once = [own.run().best() for own in config.inversions(teacher, buckets, seeded(), guide=other)]
    by_hand = []
    before = teacher(images)
    for own in config.inversions(teacher, buckets, seeded(), guide=other):
        while own.steps_left:
            own.step()
            assert torch.equal(teacher(images), before)
            assert not any("forward" in vars(part) for part in teacher.modules())
            own.best()
        by_hand.append(own.best())
    for one, two in zip(at_once, by_hand, strict=True):
        assert torch.equal(one.images, two.images)
        assert one.health == two.health


def test_an_outer_optimiser_does_what_steps_do(teacher: WhiteBoxTeacher) -> None:
    start, rate, steps = noise(), 0.02, 6
    terms = [CrossEntropy(), BatchNormDistance(0.5)]

    def made(rates: Sequence[float]) -> Inversion:
        return Inversion(
            teacher, PixelCanvas(start.clone()), WANTED, terms, ShiftAndFlip(2), seeded(), learning_rates=rates
        )

    stepped, free = made([rate] * steps).run(), made(())
    optimiser = torch.optim.Adam(free.canvas.parameters, rate, betas=(0.5, 0.99))
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        losses.append(loss := free.loss())
        loss.backward()
        optimiser.step()
        free.canvas.confine()
    free.loss()  # result of the last step
    torch.testing.assert_close(free.canvas.images(), stepped.canvas.images(), rtol=1e-4, atol=1e-4)
    assert min(losses) < losses[0]
    one, two = free.best(), stepped.best()
    assert (one.images.int() - two.images.int()).abs().max() <= 1
    assert one.health.agreement == two.health.agreement


def test_the_best_iterate_of_an_outer_loop_is_kept(teacher: WhiteBoxTeacher) -> None:
    canvas = PixelCanvas(noise())
    free = Inversion(teacher, canvas, WANTED, [lambda images, _, __: images.mean()], Still(), seeded())
    for value in (0.5, 0.25, 0.75):
        with torch.no_grad():
            canvas.images().fill_(value)
        assert free.loss().item() == value
    assert free.best().images.unique().tolist() == [64]


def test_two_teachers_share_a_generator_under_one_optimiser(teacher: WhiteBoxTeacher, other: WhiteBoxTeacher) -> None:
    network, labels = small_generator(), torch.arange(5).repeat(5)
    both = [(teacher, WANTED), (other, labels)]

    def made(network: nn.Module) -> list[Inversion]:
        terms = [CrossEntropy(), BatchNormDistance(0.05)]
        return [
            Inversion(own, GeneratorCanvas(network, latents(len(wanted))), wanted, terms, ShiftAndFlip(1), seeded())
            for own, wanted in both
        ]

    shared, shares = made(network), made(small_generator())
    weights = [*network.parameters()]
    total = torch.stack([own.loss() for own in shared]).sum()
    parts = [torch.autograd.grad(own.loss(), own.canvas.parameters[1:]) for own in shares]
    for found, first, second in zip(torch.autograd.grad(total, weights), *parts, strict=True):
        torch.testing.assert_close(found, first + second, rtol=1e-4, atol=1e-5)
    optimiser = torch.optim.Adam([*weights, *(own.canvas.parameters[0] for own in shared)], 5e-3, betas=(0.5, 0.999))
    for _ in range(100):
        optimiser.zero_grad()
        torch.stack([own.loss() for own in shared]).sum().backward()
        optimiser.step()
    for own, (_, wanted) in zip(shared, both, strict=True):
        found = own.best()
        assert torch.equal(found.labels, wanted)
        assert found.health.agreement > 0.8
        assert not found.health.is_worse_than_start


@dataclass
class Like(Objective):
    """Weighted distance from target images; records its inputs."""

    target: Tensor
    uses_features: bool = False
    weight: float = 1.0

    def __post_init__(self) -> None:
        self.shown: list[TeacherOutputs] = []
        self.images: list[Tensor] = []

    def __call__(self, images: Tensor, outputs: TeacherOutputs, step: Tensor) -> Tensor:
        is_last = not torch.is_grad_enabled()  # the evaluation after the last step has its number
        assert step.item() == len(self.shown) - is_last
        self.shown.append(outputs)
        self.images.append(images.detach().clone())
        return self.weight * (images - self.target).square().sum()


def test_a_custom_objective_changes_the_images_and_gets_both_forms_of_them(
    teacher: WhiteBoxTeacher,
) -> None:
    target = torch.linspace(0.2, 0.8, 16).expand(len(WANTED), 3, 16, 16)
    like, config = Like(target), RecoveryConfig(iterations=60, total_variation=0)
    led = recover(teacher, WANTED, config, seeded(), objectives=[like])
    assert (led.images.float() / 255 - target).abs().mean() < 0.02
    alone = recover(teacher, WANTED, config, seeded())
    assert (alone.images.float() / 255 - target).abs().mean() > 0.1
    first = like.shown[0]
    assert torch.equal(first.labels, WANTED)
    assert first.features is None
    assert first.guide_batch_norm is None
    assert first.images.shape == like.images[0].shape
    assert not torch.equal(first.images, like.images[0])
    torch.testing.assert_close(teacher(first.images), first.logits)


@pytest.mark.parametrize("config", [PIXELS, GENERATOR])
def test_features_come_from_the_same_pass_when_they_are_asked_for(
    config: RecoveryConfig | GeneratorConfig, teacher: WhiteBoxTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    weightless = Like(torch.zeros(()), weight=0.0, uses_features=True)
    alone = recover(teacher, WANTED, config, seeded())
    passes: list[int] = []
    real = type(teacher.classifier).preprocess
    counted: Callable[..., Tensor] = lambda own, images: passes.append(len(images)) or real(own, images)  # noqa: E731
    monkeypatch.setattr(type(teacher.classifier), "preprocess", counted)
    asked = recover(teacher, WANTED, config, seeded(), objectives=[weightless])
    assert passes == [len(WANTED)] * (config.iterations + 3)
    assert torch.equal(asked.images, alone.images)
    assert asked.health == alone.health
    for outputs in weightless.shown:
        assert outputs.features is not None
        assert torch.equal(teacher.classifier.network.head(outputs.features), outputs.logits)
        torch.testing.assert_close(teacher.features(outputs.images), outputs.features)


def test_a_meta_generator_learns_from_the_last_gradient_of_its_copies(
    teacher: WhiteBoxTeacher, other: WhiteBoxTeacher
) -> None:
    meta, steps = small_generator(), 4
    both = [(teacher, WANTED), (other, torch.arange(5).repeat(5))]

    def pull(start: Generator) -> tuple[float, list[Tensor]]:
        """Loss after `steps` inner steps, and its gradient for the copies, summed."""
        loss, gradients = 0.0, [torch.zeros_like(value) for value in start.parameters()]
        for own, wanted in both:
            canvas = GeneratorCanvas(copy.deepcopy(start), latents(len(wanted)))
            rates = [1e-3] * steps
            inner = Inversion(own, canvas, wanted, [CrossEntropy()], Still(), seeded(), learning_rates=rates).run()
            last = inner.loss()
            found = torch.autograd.grad(last, [*canvas.network.parameters()])
            plain = functional.cross_entropy(own(canvas.network(canvas.latents)), wanted)
            expected = torch.autograd.grad(plain, [*canvas.network.parameters()])
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
            loss += last.item()
            gradients = [sum_ + part for sum_, part in zip(gradients, found, strict=True)]
        return loss, gradients

    before, optimiser = [value.clone() for value in meta.parameters()], torch.optim.Adam(meta.parameters(), 2e-3)
    losses = []
    for _ in range(25):
        loss, gradients = pull(meta)
        losses.append(loss)
        for value, gradient in zip(meta.parameters(), gradients, strict=True):
            value.grad = gradient
        optimiser.step()
    assert losses[-1] < losses[0] / 2  # a better start with the same number of inner steps
    assert not torch.equal(before[0], next(meta.parameters()))


class Part(Canvas):
    """Part of the images of a pool that teachers share."""

    def __init__(self, pool: Tensor, indices: Tensor) -> None:
        self.parameters, self.indices = (pool,), indices

    def images(self) -> Tensor:
        return self.parameters[0][self.indices]


def test_teachers_share_the_pixels_of_a_pool(teacher: WhiteBoxTeacher) -> None:
    pool, halves = noise(8), torch.arange(8).split(5)
    second = teacher_of(trained(spec_of(), steps=20), "second")
    both = [
        Inversion(own, Part(pool, indices), indices % 4, [CrossEntropy()], Still(), seeded())
        for own, indices in zip((teacher, second), halves, strict=True)
    ]
    (gradient,) = torch.autograd.grad(torch.stack([own.loss() for own in both]).sum(), pool)
    for own, indices in zip((teacher, second), halves, strict=True):
        images = pool.detach()[indices].requires_grad_()
        (expected,) = torch.autograd.grad(functional.cross_entropy(own(images), indices % 4), images)
        torch.testing.assert_close(gradient[indices], expected, rtol=1e-4, atol=1e-6)


@dataclass
class Fading(Objective):
    """A term whose weight falls with the steps, as counted on the device."""

    weights: Tensor
    recordable: bool = True

    def __call__(self, images: Tensor, outputs: TeacherOutputs, step: Tensor) -> Tensor:
        return self.weights.index_select(0, step).squeeze(0) * images.square().mean()


@pytest.mark.parametrize("recordable", [True, False])
def test_only_recordable_objectives_are_recorded(
    recordable: bool, teacher: WhiteBoxTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    fading = Fading(torch.linspace(50, 0, PIXELS.iterations), recordable)
    called = recover(teacher, WANTED, PIXELS, seeded(), objectives=[fading])
    asked: list[bool] = []

    def watched(step: Callable[[], None], device: torch.device, *, recordable: bool) -> Any:
        asked.append(recordable)
        return (PlayedBack if recordable else Repeated)(step, device)

    monkeypatch.setattr(inversion, "Repeated", watched)
    again = recover(teacher, WANTED, PIXELS, seeded(), objectives=[fading])
    assert asked == [recordable]
    assert torch.equal(called.images, again.images)
    assert not torch.equal(called.images, recover(teacher, WANTED, PIXELS, seeded()).images)


def test_a_generator_may_be_trained_further(teacher: WhiteBoxTeacher) -> None:
    network = small_generator()
    before = network.project.weight.clone()
    first = next(GENERATOR.inversions(teacher, [WANTED], seeded(), network=network)).run()
    moved = network.project.weight.clone()
    assert not torch.equal(moved, before)
    (second,) = GENERATOR.inversions(teacher, [WANTED], seeded(), network=network)
    assert torch.equal(second.canvas.images(), network(second.canvas.parameters[0]))
    assert second.run().best().health.batch_norm_distance != first.best().health.batch_norm_distance
    assert not torch.equal(network.project.weight, moved)


def test_memory_is_freed_without_garbage_collection(teacher: WhiteBoxTeacher) -> None:
    gc.collect()
    gc.disable()
    try:
        for config in (PIXELS, GENERATOR):
            own = next(config.inversions(teacher, [WANTED], seeded())).run()
            own.best()
            kept = weakref.ref(own)
            del own
            assert kept() is None
    finally:
        gc.enable()


def test_without_a_step_the_start_has_the_predictions_of_the_teacher(teacher: WhiteBoxTeacher) -> None:
    start = noise()
    found = Inversion(teacher, PixelCanvas(start), WANTED, [CrossEntropy()], Still(), seeded()).best()
    assert torch.equal(found.images, (start.detach() * 255).round().to(torch.uint8))
    assert torch.equal(found.labels, teacher(found.images.float() / 255).argmax(1))


def test_wrong_use_names_the_model_and_the_remedy(teacher: WhiteBoxTeacher) -> None:
    with raises(UsageError, subject="model 'letters'", problem="no objective", remedy="CrossEntropy()"):
        Inversion(teacher, PixelCanvas(noise()), WANTED, [], Still(), seeded())
    done = next(PIXELS.inversions(teacher, [WANTED], seeded())).run()
    for own in (done, Inversion(teacher, PixelCanvas(noise()), WANTED, [CrossEntropy()], Still(), seeded())):
        with raises(UsageError, subject="model 'letters'", problem="learning rate", remedy="learning_rates"):
            own.step()


def test_the_result_of_the_last_step_may_be_the_best(teacher: WhiteBoxTeacher) -> None:
    canvas = PixelCanvas(torch.full((4, 3, 16, 16), 0.5))

    def brightness(images: Tensor, outputs: TeacherOutputs, step: Tensor) -> Tensor:
        return images.mean()

    inversion = Inversion(
        teacher, canvas, torch.arange(4), [brightness], ShiftAndFlip(0), torch.Generator(), learning_rates=[0.05] * 3
    )
    stored = inversion.run().best().images.float() / 255
    torch.testing.assert_close(stored, canvas.images().detach(), atol=1 / 255, rtol=0)
