"""Text of foreign origin (names of files and classes) that is safe to show on a terminal."""

import re

# Control characters, line separators, marks that turn the reading direction, and bytes that are no text.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` with escapes such as `\\x1b` for all that could steer a terminal or forge its lines."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
