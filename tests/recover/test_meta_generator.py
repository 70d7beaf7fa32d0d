"""The meta-generator, compared with loops that are written out here."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from error_checks import raises
from recover_helpers import VISION_TRANSFORMER, spec_of, teacher_of, trained
from torch import Tensor, nn
from torch.nn import functional

from metazoo.data.augment import CropAndFlipAlike
from metazoo.errors import DataError
from metazoo.execution.threads import CALLING_THREAD, WorkerThreads
from metazoo.models import Generator
from metazoo.recover import Adaptation, MetaGenerator, MetaGeneratorConfig, RecoveredImages, TeacherOutputs
from metazoo.zoo import WhiteBoxTeacher

SIDE = 16
LABELS = torch.arange(4).repeat(3)
SMALL: dict[str, Any] = {"latent": 8, "width": 4, "learning_rate": 5e-3, "outer_learning_rate": 2e-3}


@pytest.fixture(scope="module")
def other() -> WhiteBoxTeacher:
    return teacher_of(trained(spec_of(4, 18), steps=20), "other")


def made(threads: WorkerThreads = CALLING_THREAD, **options: Any) -> MetaGenerator:
    config = MetaGeneratorConfig.model_validate({**SMALL, **options})
    return MetaGenerator(SIDE, config, torch.Generator().manual_seed(0), threads=threads)


def adaptations(teachers: Sequence[WhiteBoxTeacher], step: int = 0) -> list[Adaptation]:
    seeds = [10 * step + index for index in range(len(teachers))]
    return [
        Adaptation(teacher, LABELS, [], torch.Generator().manual_seed(seed))
        for teacher, seed in zip(teachers, seeds, strict=True)
    ]


def by_hand(
    start: Generator, teacher: WhiteBoxTeacher, seed: int, steps: int
) -> tuple[Generator, list[Tensor], Tensor]:
    """An adapted copy, the gradient of its last step, and the images of the lowest loss, by torch's own optimiser."""
    random, network = torch.Generator().manual_seed(seed), copy.deepcopy(start)
    latents = torch.randn(len(LABELS), SMALL["latent"], generator=random).requires_grad_()
    optimiser = torch.optim.Adam([latents, *network.parameters()], SMALL["learning_rate"], betas=(0.5, 0.999))
    augmentation, lowest, images = CropAndFlipAlike(2), float("inf"), torch.empty(0)
    gradients: list[Tensor] = []
    for _ in range(steps):
        generated = network(latents)
        shown = augmentation.apply(generated, augmentation.draw(len(LABELS), random))
        loss = functional.cross_entropy(teacher(shown), LABELS)
        optimiser.zero_grad()
        loss.backward()
        if loss.item() < lowest:
            lowest, images = loss.item(), generated.detach()
        gradients = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
        optimiser.step()
    return network, gradients, (images * 255).round().to(torch.uint8)


def flat(tensors: Sequence[Tensor] | nn.Module) -> Tensor:
    given = tensors.parameters() if isinstance(tensors, nn.Module) else tensors
    return torch.cat([tensor.detach().flatten() for tensor in given])


@pytest.mark.parametrize("steps", [1, 5])
def test_the_outer_step_follows_the_summed_gradients_of_the_last_steps(
    teacher: WhiteBoxTeacher, other: WhiteBoxTeacher, steps: int
) -> None:
    generator = made(steps=steps)
    start = copy.deepcopy(generator.network)
    found = generator.step(adaptations([teacher, other]))
    total = torch.zeros(())
    for index, (own, recovered) in enumerate(zip((teacher, other), found, strict=True)):
        _, gradients, images = by_hand(start, own, index, steps)
        total = total + flat(gradients)
        assert (recovered.images.int() - images.int()).abs().max() <= 1
        assert torch.equal(recovered.labels, LABELS)
    # The first step of Adam, for gradients well above its epsilon.
    moved, clear = flat(generator.network) - flat(start), total.abs() > 1e-4
    assert clear.float().mean() > 0.5
    torch.testing.assert_close(moved[clear], -2e-3 * total[clear].sign(), rtol=2e-2, atol=1e-6)


def test_reptile_moves_towards_the_mean_of_the_copies(teacher: WhiteBoxTeacher, other: WhiteBoxTeacher) -> None:
    for share in (1.0, 0.3):
        generator = made(outer_step="reptile", interpolation=share)
        start = copy.deepcopy(generator.network)
        generator.step(adaptations([teacher, other]))
        copies = [flat(by_hand(start, own, index, 5)[0]) for index, own in enumerate((teacher, other))]
        expected = flat(start) + share * (torch.stack(copies).mean(0) - flat(start))
        torch.testing.assert_close(flat(generator.network), expected, rtol=1e-3, atol=2e-4)


def test_a_persistent_optimiser_keeps_its_moments_and_a_published_one_takes_steps_of_equal_length(
    teacher: WhiteBoxTeacher,
) -> None:
    lengths: dict[str, list[float]] = {}
    for outer in ("published", "persistent"):
        generator = made(outer_step=outer)
        lengths[outer] = []
        for step in range(3):
            before = flat(generator.network)
            generator.step(adaptations([teacher], step))
            lengths[outer].append(float((flat(generator.network) - before).abs().median()))
    assert lengths["published"] == pytest.approx([2e-3] * 3, rel=1e-2)
    assert lengths["persistent"][0] == pytest.approx(2e-3, rel=1e-2)
    assert lengths["persistent"][2] < 1.9e-3


def test_what_it_learned_makes_the_next_five_steps_lead_further(teacher: WhiteBoxTeacher) -> None:
    generator = made(latent=16, width=8)

    def agreement() -> float:
        found = generator.images(adaptations([teacher] * 4, 100))
        return sum(recovered.health.agreement for recovered in found) / 4

    before, start = agreement(), flat(generator.network)
    assert torch.equal(flat(generator.network), start)
    for step in range(20):
        generator.step(adaptations([teacher], step))
    assert agreement() > before + 0.05


@pytest.mark.parametrize("outer", ["published", "persistent", "reptile"])
def test_it_resumes_bit_equal_from_its_state(teacher: WhiteBoxTeacher, other: WhiteBoxTeacher, outer: str) -> None:
    whole, first, second = (made(outer_step=outer) for _ in range(3))
    images = [whole.step(adaptations([teacher, other], step)) for step in range(3)][-1]
    for step in range(2):
        first.step(adaptations([teacher, other], step))
    second.restore({name: value.clone() for name, value in first.state().items()})
    again = second.step(adaptations([teacher, other], 2))
    assert all(torch.equal(one.images, two.images) for one, two in zip(images, again, strict=True))
    assert all(torch.equal(value, second.state()[name]) for name, value in whole.state().items())


def test_threads_that_share_the_teachers_change_nothing_even_if_one_occurs_twice(teacher: WhiteBoxTeacher) -> None:
    alone, shared = made(batch_norm=1.0), made(WorkerThreads(2), batch_norm=1.0)
    for _ in range(2):
        [own.step(adaptations([teacher] * 4)) for own in (alone, shared)]
    one, two = (own.step(adaptations([teacher] * 4)) for own in (alone, shared))
    assert torch.equal(flat(alone.network), flat(shared.network))
    assert all(torch.equal(first.images, second.images) for first, second in zip(one, two, strict=True))
    assert not torch.equal(one[0].images, one[1].images)


class Darkness:
    """Term that pulls all pixels to 0."""

    def __call__(self, images: Tensor, outputs: TeacherOutputs, step: Tensor) -> Tensor:
        return 100 * images.mean()


def test_further_objectives_and_the_batch_norm_term_count(teacher: WhiteBoxTeacher) -> None:
    def images(extra: Sequence[Any] = (), **options: Any) -> RecoveredImages:
        (own,) = adaptations([teacher])
        (found,) = made(steps=20, **options).step([Adaptation(own.teacher, own.labels, extra, own.random)])
        return found

    plain, dark, fitting = images(), images([Darkness()]), images(batch_norm=1.0)
    assert dark.images.float().mean() < plain.images.float().mean() - 20
    assert fitting.health.batch_norm_distance is not None
    assert plain.health.batch_norm_distance is not None
    assert fitting.health.batch_norm_distance < plain.health.batch_norm_distance


@pytest.mark.parametrize("kind", ["grey", "transformer", "no batch norm"])
def test_images_of_one_size_serve_all_teachers(kind: str) -> None:
    spec = {"grey": spec_of(3, 20, 1), "transformer": VISION_TRANSFORMER}.get(kind, spec_of(3))
    teacher = teacher_of(trained(spec, batch_norm=kind != "no batch norm", steps=2))
    (found,) = made().step([Adaptation(teacher, torch.arange(3).repeat(2), [], torch.Generator().manual_seed(0))])
    assert found.images.shape == (6, 3, SIDE, SIDE)


def test_losses_that_are_not_finite_name_the_teacher_and_leave_the_generator(teacher: WhiteBoxTeacher) -> None:
    class Broken:
        def __call__(self, images: Tensor, outputs: TeacherOutputs, step: Tensor) -> Tensor:
            return images.mean() * torch.inf

    generator = made()
    start = flat(generator.network)
    (own,) = adaptations([teacher])
    with raises(DataError, subject="letters", problem="not finite", remedy="generator.learning_rate"):
        generator.step([Adaptation(own.teacher, own.labels, [Broken()], own.random)])
    assert torch.equal(flat(generator.network), start)


def test_a_state_of_another_generator_is_refused() -> None:
    for tensors in ({}, made(width=6).state()):
        with raises(DataError, subject="checkpoint", problem="does not fit", remedy="again"):
            made().restore(tensors)
