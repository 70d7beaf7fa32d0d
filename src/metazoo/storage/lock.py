"""One writer at a time.

The operating system holds the lock and lets go of it when the process dies, however it dies, so a lock file left behind
by a killed process is simply taken over. A note beside it tells a second writer whom it is waiting for.
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
    """Hold `folder` (made if missing) for writing.

    Raises:
        RunError: another live process, or this one, holds it already, or the folder cannot be locked at all.
    """
    folder = Path(folder)
    owner = folder / ".lock-owner.json"
    lock = _acquire(folder, owner)
    try:
        # The note only words a message; the first real write to this folder reports why nothing can be written.
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
        # The instance is not shared within the process, so that a second hold by the same process is refused as well.
        lock = filelock.FileLock(folder / LOCK, timeout=0, thread_local=False, is_singleton=False)
        lock.acquire()
    except filelock.Timeout as error:
        raise RunError(f"{folder} is in use by {_describe(owner)}; wait for it or choose another folder") from error
    except (OSError, NotImplementedError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RunError(f"cannot lock {folder}: {reason}; choose a folder that can be written and locked") from error
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
            return "this very process"
        if not psutil.pid_exists(process):  # a note of an earlier owner: the present one has not written its own yet
            return "another process"
    return f"process {process} on {host} since {started}"
