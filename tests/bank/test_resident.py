import weakref
from pathlib import Path

import pytest
import torch
from error_checks import raises
from torch import Tensor
from torch.nn import functional

from metazoo.bank import Bank, ResidentBank, ResidentBanks
from metazoo.errors import ArtefactError, UsageError


def pictures(count: int, channels: int, side: int) -> Tensor:
    random = torch.Generator().manual_seed(side)
    return torch.randint(0, 256, (count, channels, side, side), generator=random, dtype=torch.uint8)


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    """`colour` at 8 pixels in two buckets, `grey` at 8, `large` at 12, `small` at 5."""
    bank = Bank.create(tmp_path)
    bank.add("colour", 0, 0, pictures(3, 3, 8), torch.tensor([0, 1, 2]))
    bank.add("colour", 0, 1, pictures(2, 3, 8) // 2, torch.tensor([1, 0]))
    bank.add("grey", 0, 0, pictures(4, 1, 8), torch.tensor([1, 1, 0, 0]))
    bank.add("large", 0, 0, pictures(1, 3, 12), torch.tensor([3]))
    bank.add("small", 0, 0, pictures(2, 1, 5), torch.tensor([4, 0]))
    return bank


def test_teachers_lie_one_after_the_other_in_the_order_asked_for(bank: Bank) -> None:
    resident = ResidentBank.load(bank, ["grey", "large", "colour"], 8)
    assert resident.names == ("grey", "large", "colour")
    assert resident.starts == (0, 4, 5, 10)
    assert len(resident) == 10
    assert resident.labels.tolist() == [1, 1, 0, 0, 3, 0, 1, 2, 1, 0]
    for index, name in enumerate(resident.names):
        assert torch.equal(resident.labels[resident.indices_of(index)], bank.images_of(name)[1])


def test_images_of_the_right_size_come_as_they_are_and_grey_is_repeated(bank: Bank) -> None:
    resident = ResidentBank.load(bank, ["colour", "grey"], 8)
    assert resident.images[:].dtype == torch.uint8
    assert torch.equal(resident.images[resident.indices_of(0)], bank.images_of("colour")[0])
    grey = resident.images[resident.indices_of(1)]
    assert all(torch.equal(grey[:, channel], bank.images_of("grey")[0][:, 0]) for channel in range(3))


@pytest.mark.parametrize("name", ["large", "small"])
def test_other_sizes_are_scaled_with_antialiasing(bank: Bank, name: str) -> None:
    resident = ResidentBank.load(bank, [name], 8)
    images = bank.images_of(name)[0].float().expand(-1, 3, -1, -1)
    expected = functional.interpolate(images, size=(8, 8), mode="bilinear", antialias=True)
    assert resident.images.shape == (len(images), 3, 8, 8)
    assert float((resident.images[:].float() - expected).abs().max()) <= 0.5 + 1e-4


def test_the_latest_generation_counts(bank: Bank) -> None:
    bank.add("grey", 1, 0, 255 - pictures(6, 3, 9), torch.zeros(6, dtype=torch.int64))
    resident = ResidentBank.load(bank, ["grey"], 9)
    assert torch.equal(resident.images[:], 255 - pictures(6, 3, 9))


def test_a_draw_is_uniform_over_the_images_of_its_owner(bank: Bank) -> None:
    resident = ResidentBank.load(bank, ["grey", "large", "colour"], 8)
    owners = torch.tensor([2, 0, 1, 0]).repeat(2000)
    drawn = resident.draw(owners, torch.Generator().manual_seed(0))
    for owner in range(3):
        own, within = drawn[owners == owner], resident.indices_of(owner)
        assert int(own.min()) == within.start
        assert int(own.max()) == within.stop - 1
        shares = own.bincount(minlength=10)[within] / len(own)
        torch.testing.assert_close(shares, torch.full_like(shares, 1 / len(shares)), rtol=0.15, atol=0)
    assert torch.equal(drawn, resident.draw(owners, torch.Generator().manual_seed(0)))
    assert not torch.equal(drawn, resident.draw(owners, torch.Generator().manual_seed(1)))


def test_pixels_are_the_images_in_the_unit_range(bank: Bank) -> None:
    resident = ResidentBank.load(bank, ["colour"], 8)
    pixels = resident.pixels(torch.tensor([4, 0, 4]))
    assert torch.equal((255 * pixels).round().to(torch.uint8), resident.images[torch.tensor([4, 0, 4])])
    assert (float(pixels.min()) >= 0, float(pixels.max()) <= 1) == (True, True)


def test_an_unknown_teacher_and_a_damaged_shard_are_named(bank: Bank) -> None:
    with raises(UsageError, problem="'nobody'"):
        ResidentBank.load(bank, ["colour", "nobody"], 8)
    path = bank.path_of("grey", 0, 0)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtefactError, match=path.name):
        ResidentBank.load(bank, ["colour", "grey"], 8)


def test_stages_that_ask_for_the_same_share_one_reading(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    former: list[weakref.ref[ResidentBank]] = []
    images_of = bank.images_of

    def watched(name: str) -> tuple[Tensor, Tensor]:
        assert all(held() is None for held in former)
        read.append(name)
        return images_of(name)

    monkeypatch.setattr(bank, "images_of", watched)
    banks = ResidentBanks(bank)
    first = banks.at(8, ["colour", "grey"])
    assert banks.at(8, ("colour", "grey")) is first
    assert read == ["colour", "grey"]
    former.append(weakref.ref(first))
    del first
    assert banks.at(8, ["grey"]).names == ("grey",)
    assert banks.at(9, ["grey"]).images.shape[-1] == 9
    assert read[2:] == ["grey", "grey"]
