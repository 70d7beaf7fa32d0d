import copy
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from error_checks import raises
from recover_helpers import distances, letters, recover, spec_of, teacher_of, trained
from torch import Tensor

from metazoo.data.augment import ShiftAndFlip
from metazoo.errors import Interrupted, ZooError
from metazoo.recover import objectives
from metazoo.recover.adam import PlainAdam
from metazoo.recover.pixels import RecoveryConfig, cosine_decay
from metazoo.recover.start_images import start_images
from metazoo.recover.teacher_pass import TeacherPass
from metazoo.zoo import WhiteBoxTeacher

WANTED = torch.arange(4).repeat(8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_adam_is_that_of_torch() -> None:
    ours, theirs = torch.randn(3, 4, generator=seeded()), torch.randn(3, 4, generator=seeded()).requires_grad_()
    rates = [0.1 / (1 + step) for step in range(5)]
    adam = PlainAdam([ours], (0.5, 0.99), rates)
    reference = torch.optim.Adam([theirs], lr=0.1, betas=(0.5, 0.99))
    for step, rate in enumerate(rates):
        theirs.grad = torch.randn(3, 4, generator=seeded(step))
        reference.param_groups[0]["lr"] = rate
        reference.step()
        adam.step([theirs.grad])
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-6, atol=1e-7)


def test_the_teacher_recognises_recovered_images_and_its_statistics_come_nearer(teacher: WhiteBoxTeacher) -> None:
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    result = recover(teacher, WANTED, RecoveryConfig(iterations=80), seeded())
    assert (result.images.shape, result.images.dtype) == ((32, 3, 16, 16), torch.uint8)
    assert torch.equal(result.labels, WANTED)
    assert result.health.agreement > 0.9
    distance, at_start = distances(result.health)
    assert distance < at_start / 3
    agreement = (teacher(result.images.float() / 255).argmax(1) == WANTED).double().mean().item()
    assert result.health.agreement == agreement
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.parametrize(("side", "channels", "batch_norm"), [(16, 1, True), (20, 3, True), (16, 3, False)])
def test_teachers_of_all_sizes_are_recovered(side: int, channels: Literal[1, 3], batch_norm: bool) -> None:
    teacher = teacher_of(trained(spec_of(4, side, channels), batch_norm=batch_norm))
    result = recover(teacher, WANTED, RecoveryConfig(iterations=80), seeded())
    assert result.images.shape == (32, channels, side, side)
    assert result.health.agreement > 0.9
    if batch_norm:
        distance, at_start = distances(result.health)
        assert distance < at_start / 2
    else:
        assert result.health.figures().keys() == {"agreement"}


def test_the_generator_alone_decides(teacher: WhiteBoxTeacher) -> None:
    config = RecoveryConfig(iterations=3, canvas="noise", l2=0.1)
    first, again, other = (recover(teacher, WANTED, config, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.images, again.images)
    assert first.health == again.health
    assert not torch.equal(first.images, other.images)


def test_a_batch_in_parts_has_the_gradients_of_the_whole(teacher: WhiteBoxTeacher) -> None:
    images = torch.rand(13, 3, 16, 16, generator=seeded()).requires_grad_()
    weights = torch.randn(13, len(teacher.contract.class_names), generator=seeded(1))
    calls: list[int] = []
    handle = teacher.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    found = []
    for values_at_once in (2**20, 5 * 8 * 16 * 16):  # the latter: five images
        run = TeacherPass(teacher, values_at_once=values_at_once)
        run(images)  # counts the input values of the layers
        calls.clear()
        logits, _, statistics = run(images)
        loss = (logits * weights).sum() + objectives.batch_norm_distance(*statistics)
        found.append((logits.detach(), loss.detach(), torch.autograd.grad(loss, images)[0]))
    handle.remove()
    assert max(calls) <= 5
    assert sum(calls) == 13
    for whole, in_parts in zip(*found, strict=True):
        torch.testing.assert_close(in_parts, whole, rtol=1e-4, atol=1e-5)


def test_the_iterate_with_the_lowest_loss_is_kept(teacher: WhiteBoxTeacher, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    real = ShiftAndFlip.apply

    def spy(augmentation: ShiftAndFlip, images: Tensor, draws: Tensor) -> Tensor:
        seen.append(images.detach().clone())
        return real(augmentation, images, draws)

    monkeypatch.setattr(ShiftAndFlip, "apply", spy)
    # With such large steps, the second iterate is worse than the start, and later ones remain so.
    config = RecoveryConfig(iterations=3, learning_rate=100.0, cross_entropy=0, batch_norm=0, total_variation=1)
    result = recover(teacher, WANTED, config, seeded())
    losses = [objectives.total_variation(images).item() for images in seen]
    assert losses[0] == min(losses) < max(losses)
    assert torch.equal(result.images, (seen[0] * 255).round().to(torch.uint8))


def test_without_any_weight_the_start_is_kept(teacher: WhiteBoxTeacher) -> None:
    config = RecoveryConfig(iterations=2, cross_entropy=0, batch_norm=0, total_variation=0)
    result = recover(teacher, WANTED, config, seeded())
    start = start_images("leaves", 32, 3, 16, seeded())
    assert torch.equal(result.images, (start * 255).round().to(torch.uint8))
    assert result.health.batch_norm_distance == pytest.approx(result.health.batch_norm_distance_at_start, rel=0.05)


def test_large_images_are_stored_smaller_and_judged_as_they_are_stored(teacher: WhiteBoxTeacher) -> None:
    config = RecoveryConfig(iterations=60)
    small = recover(teacher, WANTED, config, seeded(), stored_side=10)
    assert small.images.shape == (32, 3, 10, 10)
    agreement = (teacher(small.images.float() / 255).argmax(1) == WANTED).double().mean().item()
    assert small.health.agreement == agreement
    same = [recover(teacher, WANTED[:4], config, seeded(), stored_side=side).images for side in (16, 99, None)]
    assert torch.equal(same[0], same[1])
    assert torch.equal(same[0], same[2])


def broken(change: Callable[[WhiteBoxTeacher], object], teacher: WhiteBoxTeacher) -> WhiteBoxTeacher:
    teacher = copy.deepcopy(teacher)
    with torch.no_grad():
        change(teacher)
    return teacher


@pytest.mark.parametrize(
    "change",
    [
        lambda teacher: teacher.classifier.network.head.bias.fill_(torch.nan),
        lambda teacher: teacher.classifier.network.head.weight.fill_(torch.inf),
        lambda teacher: next(teacher.buffers()).fill_(torch.nan),
        lambda teacher: teacher.classifier.network.blocks[1][1].running_var.fill_(-1.0),
        lambda teacher: teacher.classifier.network.blocks[0][0].weight.fill_(1e25),
    ],
)
def test_a_teacher_that_is_not_finite_is_named(
    change: Callable[[WhiteBoxTeacher], object], teacher: WhiteBoxTeacher
) -> None:
    with raises(ZooError, subject="model 'letters'", problem="not finite", remedy="zoo verify"):
        recover(broken(change, teacher), WANTED, RecoveryConfig(iterations=2), seeded())


def test_a_stop_comes_through_and_nothing_is_left_in_the_teacher(teacher: WhiteBoxTeacher) -> None:
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise Interrupted("enough")

    with pytest.raises(Interrupted, match="enough"):
        recover(teacher, WANTED, RecoveryConfig(iterations=9), seeded(), check=check)
    assert not any("forward" in vars(part) for part in teacher.modules())


def test_the_learning_rate_falls_as_a_cosine_to_a_floor() -> None:
    assert cosine_decay(0.0) == 1
    assert cosine_decay(0.5) == pytest.approx(0.525)
    assert cosine_decay(1.0) == pytest.approx(0.05)


def test_letters_of_the_helpers_are_learnt(teacher: WhiteBoxTeacher) -> None:
    images, labels = letters(4, 16)
    assert (teacher(images).argmax(1) == labels).float().mean() > 0.95
