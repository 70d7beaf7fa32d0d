"""Trackers of other programs behind one interface, and their registry."""

import contextlib
import importlib
import importlib.util
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from metazoo.errors import MetazooError, RunError, UsageError
from metazoo.plugins import Registry
from metazoo.storage.artefacts import reason_of

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


_HERE = "metazoo.tracking"
_BUILT_IN = {
    "tensorboard": f"{_HERE}.tensorboard_tracker:TensorBoardTracker",
    "trackio": f"{_HERE}.trackio_tracker:TrackioTracker",
    "mlflow": f"{_HERE}.mlflow_tracker:MlflowTracker",
}
TRACKERS: Registry[type[Tracker] | str] = Registry("tracker", "metazoo.trackers", values=_BUILT_IN)
"""Classes by name; a built-in one is named as `module:class`, and imported when it is used."""


def register_tracker(tracker: type[Tracker]) -> type[Tracker]:
    """Register a tracker under its `name` and return it; usable as a class decorator.

    Raises:
        UsageError: another tracker has the name.
    """
    return TRACKERS.register_named(tracker)


def tracker_class(given: str) -> tuple[type[Tracker], str | None]:
    """Class and target of `NAME` or `NAME:TARGET`. The library of the tracker is not imported.

    Raises:
        UsageError: the name is unknown, or the library of the tracker is not installed.
    """
    name, colon, target = given.partition(":")
    found = TRACKERS.get(name)
    if isinstance(found, str):
        module, _, attribute = found.partition(":")
        found = getattr(importlib.import_module(module), attribute)
    if importlib.util.find_spec(found.library) is None:
        problem = f"needs {found.library}, which is not installed"
        raise UsageError(f"tracker {name}", problem, f"install it, such as with pip install 'metazoo[{name}]'")
    if colon and not target:
        raise UsageError(f"tracker {given!r}", "has no target after the colon", f"give {name}, or {name}:TARGET")
    return found, target or None


def check_trackers(given: Sequence[str]) -> None:
    """Check the names of trackers, and that their libraries are installed.

    Raises:
        UsageError: see `tracker_class`, or a tracker is given twice.
    """
    for index, one in enumerate(given):
        tracker_class(one)
        if one in given[:index]:
            raise UsageError(f"tracker {one}", "is given twice", "give it once")


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


@contextlib.contextmanager
def connection_to(given: str, run: TrackedRun) -> Iterator[Tracker]:
    """Connection of a run to the tracker `NAME` or `NAME:TARGET`, closed as unfinished if the block fails."""
    tracker, target = tracker_class(given)
    connection = tracker(run, target)
    try:
        yield connection
    except BaseException:
        with contextlib.suppress(Exception):
            connection.close(finished=False)
        raise


def send(run: TrackedRun, given: str, points: Iterable[Point], *, finished: bool = True) -> tuple[str, int]:
    """Send all points that a tracker does not have yet.

    Args:
        run: run of the points.
        given: tracker, `NAME` or `NAME:TARGET`.
        points: all points of the run.
        finished: whether the run has ended.

    Returns:
        Address of the run in the tracker, and number of points that it did not have.

    Raises:
        UsageError: see `tracker_class`.
        RunError: the tracker failed.
    """
    try:
        with connection_to(given, run) as connection:
            found = new_points(points, set(connection.held()))
            connection.log(found)
            connection.close(finished=finished)
            return connection.address, len(found)
    except MetazooError:
        raise
    except Exception as error:
        raise failure(given, error) from error


def failure(given: str, error: Exception) -> RunError:
    """Error for a tracker that failed."""
    problem = f"has failed ({type(error).__name__}: {reason_of(error)})"
    return RunError(f"tracker {given}", problem, "check it, then send the run with `metazoo track`")
