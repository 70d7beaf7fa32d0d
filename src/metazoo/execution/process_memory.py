"""Memory of this process: keeping what was freed, which makes small networks on the CPU several times faster, giving it
back between two pieces of work, and measuring what something takes."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_LARGEST_INT = 2**31 - 1
_ARENAS = 2
_MIB = 2**20
_SELF = Path("/proc/self")


def keep_freed_memory() -> bool:
    """Tell the C library of this process not to give freed memory back to the system after every large tensor.

    By default glibc maps and unmaps every tensor of a few megabytes, and the system clears each page anew: more than
    half of the time of a forward pass of small convolutions. The price is that the process keeps what it needed at its
    peak. Threads share two arenas of it. Where each has its own there are gaps everywhere: learning from 100 models by
    two threads took 2.9 GB, with two arenas 2.5, with one 1.9. But with a single one second-order replay by two threads
    took a quarter longer. Results do not change.

    Returns:
        Whether the C library could be told (glibc on Linux); elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    settings = (
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, _LARGEST_INT),
        (_M_TOP_PAD, 64 * _MIB),
        (_M_ARENA_MAX, _ARENAS),
    )
    return all(mallopt(parameter, value) for parameter, value in settings)


def give_back_memory(device: "torch.device") -> None:
    """Return what was freed and kept, between two pieces of work that need it in other sizes.

    On the CPU the next piece gets pages anew, once. On a GPU it is done once most of its memory is taken: torch keeps
    what former recordings used, and another process on the same GPU cannot ask for it.
    """
    if device.type == "cpu":
        _trim()
    elif device.type == "cuda":
        import torch

        free, total = torch.cuda.mem_get_info(device)
        if free < total / 2:
            torch.cuda.empty_cache()


def _trim() -> None:
    with contextlib.suppress(OSError, TypeError, AttributeError):  # where the C library is another one
        ctypes.CDLL(None).malloc_trim(0)


class PeakGrowth:
    """`bytes`: by how much the resident memory of this process rose at most; None where that cannot be measured."""

    bytes: int | None = None


@contextlib.contextmanager
def peak_growth() -> Iterator[PeakGrowth]:
    """Measure the length of the block (Linux alone). Freed memory is given back before, and the old peak forgotten."""
    found = PeakGrowth()
    try:
        _trim()
        (_SELF / "clear_refs").write_text("5")
        before = memory_of_this_process("VmRSS")
    except (OSError, TypeError, ValueError):
        before = None
    yield found
    if before is not None:
        found.bytes = max(0, memory_of_this_process("VmHWM") - before)


def memory_of_this_process(field: str) -> int:
    """A figure of Linux's `/proc/self/status` in bytes, such as VmRSS."""
    lines = (_SELF / "status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
