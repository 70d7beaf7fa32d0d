"""trackio: a local database of each project."""

from collections.abc import Sequence
from itertools import groupby
from typing import final

from metazoo.errors import UsageError
from metazoo.tracking.tracker import Point, TrackedRun, Tracker

_PROJECT = "metazoo"


@final
class TrackioTracker(Tracker):
    """Local database of trackio, in the project `metazoo` or the target.

    `trackio.init` would watch the hardware, print to standard output and ask the Hugging Face Hub for the name of a
    user who is logged in. So rows are written to its storage, as its own imports of other formats do. `trackio sync`
    publishes them.
    """

    name = "trackio"
    library = "trackio"

    def __init__(self, run: TrackedRun, target: str | None) -> None:
        from trackio import utils
        from trackio.sqlite_storage import SQLiteStorage

        self._storage, self._project, self._run = SQLiteStorage, target or _PROJECT, run
        self._storage.validate_project_name(self._project)
        if utils.get_storage_mode() != "sqlite":
            problem = "its folder is on a network file system, where its database is unsafe"
            raise UsageError("trackio", problem, "set TRACKIO_DIR to a local folder")
        self.address = f'trackio show --project "{self._project}" (run {run.label})'
        self._config = {"_Username": None, "_Group": None, **run.parameters, **run.tags}

    def held(self) -> set[tuple[str, int]]:
        """Metrics of the run in the database."""
        rows = self._storage.get_logs(self._project, self._run.label, run_id=self._run.id, scalar_only=True)
        return {(name, row["step"]) for row in rows for name in row if name not in ("step", "timestamp")}

    def log(self, points: Sequence[Point]) -> None:
        """Write one row for each run of points of the same step."""
        rows = [(step, {point.name: point.value for point in own}) for step, own in groupby(points, lambda p: p.step)]
        if rows:
            self._storage.bulk_log(
                self._project,
                self._run.label,
                metrics_list=[metrics for _, metrics in rows],
                steps=[step for step, _ in rows],
                config=self._config,
                run_id=self._run.id,
            )

    def close(self, *, finished: bool) -> None:
        """Do nothing, since every row is committed."""
