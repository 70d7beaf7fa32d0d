"""Keeping freed memory for the next step, which makes small networks on the CPU several times faster."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_LARGEST_INT = 2**31 - 1
_MIB = 2**20


def keep_freed_memory() -> bool:
    """Tell the C library of this process not to give freed memory back to the system after every large tensor.

    By default glibc maps and unmaps every tensor of a few megabytes, and the system clears each page anew: more than
    half of the time of a forward pass of small convolutions. The price is that the process keeps what it needed at its
    peak. Results do not change.

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
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _LARGEST_INT), (_M_TOP_PAD, 64 * _MIB))
    return all(mallopt(parameter, value) for parameter, value in settings)
