import ctypes
import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_helpers import OPTIONS, untrained

from metazoo.cli import main
from metazoo.execution import process_memory
from metazoo.runs.train import train

_SCRIPT = """
import json, sys
import torch
from metazoo.execution.process_memory import keep_freed_memory

torch.set_num_threads(1)

def result():
    random = torch.Generator().manual_seed(0)
    images, weight = torch.randn(64, 3, 32, 32, generator=random), torch.randn(16, 3, 3, 3, generator=random)
    weight.requires_grad_(True)
    outputs = torch.nn.functional.conv2d(images, weight, padding=1).relu()
    outputs.square().mean().backward()
    return outputs.detach(), weight.grad

before = result()
supported = [keep_freed_memory(), keep_freed_memory()]
print(json.dumps([supported, all(torch.equal(*pair) for _ in range(3) for pair in zip(before, result()))]))
"""


def test_keeping_freed_memory_does_not_change_results() -> None:
    """In another process, since the option cannot be reset."""
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True, timeout=600)
    glibc = sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc"
    assert json.loads(done.stdout) == [[glibc, glibc], True]


_GIVING_BACK = """
import torch
from metazoo.execution.process_memory import give_back_memory, keep_freed_memory, memory_of_this_process

keep_freed_memory()
held = [bytearray(2**20) for _ in range(256)]
del held[::2]
kept = memory_of_this_process("VmRSS")
give_back_memory(torch.device("cpu"))
print((kept - memory_of_this_process("VmRSS")) >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_gaps_between_used_blocks_are_returned() -> None:
    done = subprocess.run([sys.executable, "-c", _GIVING_BACK], capture_output=True, text=True, check=True, timeout=600)
    assert int(done.stdout) == pytest.approx(128, rel=0.1)


def test_another_c_library_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    process_memory.give_back_memory(torch.device("cpu"))


@pytest.mark.parametrize(("device", "free", "given"), [("cuda", 4, [1]), ("cuda", 6, []), ("cpu", 0, [])])
def test_memory_of_a_gpu_is_returned_if_little_is_left(
    device: str, free: int, given: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 10))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append(1))
    process_memory.give_back_memory(torch.device(device))
    assert calls == given


def test_nothing_happens_on_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", pytest.fail)
    assert process_memory.keep_freed_memory() is False


def test_a_library_without_the_option_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert process_memory.keep_freed_memory() is False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")
def test_the_peak_of_a_block_is_measured() -> None:
    for megabytes in (120, 40):
        with process_memory.peak_growth() as grown:
            bytearray(megabytes << 20)
        assert grown.bytes is not None
        assert grown.bytes == pytest.approx(megabytes << 20, rel=0.2)


def test_a_peak_that_cannot_be_measured_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process_memory, "_SELF", tmp_path / "none")
    with process_memory.peak_growth() as grown:
        pass
    assert grown.bytes is None


def test_a_library_call_leaves_the_allocator_alone_and_the_command_line_tunes_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    class Library:
        def __getattr__(self, name: str) -> object:
            asked.append(name)
            raise AttributeError(name)

    zoo = untrained(tmp_path / "zoo", ("none",))
    (tmp_path / "options.yaml").write_text(json.dumps(OPTIONS))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
    run = train(zoo, out=tmp_path / "run", config=OPTIONS, workers=1)
    assert "mallopt" not in asked
    given = ("--zoo", zoo.folder, "--out", run.path, "--config", tmp_path / "options.yaml", "--resume")
    assert main(["train", *map(str, given)]) == 0
    assert ("mallopt" in asked) == sys.platform.startswith("linux")
