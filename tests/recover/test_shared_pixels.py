"""Images that teachers share: gradients against an independent loop, classes by name, and resuming."""

import copy
from collections.abc import Sequence

import pytest
import torch
from error_checks import raises
from recover_helpers import Plain, spec_of, teacher_of, trained
from torch import Tensor, nn
from torch.nn import functional

from metazoo.errors import DataError, ZooError
from metazoo.execution.threads import WorkerThreads
from metazoo.models import ImageClassifier
from metazoo.recover import RecoveryBudget
from metazoo.recover.shared_pixels import SharedPixels, SharedPixelsConfig, rows_of_classes
from metazoo.zoo import WhiteBoxTeacher

EACH = 3
# Letters are numbered in the zoo: A, O, S, X, T of the first teacher, and others of the second.
FIRST, SECOND = torch.tensor([0, 1, 2, 3]), torch.tensor([5, 2, 0, 4])


@pytest.fixture(scope="module")
def teachers() -> list[WhiteBoxTeacher]:
    """Two models that differ a little, and know the same letters."""
    first = trained(spec_of(), steps=60)
    second = copy.deepcopy(first)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=random)
    return [teacher_of(first, "first"), teacher_of(second, "second")]


def plain(**options: object) -> SharedPixelsConfig:
    """No augmentation, so that a loop can follow."""
    return SharedPixelsConfig.model_validate({"shift": 0.0, "circular": True, **options})


def shared(
    teachers: Sequence[WhiteBoxTeacher],
    config: SharedPixelsConfig,
    own: Sequence[Tensor] = (FIRST, SECOND),
    *,
    count: int = EACH,
    side: int = 16,
    bucket: int = 150,
    threads: int = 1,
) -> SharedPixels:
    classes = torch.arange(6).repeat_interleave(count)
    start = torch.rand(len(classes), 3, side, side, generator=torch.Generator().manual_seed(0))
    budget = RecoveryBudget(images_per_class=count, bucket_size=bucket)
    return SharedPixels(start, classes, teachers, own, config, budget, 7, threads=WorkerThreads(threads))


def loss_by_hand(teacher: WhiteBoxTeacher, images: Tensor, labels: Tensor, config: SharedPixelsConfig) -> Tensor:
    """Cross-entropy, distance of batch-norm statistics, and smoothness, with hooks of torch and nothing else."""
    terms: list[Tensor] = []

    def measure(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.BatchNorm2d)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        channels = inputs[0].transpose(0, 1).flatten(1)
        variance = channels.var(1, correction=0)
        terms.append((channels.mean(1) - layer.running_mean).norm() + (variance - layer.running_var).norm())

    layers = [part for part in teacher.modules() if isinstance(part, nn.BatchNorm2d)]
    handles = [layer.register_forward_pre_hook(measure) for layer in layers]
    loss = functional.cross_entropy(teacher(images), labels)
    for handle in handles:
        handle.remove()
    down, across = images[:, :, 1:] - images[:, :, :-1], images[..., 1:] - images[..., :-1]
    smooth = down.square().mean() + across.square().mean()
    return config.cross_entropy * loss + config.batch_norm * sum(terms, loss * 0) + config.total_variation * smooth


def test_a_gradient_is_the_sum_of_those_of_the_teachers_on_their_own_classes(teachers: list[WhiteBoxTeacher]) -> None:
    config = plain(cross_entropy=0.5, batch_norm=2.0, total_variation=3.0)
    images = shared(teachers, config)
    expected, total = torch.zeros_like(images.pixels), 0.0
    for teacher, own in zip(teachers, (FIRST, SECOND), strict=True):
        # By the meaning of a row, not by the order of rows.
        pairs = [(row, label) for row, known in enumerate(images.classes) for label in range(4) if own[label] == known]
        rows, labels = torch.tensor(pairs).T
        shown = images.pixels[rows].clone().requires_grad_(True)
        loss = loss_by_hand(teacher, shown, labels, config)
        (gradient,) = torch.autograd.grad(loss, shown)
        for row, part in zip(rows, gradient, strict=True):
            expected[row] += part
        total += loss.item()
    gradient, loss = images.gradient(0)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    assert loss.item() == pytest.approx(total, rel=1e-5)


def test_teachers_see_the_same_images_of_a_class_under_their_own_labels() -> None:
    classes = torch.arange(6).repeat_interleave(EACH)
    (rows, labels), (others, other_labels) = (rows_of_classes(classes, own) for own in (FIRST, SECOND))
    assert torch.equal(FIRST[labels], classes[rows])
    assert torch.equal(SECOND[other_labels], classes[others])
    for known in (0, 2):
        assert set(rows[classes[rows] == known].tolist()) == set(others[classes[others] == known].tolist())
    assert other_labels.tolist() == [0] * EACH + [1] * EACH + [2] * EACH + [3] * EACH


def test_classes_of_a_teacher_that_are_one_class_share_its_images() -> None:
    classes = torch.tensor([0, 0, 0, 1, 1])
    rows, labels = rows_of_classes(classes, torch.tensor([1, 0, 0, 4]))
    assert rows.tolist() == [3, 4, 0, 2, 1]
    assert labels.tolist() == [0, 0, 1, 1, 2]


def test_a_step_is_one_of_adam_and_stays_within_the_range(teachers: list[WhiteBoxTeacher]) -> None:
    config = plain(learning_rate=0.05)
    images = shared(teachers, config)
    start, (gradient, loss) = images.pixels.clone(), images.gradient(3)
    rows = torch.tensor([1, 4])
    added = torch.full((2, 3, 16, 16), 0.25)
    assert images.step(3, (rows, added)).item() == loss.item()
    parameter = nn.Parameter(start)
    parameter.grad = gradient.clone()
    parameter.grad[rows] += added
    torch.optim.Adam([parameter], lr=0.05).step()
    torch.testing.assert_close(images.pixels, parameter.detach().clamp(0, 1))
    assert images.pixels.min() >= 0
    assert images.pixels.max() <= 1


def test_steps_make_the_teachers_recognise_their_classes(teachers: list[WhiteBoxTeacher]) -> None:
    config = SharedPixelsConfig(learning_rate=0.05, batch_norm=0.1, total_variation=0)
    images = shared(teachers, config, (FIRST, FIRST))
    losses = [images.step(number) for number in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    stored = (images.pixels * 255).round().to(torch.uint8)
    start = (shared(teachers, plain()).pixels * 255).round().to(torch.uint8)
    for index in range(2):
        health = images.health(index, start, stored)
        assert health is not None
        assert health.agreement > 0.75  # 0.25 at random
        assert not health.is_worse_than_start


def test_a_resumed_inversion_ends_bit_equal_with_any_number_of_threads(teachers: list[WhiteBoxTeacher]) -> None:
    config = SharedPixelsConfig(teachers_per_step=1, learning_rate=0.05)
    whole, again = shared(teachers, config), shared(teachers, config, threads=2)
    for number in range(3):
        whole.step(number)
    again.restore({name: tensor.clone() for name, tensor in whole.state().items()})
    for number in range(3, 6):
        whole.step(number)
    for number in range(3, 6):
        again.step(number)
    assert torch.equal(whole.pixels, again.pixels)
    everyone = [shared(teachers, SharedPixelsConfig(), threads=count).gradient(0)[0] for count in (1, 2)]
    assert torch.equal(*everyone)


def test_a_foreign_state_is_refused(teachers: list[WhiteBoxTeacher]) -> None:
    images = shared(teachers, SharedPixelsConfig())
    for state in ({}, shared(teachers, SharedPixelsConfig(), count=2).state()):
        with raises(DataError, subject="checkpoint", problem="shared images"):
            images.restore(state)


def test_a_teacher_of_many_images_sees_some_of_all_its_classes(teachers: list[WhiteBoxTeacher]) -> None:
    images = shared(teachers[:1], plain(), [FIRST], count=10, bucket=6)
    seen = []
    for number in range(4):
        gradient, _ = images.gradient(number)
        rows = (gradient.flatten(1).abs().sum(1) > 0).nonzero().flatten()
        counts = torch.bincount(images.classes[rows], minlength=6)
        assert len(rows) == 6
        assert sorted(counts.tolist()) == [0, 0, 1, 1, 2, 2]
        seen.append(tuple(rows.tolist()))
    assert len(set(seen)) == 4


def test_teachers_of_other_sizes_channels_and_without_batch_norm_share_images() -> None:
    grey = teacher_of(trained(spec_of(4, 20, channels=1), steps=3), "grey")
    without = teacher_of(ImageClassifier(spec_of(3), Plain(3, 3)).eval(), "plain")
    images = shared([grey, without], SharedPixelsConfig(), [FIRST, torch.tensor([4, 5, 0])], side=24)
    gradient, _ = images.gradient(0)
    assert bool((gradient.flatten(1).norm(dim=1) > 0).all())
    health = images.health(1, *[(images.pixels * 255).to(torch.uint8)] * 2)
    assert health is not None
    assert health.batch_norm_distance is None


def test_a_teacher_without_images_is_left_out(teachers: list[WhiteBoxTeacher]) -> None:
    images = shared(teachers, plain(), [FIRST, torch.tensor([9, 8, 7, 6])])
    alone = shared(teachers[:1], plain(), [FIRST])
    assert torch.equal(images.gradient(0)[0], alone.gradient(0)[0])
    assert images.health(1, *[(images.pixels * 255).to(torch.uint8)] * 2) is None


def test_a_teacher_that_is_not_finite_is_named(teachers: list[WhiteBoxTeacher]) -> None:
    broken = teacher_of(trained(spec_of(), steps=1), "broken")
    with torch.no_grad():
        broken.classifier.network.head.weight.fill_(torch.nan)
    images = shared([teachers[0], broken], SharedPixelsConfig())
    before = images.pixels.clone()
    with raises(ZooError, subject="'broken'", remedy="zoo verify"):
        images.step(0)
    assert torch.equal(images.pixels, before)
