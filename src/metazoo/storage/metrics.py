"""Metrics of a run, one JSON object per line."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metazoo.errors import ArtefactError
from metazoo.storage.artefacts import append_line, read_bytes, write_bytes


class MetricsLog:
    """Log of metrics in a `.jsonl` file, with one writer and any number of readers.

    An incomplete last line of a killed process is ignored, and removed by the next writer.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._ends_whole = False  # known to end with a newline

    def append(self, row: Mapping[str, Any] | None = None, /, **values: Any) -> None:
        """Append one row; NaN and infinity become null.

        Args:
            row: numbers (also of NumPy and torch), texts, lists and mappings by name.
            **values: further entries of the row.

        Raises:
            ArtefactError: the file cannot be read or written, or a value has no JSON form; nothing is appended.
        """
        try:
            line = json.dumps(_plain({**(row or {}), **values}), allow_nan=False).encode() + b"\n"
        except (TypeError, ValueError) as error:
            problem = f"cannot hold a row ({error})"
            raise ArtefactError(self.path, problem, "give numbers, texts, lists and mappings") from error
        if not self._ends_whole:
            self._drop_half_line()
        self._ends_whole = False
        append_line(self.path, line, durable=False)
        self._ends_whole = True

    def rows(self) -> list[dict[str, Any]]:
        """All complete rows.

        Raises:
            ArtefactError: a line is not a JSON object.
        """
        return [row for _, row in self._lines()]

    def truncate_after(self, stage: str, step: int) -> None:
        """Remove the rows of a stage after a step, which a resumed run writes again.

        Raises:
            ArtefactError: a line is not a JSON object, or the file cannot be written.
        """
        self._drop_half_line()
        lines = self._lines()
        kept = [line for line, row in lines if row.get("stage") != stage or row.get("step", step) <= step]
        if len(kept) < len(lines):
            write_bytes(self.path, b"".join(line + b"\n" for line in kept))

    def _drop_half_line(self) -> None:
        content = self._content()
        if content and not content.endswith(b"\n"):
            write_bytes(self.path, content[: content.rfind(b"\n") + 1])

    def _content(self) -> bytes:
        return read_bytes(self.path) if self.path.exists() else b""

    def _lines(self) -> list[tuple[bytes, dict[str, Any]]]:
        lines: list[tuple[bytes, dict[str, Any]]] = []
        for number, line in enumerate(self._content().split(b"\n")[:-1], start=1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ArtefactError(self.path, f"line {number} is not JSON ({error})", "delete that line") from error
            if not isinstance(row, dict):
                raise ArtefactError(self.path, f"line {number} is not a JSON object", "delete that line")
            lines.append((line, row))
        return lines


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return value
