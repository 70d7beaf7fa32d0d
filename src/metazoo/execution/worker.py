"""Worker process: its start and end in the parent, and its loop.

It is a fresh interpreter that imports this module, and nothing of the program that starts it. A socket, which it
inherits (POSIX), connects the two.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from types import FrameType
from typing import NoReturn

from metazoo.errors import RunError
from metazoo.execution.process_memory import keep_freed_memory
from metazoo.execution.signals import held_back, let_through
from metazoo.execution.tasks import do_packed

_SECONDS_TO_END = 2.0
_SECONDS_BETWEEN_LOOKS = 0.5
_START = """\
import json, sys
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[1]))
sys.path[:] = json.loads(connection.recv_bytes())
from metazoo.execution.worker import serve
serve(connection, int(sys.argv[2]))
"""


class Worker:
    """Worker process, seen from its parent. It ignores SIGINT, and ends with its parent.

    Attributes:
        up: whether the process has started completely.
        unit: index of its current unit, or None.
        connection: connection to the process.
        process: operating system process.

    Raises:
        RunError: the system refuses another process.
    """

    def __init__(self) -> None:
        self.up = False
        self.unit: int | None = None
        ours, theirs = socket.socketpair()
        self.connection = Connection(ours.detach())
        command = [sys.executable, "-P", "-c", _START, str(theirs.fileno()), str(os.getpid())]
        try:
            with held_back():
                self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        except (OSError, ValueError) as error:
            self.connection.close()
            raise RunError("worker process", f"cannot start ({error})", "use fewer workers") from error
        finally:
            theirs.close()
        self.send(json.dumps([entry for entry in sys.path if isinstance(entry, str)]).encode())

    def send(self, content: bytes) -> None:
        """Send a task; if the process has died, reading its answer fails."""
        with contextlib.suppress(OSError):
            self.connection.send_bytes(content)

    def exit_code(self) -> int:
        """Wait for a process that has closed its connection: its exit code, or its negative signal."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(_SECONDS_TO_END)
        return 0

    def explain_death(self, name: str | None, check: Callable[[], None]) -> NoReturn:
        """Raise the RunError for a process that ended during the unit `name`."""
        code, subject = self.exit_code(), f"process of {name or 'no unit yet'}"
        # A signal to the whole group may reach a worker a moment before this process.
        for _ in range(10):
            check()
            time.sleep(0.05)
        if code == -signal.SIGKILL:
            raise RunError(subject, "killed, probably out of memory", "use fewer workers")
        if not self.up and code > 0:
            raise RunError("worker process", "cannot start, for the reason above", "correct it, or use one worker")
        ending = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        raise RunError(subject, f"ended unexpectedly {ending}", "call again, with one worker to see more")


def end_workers(workers: Sequence[Worker]) -> None:
    """End all workers, with a moment for busy ones to delete temporary files."""
    try:
        for worker in workers:
            worker.connection.close()
            if worker.unit is not None:
                worker.process.terminate()
            elif not worker.up:
                worker.process.kill()
        deadline = time.monotonic() + _SECONDS_TO_END
        for worker in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()


def serve(connection: Connection, parent: int) -> None:
    """Send a first message after the start, then answer tasks until the connection closes."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _Ended.handle)
        let_through()
        keep_freed_memory()
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
        connection.send_bytes(b"ready")
        while True:
            connection.send_bytes(do_packed(connection.recv_bytes()))
    except (EOFError, OSError):
        return
    except _Ended:
        os._exit(143)


class _Ended(BaseException):
    """The parent has ended this process."""

    @classmethod
    def handle(cls, _number: int, _frame: FrameType | None) -> NoReturn:
        raise cls


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os._exit(1)
