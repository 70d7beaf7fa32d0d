"""Trackers, which show the metrics of runs: TensorBoard, trackio, MLflow and those of other packages.

The log `metrics.jsonl` of a run is the only source. A tracker reads it beside the run, in a thread of its own, and can
neither change nor stop the run. A step that the tracker holds is not sent again, so a resumed run continues its curves,
also where it repeats steps, and the log of a finished run can be sent at any time. Recovered images are never sent.
"""

from metazoo.tracking.registry import TRACKERS, check_trackers, register_tracker, send
from metazoo.tracking.tracker import Point, TrackedRun, Tracker, points_of

__all__ = [
    "TRACKERS",
    "Point",
    "TrackedRun",
    "Tracker",
    "check_trackers",
    "points_of",
    "register_tracker",
    "send",
]
