"""The other end of `metazoo.execution.executor`: what a worker process does.

Nothing here imports torch: that takes seconds, and a worker does so with the first unit whose function needs it.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import NoReturn, TypeVar

from metazoo.errors import MetazooError, RunError
from metazoo.execution.process_memory import keep_freed_memory
from metazoo.execution.signals import let_through

Unit = TypeVar("Unit")
Result = TypeVar("Result")


def call(function: Callable[[Unit], Result], unit: Unit, name: str) -> Result:
    """`function(unit)`; whatever is no MetazooError becomes a RunError that names the unit."""
    try:
        return function(unit)
    except MetazooError:
        raise
    except (Exception, SystemExit) as error:
        raise RunError(f"{name} failed: {type(error).__name__}: {error}") from error


def work(connection: Connection, threads: int) -> None:
    """Answer tasks until the connection closes, after a first message that says that this process has come up."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _Ended.handle)
        let_through()
        keep_freed_memory()
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
        connection.send_bytes(b"ready")
        while True:
            connection.send_bytes(_answer(connection.recv_bytes(), threads))
    except (EOFError, OSError):
        return
    except _Ended:
        os._exit(143)


class _Ended(BaseException):
    """The parent has no more use for this worker."""

    @classmethod
    def handle(cls, _number: int, _frame: FrameType | None) -> NoReturn:
        raise cls


def _answer(task: bytes, threads: int) -> bytes:
    name = "a unit"
    try:
        function, unit, name = pickle.loads(task)  # noqa: S301 - sent by the process that has started this one
        # With the function came its module, and torch if that module uses it.
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.set_num_threads(threads)
        result = call(function, unit, name)
        if torch is None and "torch" in sys.modules:
            raise RunError(f"{name} imports torch too late to set its threads; import it at the top of the module")
        return pickle.dumps((True, result))
    except MetazooError as error:
        return _packed(error)
    except Exception as error:
        remedy = "give a module-level function with plain results"
        return _packed(RunError(f"{name} or its result cannot travel between processes ({error}); {remedy}"))


def _packed(error: MetazooError) -> bytes:
    if error.__cause__ is not None:
        error.add_note("In the worker process:\n" + "".join(traceback.format_exception(error.__cause__)).rstrip())
    try:
        packed = pickle.dumps((False, error))
        pickle.loads(packed)  # noqa: S301 - an error that cannot be rebuilt must be noticed on this side
    except Exception:
        packed = pickle.dumps((False, RunError(str(error))))
    return packed


def _end_with_parent(parent: int) -> None:
    process = multiprocessing.parent_process()
    while process is not None and os.getppid() == parent and not wait([process.sentinel], timeout=1.0):
        pass
    os._exit(1)
