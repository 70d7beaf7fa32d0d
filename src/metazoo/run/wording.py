"""How messages name many things."""

from collections.abc import Sequence


def some_of(names: Sequence[str], most: int = 5) -> str:
    """The first names, at most so many, and how many more there are: `a, b and 3 more`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
