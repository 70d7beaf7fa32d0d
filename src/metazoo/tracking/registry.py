"""Registry of trackers, and connections to them by name."""

import contextlib
import importlib.util
from collections.abc import Iterable, Iterator, Sequence

from metazoo.errors import MetazooError, RunError, UsageError
from metazoo.plugins import Registry
from metazoo.storage.artefacts import reason_of
from metazoo.tracking.mlflow_tracker import MlflowTracker
from metazoo.tracking.tensorboard_tracker import TensorBoardTracker
from metazoo.tracking.tracker import Point, TrackedRun, Tracker, new_points
from metazoo.tracking.trackio_tracker import TrackioTracker

_BUILT_IN: dict[str, type[Tracker]] = {
    tracker.name: tracker for tracker in (TensorBoardTracker, TrackioTracker, MlflowTracker)
}
TRACKERS: Registry[type[Tracker]] = Registry("tracker", "metazoo.trackers", values=_BUILT_IN)


def register_tracker(tracker: type[Tracker]) -> type[Tracker]:
    """Register a tracker under its `name` and return it; usable as a class decorator.

    Raises:
        UsageError: another tracker has the name.
    """
    return TRACKERS.register_named(tracker)


def tracker_class(given: str) -> tuple[type[Tracker], str | None]:
    """Class and target of `NAME` or `NAME:TARGET`. The library of the tracker is not imported.

    Raises:
        UsageError: the name is unknown or of no tracker, or the library of the tracker is not installed.
    """
    name, colon, target = given.partition(":")
    found = TRACKERS.get(name)
    if not (isinstance(found, type) and issubclass(found, Tracker)):
        raise UsageError(
            f"tracker {name}", f"must be a Tracker class, not {found!r}", "correct the package that has it"
        )
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
