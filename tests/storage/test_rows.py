import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from error_checks import raises
from torch import Tensor

from metazoo.errors import ArtefactError
from metazoo.storage.matrices import keep_rows


def rows(count: int, dtype: torch.dtype) -> Tensor:
    random = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, 6, 6), generator=random, dtype=torch.uint8).to(dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32])
def test_kept_rows_equal_the_parts(tmp_path: Path, dtype: torch.dtype) -> None:
    whole = torch.cat([rows(5, dtype), rows(3, dtype)])
    kept = keep_rows(tmp_path, iter([rows(5, dtype), rows(3, dtype)]))
    assert (kept.shape, len(kept), kept.device, kept.dtype) == (whole.shape, 8, whole.device, dtype)
    assert torch.equal(kept, whole)
    assert not [*tmp_path.iterdir()]
    assert keep_rows(tmp_path, iter([rows(0, dtype)])).shape == (0, 3, 6, 6)


_READING = """
import sys, torch
from pathlib import Path
from metazoo.execution.process_memory import memory_of_this_process
from metazoo.storage.matrices import keep_rows, read_matrices, write_matrices

folder = Path(sys.argv[1])
write_matrices(folder / "m.safetensors", 8, ({"w": torch.full((2**21,), float(row))} for row in range(8)))
before = memory_of_this_process("RssAnon")
kept = keep_rows(folder, (torch.full((1, 2**23), row, dtype=torch.uint8) for row in range(8)))
matrix = read_matrices(folder / "m.safetensors")[0]["w"]
total = sum(float(one[row].float().mean()) for one in (kept, matrix) for row in range(8))
print(total, (memory_of_this_process("RssAnon") - before) >> 20)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads memory figures of Linux")
def test_pages_that_were_read_are_not_held(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _READING, str(tmp_path)], capture_output=True, text=True, check=True, timeout=600
    )
    total, growth = done.stdout.split()
    assert float(total) == 2 * sum(range(8))
    assert int(growth) < 60  # of 64 + 64 MB


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    def parts() -> Iterator[Tensor]:
        yield rows(2, torch.uint8)
        raise OSError(28, "No space left on device")

    with raises(ArtefactError, subject=str(tmp_path), problem="No space left on device", remedy="free"):
        keep_rows(tmp_path, parts())
    with raises(ArtefactError, subject="none", problem="No such file"):
        keep_rows(tmp_path / "none", iter(()))
