"""Sending of runs and their results to trackers, after the fact."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from metazoo.adapt.card_text import counted
from metazoo.errors import UsageError
from metazoo.evaluate import Result, read_results
from metazoo.runs.record import Run
from metazoo.runs.tracked import tracked_run
from metazoo.storage.lock import exclusive
from metazoo.text import printable
from metazoo.tracking import Point, check_trackers, points_of, send
from metazoo.tracking.tracker import metric_name


@dataclass(frozen=True)
class Sent:
    """Outcome for one tracker.

    Attributes:
        address: where a user finds the run.
        points: number of points that the tracker did not have.
    """

    address: str
    points: int

    def __str__(self) -> str:
        """Both in one line."""
        return f"{printable(self.address)}: {counted(self.points, 'new point')}"


def track_run(run: Run | Path | str, track: str | Sequence[str], *, results: Sequence[Path | str] = ()) -> list[Sent]:
    """Send the metrics of a run, and results, to trackers; what a tracker has already is not sent again.

    An accuracy, in percent, is a metric `accuracy/IMAGES/TASK/PROTOCOL`, whose step is the seed of the episodes; its
    interval is a metric `interval/...`. Baselines in the results are left out.

    Args:
        run: run or its folder, finished or not; no process may be at work on it.
        track: trackers, each `NAME` or `NAME:TARGET`; see `metazoo.tracking`.
        results: result files of this run, written by `evaluate`.

    Returns:
        Outcomes in the order of the trackers.

    Raises:
        UsageError: a tracker is unknown or not installed, or a result measures another meta-model.
        RunError: the run is in use, or a tracker failed; trackers before it have got everything.
        ArtefactError: a file of the run or a result is missing or damaged.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    trackers = (track,) if isinstance(track, str) else tuple(track)
    check_trackers(trackers)
    with exclusive(run.path):
        points = [*points_of(run.metrics()), *_accuracies(run, results)]
        facts = tracked_run(run.path, run.config, run.description)
        return [Sent(*send(facts, given, points, finished=run.finished)) for given in trackers]


def _accuracies(run: Run, results: Sequence[Path | str]) -> Iterator[Point]:
    if not results:
        return
    own = run.meta_model.sha256
    for path in results:
        rows = [row for row in read_results(path) if row.subject_sha256 == own]
        if not rows:
            problem = f"does not measure the meta-model of {run.path}"
            raise UsageError(path, problem, "give results of this run, or evaluate it again")
        for row in rows:
            name = metric_name(row.image_set, f"{row.ways}-way {row.shots}-shot", _protocol(row))
            yield Point(f"accuracy/{name}", row.seed, row.accuracy)
            yield Point(f"interval/{name}", row.seed, row.interval)


def _protocol(row: Result) -> str:
    mirrored = " mirrored" if row.mirrored else ""
    domain = "" if row.domain is None else f" domain {row.domain}"
    return f"{row.head} {row.batch_norm}{mirrored}{domain} {row.episodes} episodes {row.queries} queries"
