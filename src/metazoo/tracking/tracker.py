"""Interface of trackers, and the points that they get."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

Parameter = str | int | float | bool


class Point(NamedTuple):
    """One value of a metric, such as `learning/loss` at step 100."""

    name: str
    step: int
    value: float


@dataclass(frozen=True)
class TrackedRun:
    """Facts on a run that every tracker gets.

    Attributes:
        id: unique text of 32 hexadecimal digits, which does not change when the run is resumed.
        name: name of the run folder.
        folder: folder within the run folder for files of trackers; it may be missing.
        parameters: options of the run by dotted name, with `method`, `preset` and `seed`.
        tags: further facts by name, such as paths and versions.
    """

    id: str
    name: str
    folder: Path
    parameters: Mapping[str, Parameter]
    tags: Mapping[str, str]

    @property
    def label(self) -> str:
        """Name with the first digits of `id`, since several runs may have one name."""
        return f"{self.name}-{self.id[:8]}"


class Tracker(ABC):
    """Connection of one run to one tracker, used by a single thread.

    The constructor connects, and records parameters and tags unless the tracker has them. Any exception of a tracker
    ends its own work only.

    Args:
        run: run to record; a run of the same `id` that the tracker has is continued.
        target: target after the colon of `NAME:TARGET`; None for the default.

    Attributes:
        name: name on the command line.
        library: module that the tracker imports, installed by the extra of the same name as the tracker.
        address: where a user finds the run, as text for a terminal.
    """

    name: ClassVar[str]
    library: ClassVar[str]
    address: str = ""

    @abstractmethod
    def __init__(self, run: TrackedRun, target: str | None) -> None: ...

    @abstractmethod
    def held(self) -> AbstractSet[tuple[str, int]]:
        """Names and steps of all points that the tracker has of this run."""

    @abstractmethod
    def log(self, points: Sequence[Point]) -> None:
        """Record points, in the order of the log, and return when they are safe."""

    @abstractmethod
    def close(self, *, finished: bool) -> None:
        """End the connection; `finished` says whether the run has ended, or will be continued."""


def points_of(rows: Iterable[Mapping[str, Any]]) -> Iterator[Point]:
    """Points of rows of `metrics.jsonl`: every finite number of a row with a stage and a step, as `STAGE/NAME`.

    Texts, lists and unknown values (null) are not points.
    """
    for row in rows:
        stage, step = row.get("stage"), row.get("step")
        if isinstance(stage, str) and isinstance(step, int):
            for name, value in row.items():
                if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                    yield Point(metric_name(stage, name), step, float(value))


def metric_name(*parts: str) -> str:
    """Name of a metric that every tracker accepts, its parts separated by `/`.

    Characters other than ASCII letters, digits, `_`, `-`, `.` and space become `_`. A name has at most 250 characters.
    """
    safe = (re.sub(r"[^\w\-. ]", "_", part, flags=re.ASCII).strip(" .") or "_" for part in parts)
    return "/".join(safe)[:250].rstrip(" ./")


def new_points(points: Iterable[Point], held: set[tuple[str, int]]) -> list[Point]:
    """Points whose names and steps are not in `held`, to which they are added."""
    found = []
    for point in points:
        if point[:2] not in held:
            held.add(point[:2])
            found.append(point)
    return found
