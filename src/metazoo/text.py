"""Text such as names of files and classes, made safe for a terminal, and paths, made safe for others."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metazoo.errors import UsageError, shown

# Control characters, line separators, marks of reading direction, and surrogates of undecodable bytes.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Escape characters that could control a terminal or forge lines, such as `\\x1b`."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def some_of(names: Sequence[str], most: int = 5) -> str:
    """First `most` names and the number of the others, as `a, b and 3 more`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def local_path(given: str) -> str:
    """Return a path unchanged, or refuse it.

    Raises:
        UsageError: the text is a URL, or `-` for standard input.
    """
    if given == "-":
        raise UsageError("-", "standard input is not read", "give a file or folder")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", given):
        remedy = "download it first, or give hf:OWNER/NAME for a model"
        raise UsageError(printable(given[:100]), "URLs are not read", remedy)
    return given


def expanded_path(given: str) -> Path:
    """Path of a file or folder, existing or not, with `~` and `~NAME` replaced by home folders.

    Raises:
        UsageError: the text is empty, a URL or `-`, names an unknown user, or is no path to the system.
    """
    if not given:
        raise UsageError("path", "is empty", "give a file or folder")
    try:
        path = Path(local_path(given)).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(shown(given), f"cannot be read ({reason})", "give another path") from error
    return path


def absolute_path(given: str, folder: Path) -> str:
    """Absolute path of a file or folder that is relative to `folder`.

    Raises:
        UsageError: see `expanded_path`.
    """
    return str((folder / expanded_path(given)).absolute())


def without_folders(value: Any) -> Any:
    """Copy of an option, or of options at any depth, with the names of files instead of paths, for cards and servers.

    Shortened are absolute paths and those that begin with `~`, `./` or `../`, also in a name of published data, such as
    `cifar-fs/val:ROOT`.
    """
    if isinstance(value, Mapping):
        return {key: without_folders(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(own) for own in value]
    data = re.match(r"[\w-]+/\w+:", value) if isinstance(value, str) else None
    path = value[data.end() :] if data else value
    if isinstance(path, str) and (Path(path).is_absolute() or path.startswith(("~", "./", "../"))):
        return (data[0] if data else "") + Path(path).name
    return value
