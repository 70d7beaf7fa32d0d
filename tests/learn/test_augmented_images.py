from pathlib import Path

import pytest
import torch
from learn_helpers import resident_bank, targets
from torch import Tensor

from metazoo.bank import ResidentBank
from metazoo.learn import augmented_images
from metazoo.learn.augmented_images import add_teacher_outputs, draw_augmented_images

GROUPS = ((0, 2), (1,))


def drawn(
    count: int = 60, seed: int = 0, shift: int = 2, mix: bool = True, bank: ResidentBank | None = None
) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return draw_augmented_images(bank or resident_bank(), GROUPS, count, random, shift=shift, mix=mix)


def pure_colours() -> ResidentBank:
    """Every image of teacher 0 is red, of teacher 1 green, of teacher 2 blue."""
    colours = 255 * torch.eye(3, dtype=torch.uint8).repeat_interleave(4, 0)
    images = colours[:, :, None, None].expand(-1, -1, 16, 16).contiguous()
    return ResidentBank(("r", "g", "b"), images, torch.zeros(12, dtype=torch.int64), (0, 4, 8, 12))


@pytest.mark.parametrize("count", [3, 59, 60, 61])
def test_every_teacher_owns_the_same_number_of_images_up_to_one(count: int) -> None:
    images, owners = drawn(count)
    owned = owners.bincount(minlength=3)
    assert len(images) == int(owned.sum()) == count
    assert int(owned.max() - owned.min()) <= 1
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_images_are_determined_by_the_generator() -> None:
    first, again, other = (drawn(seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("mix", [False, True])
def test_images_do_not_depend_on_the_size_of_chunks(monkeypatch: pytest.MonkeyPatch, mix: bool) -> None:
    together = drawn(mix=mix)[0]
    monkeypatch.setattr(augmented_images, "images_at_once", lambda *_: 7)
    assert torch.equal(drawn(mix=mix)[0], together)


def test_an_image_mixes_its_owner_with_a_member_of_its_group_only() -> None:
    images, owners = drawn(300, bank=pure_colours())
    shares = images[:, :, 0, 0].long()
    assert torch.equal(shares[owners == 1], torch.tensor([[0, 255, 0]]).expand(100, 3))  # alone in its group
    for owner, partner in ((0, 2), (2, 0)):
        own = shares[owners == owner]
        assert not own[:, 1].any()
        assert int(own[:, owner].min()) >= 127  # at least half of the weight
        mixed = own[:, partner] > 0
        assert 30 < int(mixed.sum()) < 70  # the owner itself is one of the two partners
        assert int(own[mixed][:, partner].max()) > 110


def test_without_mixing_an_image_is_one_of_its_owner_or_its_mirror_image() -> None:
    bank = resident_bank()
    images, owners = drawn(shift=0, mix=False)
    mirrored = 0
    for shown, owner in zip(images, owners.tolist(), strict=True):
        own = bank.images[bank.indices_of(owner)]
        assert any(torch.equal(shown, image) or torch.equal(shown.flip(-1), image) for image in own)
        mirrored += any(torch.equal(shown.flip(-1), image) for image in own)
    assert 15 < mirrored < 45


def test_every_image_of_a_teacher_is_shown() -> None:
    bank = resident_bank()
    images, owners = drawn(300, shift=0, mix=False)
    for owner in range(3):
        shown = images[owners == owner]
        assert all(
            bool((shown == image).flatten(1).all(1).any() | (shown == image.flip(-1)).flatten(1).all(1).any())
            for image in bank.images[bank.indices_of(owner)]
        )


def test_teachers_judge_exactly_the_stored_pixels() -> None:
    images, owners = drawn(300)
    seen: list[Tensor] = []

    def recording(pixels: Tensor) -> tuple[Tensor, Tensor]:
        assert not torch.is_grad_enabled()
        seen.append(pixels)
        return targets(pixels)

    checks: list[None] = []
    judged = add_teacher_outputs(images, owners, recording, check=lambda: checks.append(None))
    assert torch.equal(torch.cat(seen), images.float() / 255)
    assert len(checks) == len(seen) > 1
    features, logits = targets(images.float() / 255)
    assert (judged.features.dtype, judged.logits.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(judged.features[:].float(), features, rtol=2**-8, atol=1e-6)
    torch.testing.assert_close(judged.logits, logits)
    assert judged.images is images


def test_features_too_many_for_the_memory_are_the_same_from_the_disk(tmp_path: Path) -> None:
    images, owners = drawn(300)
    in_memory = add_teacher_outputs(images, owners, targets, folder=tmp_path)
    most_bytes = 300 * in_memory.features.shape[1] * 2 - 1
    on_disk = add_teacher_outputs(images, owners, targets, folder=tmp_path, most_bytes=most_bytes)
    indices = on_disk.of(1)[torch.tensor([3, 0, 3])]
    assert torch.equal(on_disk.features[indices], in_memory.features[indices])
    assert torch.equal(on_disk.features[:], in_memory.features)
    assert torch.equal(on_disk.logits, in_memory.logits)
    assert not [*tmp_path.iterdir()]


def test_a_pool_takes_bytes_of_memory_or_of_disk() -> None:
    (few, none), (many, stored) = (augmented_images.bytes_of_pool(8192, 32, features) for features in (31_000, 32_000))
    assert (none, stored) == (0, 8192 * 32_000 * 2)
    assert few > 8192 * 31_000 * 2 + 8192 * 3 * 32**2
    assert many < few / 5


def test_the_images_of_a_teacher_are_found() -> None:
    images, owners = drawn(61)
    judged = add_teacher_outputs(images, owners, targets)
    indices = [judged.of(owner) for owner in range(3)]
    assert sorted(torch.cat(indices).tolist()) == list(range(61))
    assert all(bool((owners[own] == owner).all()) for owner, own in enumerate(indices))
