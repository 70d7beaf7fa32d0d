"""Atomic, durable writes and checked reads of files, which are whole or absent.

Data is written to a temporary file in the same folder, flushed to the disk and renamed; then the folder is flushed. A
process killed at any moment leaves the old file or the new one, and at most a temporary file `.NAME.PID.tmp`, which
`remove_stale_temporaries` deletes.
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

from metazoo.errors import ArtefactError, UsageError

LOCK = ".lock"
"""Lock file of a folder with one writer at a time; see `metazoo.storage.lock`."""
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
_REPEAT = "repeat the command (train: with --resume)"
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), f"free some space and {_REPEAT}"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make the folder writable or choose another"),
    **dict.fromkeys((errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EXDEV), "choose another path"),
}

# Threads of one process use the same temporary name, so they take turns.
_turn = threading.Lock()


def write_bytes(path: Path | str, data: bytes | Iterable[bytes | memoryview]) -> str:
    """Write bytes, or parts of bytes, atomically and durably; missing parent folders are made, the umask is followed.

    Returns:
        The SHA-256 of the data, in hexadecimal.

    Raises:
        ArtefactError: the disk is full, the folder is read-only, or the system fails otherwise. The file keeps its
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
    """Error for a file that the system cannot write."""
    remedy = _REMEDIES.get(getattr(error, "errno", 0), f"check the disk and the folder, and {_REPEAT}")
    return ArtefactError(path, f"cannot be written ({reason_of(error)})", remedy)


def check_writable(path: Path, remedy: str) -> None:
    """Raise a UsageError if a file could not be written to `path`, before any work; nothing is made.

    Args:
        path: file that is to be written, in a folder that may be missing.
        remedy: remedy of the error.
    """
    folder = next(level for level in path.absolute().parents if level.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(path, f"{folder} is not a writable folder", remedy)


def _make_folder(folder: Path) -> None:
    missing = [level for level in (folder, *folder.parents) if not level.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for level in reversed(missing):
        flush_folder(level.parent)


def flush_folder(folder: Path) -> None:
    """Make renames within a folder durable; OSError if the system cannot."""
    if os.name == "nt":  # Windows cannot open folders, and flushes renames itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_stale_temporaries(folder: Path | str) -> int:
    """Delete temporary files of killed processes at any depth below a folder, and return their number.

    Call it as the folder's only writer. The owner of a file is not checked, because process numbers are reused.
    Folders with a lock file have another writer and are skipped.

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
                raise ArtefactError(path, f"cannot be deleted ({reason_of(error)})", "delete it yourself") from error
    return len(stale)


def _has_other_writer(path: Path, folder: Path) -> bool:
    between = path.relative_to(folder).parents[:-1]
    return any((folder / level / LOCK).exists() for level in between)


def write_text(path: Path | str, text: str) -> str:
    """Write UTF-8 text, with lone surrogates as JSON escapes; see `write_bytes`."""
    return write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path | str, value: Any) -> str:
    """Write indented JSON; see `write_bytes`. NaN, infinity and values without JSON form are an ArtefactError."""
    return write_text(path, json_text(path, value))


def read_bytes(path: Path | str, sha256: str | None = None) -> bytes:
    """Read a file and check its SHA-256.

    Raises:
        ArtefactError: the file is missing, cannot be read, or has another SHA-256.
    """
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise cannot_read(path, error) from error
    if sha256 is not None:
        check_digest(path, hashlib.sha256(data).hexdigest(), sha256)
    return data


def check_digest(path: Path | str, found: str, expected: str) -> None:
    """Raise an ArtefactError if the SHA-256 of a file is not the expected one."""
    if found != expected:
        raise ArtefactError(path, "has changed since it was written (another SHA-256)", "restore it or make it again")


def read_json(path: Path | str, sha256: str | None = None) -> Any:
    """Read JSON.

    Raises:
        ArtefactError: see `read_bytes`, or the text is not JSON (NaN and infinity are not JSON).
    """
    return parsed_json(path, read_bytes(path, sha256))


def sha256_of_file(path: Path | str) -> str:
    """SHA-256 of a file in hexadecimal, read in parts; ArtefactError if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise cannot_read(path, error) from error


def cannot_read(path: Path | str, error: Exception) -> ArtefactError:
    """Error for a file that is missing or that the system cannot read."""
    if isinstance(error, FileNotFoundError):
        return ArtefactError(path, "is missing", "restore it or make it again")
    return ArtefactError(path, f"cannot be read ({reason_of(error)})", "check that it is a readable file")


def reason_of(error: Exception) -> str:
    """Message of an error in one line of at most 200 characters."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200]


def json_text(path: Path | str, value: Any) -> str:
    """Indented JSON for a file. NaN, infinity and values without JSON form are an ArtefactError."""
    try:
        return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (ValueError, TypeError, RecursionError) as error:
        remedy = "give finite numbers, texts, lists and mappings"
        raise ArtefactError(path, f"cannot be written as JSON ({error})", remedy) from error


def parsed_json(path: Path | str, data: bytes) -> Any:
    """Value of JSON that was read from a file; ArtefactError for anything else, NaN and infinity included."""
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ArtefactError(path, f"is not valid JSON ({error})", "restore it or make it again") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def append_line(path: Path, line: bytes, *, durable: bool) -> None:
    """Append a line, including its newline, to a file; a missing file or folder is made.

    The line is passed to the system and, if `durable`, flushed to the disk. A process killed meanwhile leaves a part of
    the line, without its newline.

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
