"""Units of work for the tests of executors, without torch, so that workers start quickly."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from metazoo.errors import Interrupted, ZooError
from metazoo.execution.signals import check_stop
from metazoo.storage.artefacts import write_bytes

# Set by a module of a test.
ANIMALS: Any = None


class AwkwardError(ZooError):
    """An error that pickling cannot rebuild."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def behave(unit: str) -> object:
    kind, _, argument = unit.partition(":")
    if kind == "sleep":
        time.sleep(float(argument))
    elif kind == "await":
        while not Path(argument).exists():
            time.sleep(0.01)
    elif kind == "mark":
        Path(argument).touch()
    elif kind == "pid":
        return os.getpid()
    elif kind == "slow-pid":
        time.sleep(float(argument))
        return os.getpid()
    elif kind == "square":
        return int(argument) ** 2
    elif kind == "at-work":  # writes its node of Ray, and waits for the mark
        import ray

        mark = Path(argument)
        with (mark.parent / "attempts").open("a") as attempts:
            attempts.write("1")
        node = ray.get_runtime_context().get_node_id()
        write_bytes(mark.parent / f"{os.getpid()}.at-work", node.encode())
        while not mark.exists():
            time.sleep(0.01)
        time.sleep(1)  # time to lose the process with its machine
    elif kind == "animal":
        return ANIMALS.get(argument)
    elif kind == "stop-asked":
        check_stop()
    elif kind == "die":  # the number of processes that the file has
        left = int(Path(argument).read_text())
        if left:
            Path(argument).write_text(str(left - 1))
            os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "zoo":
        raise ZooError("model.safetensors holds NaN; remove the model")
    elif kind == "stop":
        raise Interrupted("enough", 143)
    elif kind == "awkward":
        raise AwkwardError("this", "that")
    elif kind == "error":
        raise IndexError("deep inside")
    elif kind == "exit":
        sys.exit(3)
    elif kind == "kill":
        os.kill(os.getpid(), int(argument))
    elif kind == "unpicklable":
        return lambda: None
    elif kind == "torch":
        import torch

        return torch.get_num_threads()
    elif kind == "abort":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.abort()
    elif kind == "interrupts":
        os.kill(os.getpid(), signal.SIGINT)
    return kind


def note_and_wait(folder: str, unit: int) -> None:
    """Unit in the middle of a write."""
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        (Path(folder) / f"{unit}.pid").write_text(str(os.getpid()))
        time.sleep(120)
        fsync(descriptor)

    os.fsync = slow
    write_bytes(Path(folder) / f"{unit}.bin", b"whole")
