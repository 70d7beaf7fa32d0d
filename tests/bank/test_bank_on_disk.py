import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from metazoo.bank import Bank, ResidentBank


def is_mapped(tensor: Tensor) -> bool:
    """Whether the memory of the tensor is that of a deleted file."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(address, 16) for address in line.split()[0].split("-"))
        if first <= tensor.data_ptr() < last:
            return line.endswith("(deleted)")
    return False


def pictures(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 6, 6), generator=torch.Generator().manual_seed(count), dtype=torch.uint8)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the memory map is that of Linux")
def test_a_bank_of_many_images_is_drawn_from_in_the_same_way(tmp_path: Path) -> None:
    bank = Bank.create(tmp_path)
    for number, name in enumerate(("a", "b", "c")):
        bank.add(name, 0, 0, pictures(number + 2), torch.arange(number + 2) % 2)
    in_memory = ResidentBank.load(bank, ["c", "a", "b"], 8)
    on_disk = ResidentBank.load(bank, ["c", "a", "b"], 8, most_bytes=1000)
    assert [is_mapped(own.images) for own in (in_memory, on_disk)] == [False, True]
    assert (on_disk.starts, on_disk.labels.tolist()) == (in_memory.starts, in_memory.labels.tolist())
    drawn = in_memory.draw(torch.tensor([0, 2, 1, 1]), torch.Generator().manual_seed(0))
    assert torch.equal(on_disk.pixels(drawn), in_memory.pixels(drawn))
    assert torch.equal(on_disk.images[on_disk.indices_of(1)], in_memory.images[in_memory.indices_of(1)])
    assert len(on_disk.to("cpu")) == len(in_memory)
