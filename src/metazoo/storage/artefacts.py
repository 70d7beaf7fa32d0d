"""Files that are whole or not there: atomic, durable writes and checked reads.

A write goes to a temporary file in the same folder, is flushed to the disk, takes its name in one rename, and the
folder is flushed too. A process killed at any moment leaves the old file or the new one, and at most a temporary
`.NAME.PID.tmp`, which `remove_stale_temporaries` deletes.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from metazoo.errors import ArtefactError

LOCK = ".lock"
"""In a folder that has one writer at a time; see `metazoo.storage.lock`."""
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
_CALL_AGAIN = "call again (train: with --resume)"
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), f"free some space and {_CALL_AGAIN}"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make the folder writable or choose another"),
    **dict.fromkeys((errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EXDEV), "choose another path"),
}

# Threads of one process share the name of a temporary file, so they take turns.
_turn = threading.Lock()


def write_bytes(path: Path | str, data: bytes | Iterable[bytes | memoryview]) -> str:
    """Write `data`, whole or in parts, atomically and durably; missing parent folders are made, the umask is followed.

    Returns:
        The SHA-256 of the data, in hexadecimal.

    Raises:
        ArtefactError: the disk is full, the folder is read-only, or any other failure of the system. The file keeps its
            former content and no temporary file is left.
    """
    path, digest = Path(path), hashlib.sha256()
    try:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with _turn:
            _make_folder(path.parent)
            try:
                temporary.unlink(missing_ok=True)
                with temporary.open("xb") as file:
                    for part in (data,) if isinstance(data, bytes) else data:
                        digest.update(part)
                        file.write(part)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
            flush_folder(path.parent)
    except (OSError, ValueError) as error:
        raise cannot_write(path, error) from error
    return digest.hexdigest()


def cannot_write(path: Path | str, error: Exception) -> ArtefactError:
    """The error to raise for a file that the system does not let be written."""
    remedy = _REMEDIES.get(getattr(error, "errno", 0), f"check the disk and the folder, and {_CALL_AGAIN}")
    return ArtefactError(f"cannot write {path}: {reason_of(error)}; {remedy}")


def _make_folder(folder: Path) -> None:
    missing = [level for level in (folder, *folder.parents) if not level.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for level in reversed(missing):
        flush_folder(level.parent)


def flush_folder(folder: Path) -> None:
    """Make renames within `folder` durable; OSError if the system cannot."""
    if os.name == "nt":  # a folder cannot be opened there, and the rename is flushed by the system
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_stale_temporaries(folder: Path | str) -> int:
    """Delete the temporary files at any depth below `folder` that killed processes left, and say how many these were.

    Call it as the folder's only writer: whose a file was is not asked, since neither the number of a process, which is
    given out again, nor a time can tell. A folder below that has a lock of its own has another writer and is left out.

    Raises:
        ArtefactError: a file cannot be deleted.
    """
    folder = Path(folder)
    with _turn:
        left = [path for path in folder.rglob(".*.tmp") if _TEMPORARY.fullmatch(path.name) and path.is_file()]
        stale = [path for path in left if not _has_other_writer(path, folder)]
        for path in stale:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise ArtefactError(f"cannot delete {path}: {reason_of(error)}; delete it yourself") from error
    return len(stale)


def _has_other_writer(path: Path, folder: Path) -> bool:
    between = path.relative_to(folder).parents[:-1]
    return any((folder / level / LOCK).exists() for level in between)


def write_text(path: Path | str, text: str) -> str:
    """Write UTF-8 text (a lone surrogate, as of an odd file name, as its JSON escape); see `write_bytes`."""
    return write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path | str, value: Any) -> str:
    """Write indented JSON; see `write_bytes`. NaN, infinity and what JSON has no form for are an ArtefactError."""
    return write_text(path, json_text(path, value))


def read_bytes(path: Path | str, sha256: str | None = None) -> bytes:
    """Read a file and check it against `sha256`.

    Raises:
        ArtefactError: the file is missing, cannot be read, or is not the one that was written.
    """
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise cannot_read(path, error) from error
    if sha256 is not None:
        check_digest(path, hashlib.sha256(data).hexdigest(), sha256)
    return data


def check_digest(path: Path | str, found: str, expected: str) -> None:
    """ArtefactError unless the SHA-256 that was found of a file is the one that it had when it was written."""
    if found != expected:
        raise ArtefactError(f"{path} has changed since it was written (another SHA-256); restore it or make it again")


def read_json(path: Path | str, sha256: str | None = None) -> Any:
    """Read JSON.

    Raises:
        ArtefactError: as `read_bytes`, or the text is not JSON (NaN and infinity are not).
    """
    return parsed_json(path, read_bytes(path, sha256))


def sha256_of_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, read piece by piece; ArtefactError if that cannot be done."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise cannot_read(path, error) from error


def cannot_read(path: Path | str, error: Exception) -> ArtefactError:
    """The error to raise for a file that is not there or that the system does not let be read."""
    if isinstance(error, FileNotFoundError):
        return ArtefactError(f"{path} is missing; restore it or make it again")
    return ArtefactError(f"cannot read {path}: {reason_of(error)}; check that it is a readable file")


def reason_of(error: Exception) -> str:
    """What an error says, in one line of at most 200 characters."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200]


def json_text(path: Path | str, value: Any) -> str:
    """Indented JSON for `path`. NaN, infinity and what JSON has no form for are an ArtefactError."""
    try:
        return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (ValueError, TypeError, RecursionError) as error:
        raise ArtefactError(f"cannot write {path}: {error}; JSON holds finite numbers, texts and lists only") from error


def parsed_json(path: Path | str, data: bytes) -> Any:
    """What `data`, read from `path`, says; ArtefactError if it is not JSON (NaN and infinity are not)."""
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{path} is not valid JSON ({error}); restore it or make it again") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def append_line(path: Path, line: bytes, *, durable: bool) -> None:
    """Add a line, its newline included, to a file, which is made if it is missing, as its folder is.

    It is handed to the system before this returns, and is on the disk if it is to be `durable`. A process that is
    killed meanwhile leaves a part of the line, without its newline.

    Raises:
        ArtefactError: the file cannot be written; no part of the line is left.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        with path.open("ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                rest = memoryview(line)
                while rest:
                    rest = rest[file.write(rest) :]
                if durable:
                    os.fsync(file.fileno())
            except BaseException:
                with contextlib.suppress(OSError):
                    file.truncate(size)
                raise
        if durable and is_new:
            flush_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
