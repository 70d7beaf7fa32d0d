from pathlib import Path

import pytest
import torch

from metazoo.bank import Bank, ResidentBank, ResidentBanks, SharedImages


def plain(values: range, side: int = 4) -> torch.Tensor:
    """Images of one value each."""
    return torch.tensor([*values], dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, side, side).contiguous()


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    bank = Bank.create(tmp_path / "own")
    bank.add("a", 0, 0, plain(range(3)), torch.zeros(3, dtype=torch.int64))
    bank.add("b", 0, 0, plain(range(10, 15)), torch.zeros(5, dtype=torch.int64))
    return bank


@pytest.fixture
def joint(tmp_path: Path) -> Bank:
    bank = Bank.create(tmp_path / "joint")
    bank.add("part-0", 0, 0, plain(range(100, 104), 8), torch.zeros(4, dtype=torch.int64))
    bank.add("part-1", 0, 0, plain(range(104, 106), 8), torch.zeros(2, dtype=torch.int64))
    return bank


def drawn(resident: ResidentBank, owner: int, count: int = 6000) -> torch.Tensor:
    indices = resident.draw(torch.full((count,), owner), torch.Generator().manual_seed(1))
    return torch.bincount(resident.images[indices, 0, 0, 0].long(), minlength=106) / count


def test_shared_images_are_drawn_for_every_teacher_by_their_share(bank: Bank, joint: Bank) -> None:
    resident = ResidentBank.load(bank, ["a", "b"], 4, SharedImages(joint, 0.25))
    assert resident.images.shape == (14, 3, 4, 4)
    for owner, own in enumerate([slice(0, 3), slice(10, 15)]):
        shares = drawn(resident, owner)
        assert float(shares[own].sum()) == pytest.approx(0.75, abs=0.03)
        assert shares[100:].tolist() == pytest.approx([0.25 / 6] * 6, abs=0.015)
        assert float(shares[own].sum() + shares[100:].sum()) == pytest.approx(1)


def test_of_shared_images_alone_no_others_are_read(bank: Bank, joint: Bank) -> None:
    for name in ("a", "b"):
        bank.discard(name)
    resident = ResidentBank.load(bank, ["a", "b"], 4, SharedImages(joint, 1.0))
    assert len(resident) == 6
    assert resident.starts == (0, 0, 0)
    assert drawn(resident, 1)[100:].tolist() == pytest.approx([1 / 6] * 6, abs=0.03)


def test_chances_belong_to_a_teacher_by_its_name(bank: Bank, joint: Bank) -> None:
    chances = {
        "a": torch.tensor([0, 0.5, 0, 0, 0.25, 0.25], dtype=torch.float64).cumsum(0),
        "b": torch.tensor([0.2, 0, 0, 0, 0, 0.8], dtype=torch.float64).cumsum(0),
    }
    resident = ResidentBank.load(bank, ["b", "a"], 4, SharedImages(joint, 1.0, chances))
    assert drawn(resident, 0)[100:].tolist() == pytest.approx([0.2, 0, 0, 0, 0, 0.8], abs=0.03)
    of_a = drawn(resident, 1)[100:]
    assert of_a.tolist() == pytest.approx([0, 0.5, 0, 0, 0.25, 0.25], abs=0.03)
    assert of_a[[0, 2, 3]].tolist() == [0, 0, 0]


def test_without_shared_images_the_draw_is_as_ever(bank: Bank, joint: Bank) -> None:
    banks, owners = ResidentBanks(bank, shared=SharedImages(joint, 0.5)), torch.tensor([0, 1, 1, 0, 1])
    alone = banks.at(4, ["a", "b"])
    random, again = (torch.Generator().manual_seed(3) for _ in range(2))
    expected = (
        torch.tensor([0, 3])[owners]
        + (torch.rand(5, generator=again, dtype=torch.float64) * torch.tensor([3, 5])[owners]).long()
    )
    assert torch.equal(alone.draw(owners, random), expected)
    assert torch.equal(random.get_state(), again.get_state())
    assert len(alone) == 8
    assert len(banks.to_learn_from(4, ["a", "b"])) == 14
    assert len(banks.at(4, ["a", "b"])) == 8
