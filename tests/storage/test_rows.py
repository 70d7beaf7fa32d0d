from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from metazoo.errors import ArtefactError
from metazoo.execution.threads import WorkerThreads
from metazoo.storage.matrices import RowsOnDisk, bytes_of, keep_rows


def rows(count: int, dtype: torch.dtype) -> Tensor:
    random = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, 6, 6), generator=random, dtype=torch.uint8).to(dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32])
def test_they_are_indexed_as_a_tensor_is(tmp_path: Path, dtype: torch.dtype) -> None:
    whole = torch.cat([rows(5, dtype), rows(3, dtype)])
    kept = keep_rows(tmp_path, iter([rows(5, dtype), rows(3, dtype)]))
    assert (kept.shape, len(kept), kept.device, kept.dtype) == (whole.shape, 8, whole.device, dtype)
    for places in (slice(2, 7), slice(None), slice(3, 3), slice(1, 8, 3), slice(6, 2)):
        assert torch.equal(kept[places], whole[places])
    for order in ([3, 0, 0, 7], [], [-1]):
        assert torch.equal(kept[torch.tensor(order, dtype=torch.int64)], whole[order])
    assert kept.to("cpu") is kept
    assert not [*tmp_path.iterdir()]
    with pytest.raises(IndexError):
        kept[torch.tensor([8])]


def test_a_part_of_a_file_is_read_and_one_that_ends_too_soon_is_an_error(tmp_path: Path) -> None:
    path, whole = tmp_path / "file", rows(4, torch.float32)
    path.write_bytes(b"head" + bytes(bytes_of(whole)))
    with path.open("rb") as file:
        kept, longer = (RowsOnDisk(file.fileno(), (count, 3, 6, 6), torch.float32, 4) for count in (4, 5))
    assert torch.equal(kept[:], whole)
    with pytest.raises(ArtefactError, match="ends too soon"):
        longer[:]


def test_threads_may_read_at_once(tmp_path: Path) -> None:
    whole = torch.arange(3000).repeat_interleave(700).view(3000, 700).to(torch.int16)
    kept = keep_rows(tmp_path, [whole])
    orders = [torch.randperm(3000, generator=torch.Generator().manual_seed(seed))[:500] for seed in range(24)]
    for places, found in zip(orders, WorkerThreads(8).map(kept.__getitem__, orders), strict=True):
        assert torch.equal(found, whole[places])


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    def parts() -> Iterator[Tensor]:
        yield rows(2, torch.uint8)
        raise OSError(28, "No space left on device")

    with pytest.raises(ArtefactError, match="No space left on device; free some space"):
        keep_rows(tmp_path, parts())
    with pytest.raises(ArtefactError, match="cannot keep rows in"):
        keep_rows(tmp_path / "none", iter(()))
