import pytest
import torch
from torch import Tensor
from torch.nn import functional

from metazoo.data.augment import RollAlike, crop_and_flip_alike, shift_and_flip


def numbered(count: int, side: int = 6, channels: int = 2) -> Tensor:
    """Images in which no two pixels are equal."""
    return torch.arange(count * channels * side * side, dtype=torch.float32).view(count, channels, side, side)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_without_a_shift_every_image_is_itself_or_its_mirror_image() -> None:
    images = numbered(60)
    moved = shift_and_flip(images, 0, seeded())
    same = (moved == images).flatten(1).all(1)
    mirrored = (moved == images.flip(3)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert 15 < int(mirrored.sum()) < 45


def test_each_image_is_shifted_on_its_own_with_its_border_repeated() -> None:
    images, padding = numbered(300), 2
    moved = shift_and_flip(images, padding, seeded(1))
    padded = functional.pad(images, (padding,) * 4, mode="replicate")
    found = torch.zeros(300, dtype=torch.long)
    shifts = set()
    for flip in (False, True):
        for down in range(2 * padding + 1):
            for right in range(2 * padding + 1):
                expected = padded[:, :, down : down + 6, right : right + 6]
                equal = (moved == (expected.flip(3) if flip else expected)).flatten(1).all(1)
                found += equal.long()
                shifts |= {(flip, down, right)} if bool(equal.any()) else set()
    assert found.unique().tolist() == [1]  # each image matches exactly one shift
    assert len(shifts) == 2 * 5 * 5  # and all shifts occur


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("count", "channels", "side", "padding"), [(3, 3, 32, 4), (1, 1, 16, 2), (5, 3, 3, 7)])
def test_shape_and_range_are_kept(
    memory_format: torch.memory_format, count: int, channels: int, side: int, padding: int
) -> None:
    images = torch.rand(count, channels, side, side, generator=seeded()).contiguous(memory_format=memory_format)
    moved = shift_and_flip(images, padding, seeded())
    assert moved.shape == images.shape
    assert bool(((moved[:, :, None] == images.flatten(2)[..., None, None]).any(2)).all())  # no new values
    assert torch.equal(moved, shift_and_flip(images.contiguous(), padding, seeded()))


def test_the_generator_alone_decides() -> None:
    images = numbered(20)
    assert torch.equal(shift_and_flip(images, 2, seeded(3)), shift_and_flip(images, 2, seeded(3)))
    assert not torch.equal(shift_and_flip(images, 2, seeded(3)), shift_and_flip(images, 2, seeded(4)))
    one = seeded(3)
    assert not torch.equal(shift_and_flip(images, 2, one), shift_and_flip(images, 2, one))


def test_gradients_agree_with_finite_differences_and_add_up_where_the_border_is_repeated() -> None:
    images = torch.rand(4, 2, 4, 4, generator=seeded(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: shift_and_flip(values, 2, seeded(5)), images)
    (gradient,) = torch.autograd.grad(shift_and_flip(images, 2, seeded(5)).sum(), images)
    assert gradient.sum().item() == pytest.approx(images.numel())
    assert gradient.max().item() > 1


def test_alike_means_one_crop_with_a_black_border_and_one_flip_for_the_batch() -> None:
    images, padding, kinds = numbered(4) + 1, 2, set()
    padded = functional.pad(images, (padding,) * 4)
    expected = {
        (flip, down, right): crop.flip(3) if flip else crop
        for flip in (False, True)
        for down in range(2 * padding + 1)
        for right in range(2 * padding + 1)
        for crop in [padded[:, :, down : down + 6, right : right + 6]]
    }
    random = seeded(3)
    for _ in range(400):
        moved = crop_and_flip_alike(images, padding, random)
        (kind,) = [kind for kind, candidate in expected.items() if torch.equal(moved, candidate)]
        kinds.add(kind)
    assert kinds == expected.keys()


def test_all_images_are_rolled_alike_by_up_to_the_padding() -> None:
    images, augmentation, random = numbered(3), RollAlike(2), seeded(2)
    found = set()
    for _ in range(200):
        draws = augmentation.draw(3, random)
        shift = tuple(draws.tolist())
        assert torch.equal(augmentation.apply(images, draws), images.roll(shift, (2, 3)))
        found.add(shift)
    assert found == {(down, right) for down in range(-2, 3) for right in range(-2, 3)}
