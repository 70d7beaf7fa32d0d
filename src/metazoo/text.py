"""Text of foreign origin (names of files and classes) that is safe to show on a terminal."""

import re
from collections.abc import Sequence

from metazoo.errors import UsageError

# Control characters, line separators, marks that turn the reading direction, and bytes that are no text.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` with escapes such as `\\x1b` for all that could steer a terminal or forge its lines."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def some_of(names: Sequence[str], most: int = 5) -> str:
    """The first `most` names and the number of the others: `a, b and 3 more`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def local_path(given: str) -> str:
    """Return the text of a path as it is.

    Raises:
        UsageError: it is a URL, or `-` as for standard input.
    """
    if given == "-":
        raise UsageError("-", "standard input is not read", "give a file or folder")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", given):
        remedy = "download it first, or give hf:OWNER/NAME for a model"
        raise UsageError(printable(given[:100]), "URLs are not read", remedy)
    return given
