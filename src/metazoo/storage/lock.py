"""Lock of a folder, for one writer at a time.

The operating system holds the lock and releases it when the process ends in any way, so the lock file of a killed
process can be locked again. A note beside it names the owner for the error of a second writer.
"""

import contextlib
import datetime
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock
import psutil

from metazoo.errors import ArtefactError, RunError
from metazoo.storage.artefacts import LOCK, read_json, write_json


@contextlib.contextmanager
def exclusive(folder: Path | str) -> Iterator[None]:
    """Lock a folder, made if missing, for writing.

    Raises:
        RunError: a live process, possibly this one, holds the lock, or the folder cannot be locked.
    """
    folder = Path(folder)
    owner = folder / ".lock-owner.json"
    lock = _acquire(folder, owner)
    try:
        # The note serves only an error message; the first write to the folder reports failures.
        with contextlib.suppress(ArtefactError):
            write_json(owner, _note())
        yield
    finally:
        with contextlib.suppress(OSError):
            owner.unlink(missing_ok=True)
        lock.release()


def _acquire(folder: Path, owner: Path) -> filelock.BaseFileLock:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The instance is not shared within the process, so that a second lock by the same process is refused.
        lock = filelock.FileLock(folder / LOCK, timeout=0, thread_local=False, is_singleton=False)
        lock.acquire()
    except filelock.Timeout as error:
        raise RunError(folder, f"is in use by {_describe(owner)}", "wait for it or choose another folder") from error
    except (OSError, NotImplementedError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        remedy = "choose a folder that can be written and locked"
        raise RunError(folder, f"cannot be locked ({reason})", remedy) from error
    return lock


def _note() -> dict[str, str | int]:
    started = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return {"format_version": 1, "process": os.getpid(), "host": socket.gethostname(), "started": started}


def _describe(owner: Path) -> str:
    try:
        note = read_json(owner)
        process, host, started = int(note["process"]), str(note["host"])[:64], str(note["started"])[:32]
    except (ArtefactError, ValueError, KeyError, TypeError):
        return "another process"
    if host == socket.gethostname():
        if process == os.getpid():
            return "this process"
        if not psutil.pid_exists(process):  # note of a former owner; the current one has not written its note yet
            return "another process"
    return f"process {process} on {host} since {started}"
