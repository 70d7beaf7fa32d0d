"""Units of work for the tests of limits, without heavy imports, so that processes start quickly."""

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
