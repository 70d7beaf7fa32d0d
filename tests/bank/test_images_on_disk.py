from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from metazoo.bank import Bank, ResidentBank, resident
from metazoo.bank.rows import ImagesOnDisk
from metazoo.errors import ArtefactError


def pictures(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 6, 6), generator=torch.Generator().manual_seed(count), dtype=torch.uint8)


def test_it_is_indexed_as_a_tensor_is(tmp_path: Path) -> None:
    whole = torch.cat([pictures(5), pictures(3)])
    images = ImagesOnDisk(tmp_path, iter([pictures(5), pictures(3)]))
    assert (images.shape, len(images), images.device) == (whole.shape, 8, whole.device)
    for places in (slice(2, 7), slice(None), slice(3, 3), slice(1, 8, 3), slice(6, 2)):
        assert torch.equal(images[places], whole[places])
    for order in ([3, 0, 0, 7], [], [-1]):
        assert torch.equal(images[torch.tensor(order, dtype=torch.int64)], whole[order])
    assert images.to("cpu") is images
    assert not [*tmp_path.iterdir()]
    with pytest.raises(IndexError):
        images[torch.tensor([8])]


def test_a_bank_of_many_images_is_drawn_from_in_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = Bank.create(tmp_path)
    for number, name in enumerate(("a", "b", "c")):
        bank.add(name, 0, 0, pictures(number + 2), torch.arange(number + 2) % 2)
    in_memory = ResidentBank.load(bank, ["c", "a", "b"], 8)
    monkeypatch.setattr(resident, "_MOST_BYTES", 1000)
    on_disk = ResidentBank.load(bank, ["c", "a", "b"], 8)
    assert isinstance(in_memory.images, Tensor)
    assert isinstance(on_disk.images, ImagesOnDisk)
    assert (on_disk.starts, on_disk.labels.tolist()) == (in_memory.starts, in_memory.labels.tolist())
    places = in_memory.draw(torch.tensor([0, 2, 1, 1]), torch.Generator().manual_seed(0))
    assert torch.equal(on_disk.pixels(places), in_memory.pixels(places))
    assert torch.equal(on_disk.images[on_disk.places_of(1)], in_memory.images[in_memory.places_of(1)])
    assert len(on_disk.to("cpu")) == len(in_memory)


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    def parts() -> Iterator[Tensor]:
        yield pictures(2)
        raise OSError(28, "No space left on device")

    with pytest.raises(ArtefactError, match="No space left on device; free some space"):
        ImagesOnDisk(tmp_path, parts())
    with pytest.raises(ArtefactError, match="cannot keep images in"):
        ImagesOnDisk(tmp_path / "none", iter(()))
