"""Lists of the classes of every model of a build, as given by the user."""

import csv
import difflib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from metazoo.data import ImageSet
from metazoo.errors import UsageError, shown
from metazoo.text import printable, some_of

ClassLists = Sequence[Sequence[str]] | Path | str
"""Class names of every model, or a CSV file with one model a line."""

_LARGEST_FILE = 20_000_000
_REMEDY = 'give one model a line: its class names, separated by commas; quote names with a comma: "cat, wild",dog'


def class_lists(given: ClassLists, image_set: ImageSet) -> list[tuple[int, ...]]:
    """Find the classes of every model in an image set, in the order of the model's outputs.

    Args:
        given: class names of every model, or a CSV file in UTF-8 with one model a line. Spaces around names do not
            count, and empty lines are skipped.
        image_set: image set that holds the classes.

    Returns:
        Indices into `image_set.class_names`, one tuple per model.

    Raises:
        UsageError: the file cannot be read, there is no list, a list has fewer than 2 names, or a name is empty,
            unknown, or twice in its list; lines of a file are named by their number.
    """
    if isinstance(given, Path | str):
        subject, lists = printable(str(given)), list(_read(Path(given)))
    else:
        subject, lists = "classes", [(f"classes[{index}]", names) for index, names in enumerate(given)]
    if not lists:
        raise UsageError(subject, "has no class names", _REMEDY)
    indices = {name: index for index, name in enumerate(image_set.class_names)}
    return [_indices(where, names, indices, image_set.name) for where, names in lists]


def _indices(where: str, names: Sequence[str], indices: dict[str, int], data: str) -> tuple[int, ...]:
    if isinstance(names, str) or len(names) < 2:
        raise UsageError(where, "a model needs at least 2 classes", _REMEDY)
    for position, name in enumerate(names):
        if name in names[:position]:
            raise UsageError(where, f"class {shown(name)!r} is given twice", "remove one")
        if not name:
            raise UsageError(where, "an empty class name", "remove a comma, or fill in the name")
        if name not in indices:
            close = difflib.get_close_matches(name, indices, n=3)
            some = printable(" or ".join(close) if close else some_of([*indices]))
            remedy = f"did you mean {some}?" if close else f"choose among {some}"
            raise UsageError(where, f"unknown class {shown(name)!r} of {printable(data)}", remedy)
    return tuple(indices[name] for name in names)


def _read(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the number of each line as text, and its names."""
    path = path.expanduser()
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise UsageError(printable(str(path)), f"has more than {_LARGEST_FILE:,} bytes", _REMEDY)
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UsageError(printable(str(path)), f"cannot be read as class names ({reason})", _REMEDY) from error
    rows = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    first = 1
    try:
        for row in rows:
            if any(name.strip() for name in row):
                yield f"{printable(str(path))}, line {first}", [name.strip() for name in row]
            first = rows.line_num + 1
    except csv.Error as error:
        raise UsageError(f"{printable(str(path))}, line {first}", f"not a line of CSV ({error})", _REMEDY) from error
