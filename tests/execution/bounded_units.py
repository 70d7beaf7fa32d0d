"""What the tests of bounded units let a process do; it imports nothing heavy, so that processes start at once."""

import os
import time
from typing import Any

from metazoo.errors import ZooError


def do(act: tuple[str, float]) -> Any:
    kind, amount = act
    if kind == "sleep":
        time.sleep(amount)
    elif kind == "take":
        held = bytearray(int(amount * 1e6))
        return len(held)
    elif kind == "raise":
        raise ZooError("unsound")
    elif kind == "abort":
        os.abort()
    return os.getpid()
