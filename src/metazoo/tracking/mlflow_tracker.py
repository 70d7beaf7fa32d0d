"""MLflow: a tracking server or a local database."""

import importlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

from metazoo.tracking.tracker import Point, TrackedRun, Tracker

_EXPERIMENT = "metazoo"
_ID = "metazoo.id"
_NO_TELEMETRY, _NO_ADDRESS = "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"
# Limits of one request.
_METRICS, _PARAMETERS = 1000, 100


@final
class MlflowTracker(Tracker):
    """Run of MLflow in the experiment `metazoo` (or MLFLOW_EXPERIMENT_NAME).

    The target is a tracking URI, such as `http://localhost:5000` or `sqlite:///mlflow.db`. By default, MLflow chooses:
    MLFLOW_TRACKING_URI, or `mlflow.db` in the working directory. MLflow's reports on its use are switched off.
    """

    name = "mlflow"
    library = "mlflow"

    def __init__(self, run: TrackedRun, target: str | None) -> None:
        with _variable(_NO_TELEMETRY):  # read by MLflow when it is first imported
            tracking = importlib.import_module("mlflow.tracking")
        self._entities = importlib.import_module("mlflow.entities")
        self._client: Any = tracking.MlflowClient(tracking_uri=target)
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT)
        begun = self._client.search_runs([experiment], f"tags.`{_ID}` = '{run.id}'", max_results=1)
        if begun:
            self._id, self._begun = begun[0].info.run_id, begun[0].data.metrics
            self._client.update_run(self._id, status="RUNNING")
        else:
            created = self._client.create_run(experiment, run_name=run.name, tags={_ID: run.id, **run.tags})
            self._id, self._begun = created.info.run_id, {}
        # Equal parameters may be recorded again, and a killed process may have recorded only some.
        parameters = [self._entities.Param(name, str(value)) for name, value in run.parameters.items()]
        for start in range(0, len(parameters), _PARAMETERS):
            self._client.log_batch(self._id, params=parameters[start : start + _PARAMETERS])
        self.address = f"run {run.name} ({self._id}) in {self._client.tracking_uri}"

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return self._client.create_experiment(name) if found is None else found.experiment_id

    def held(self) -> set[tuple[str, int]]:
        """Complete history of all metrics of the run."""
        histories = (self._client.get_metric_history(self._id, name) for name in self._begun)
        return {(metric.key, metric.step) for history in histories for metric in history}

    def log(self, points: Sequence[Point]) -> None:
        """Send points with the current time."""
        now = int(1000 * time.time())
        metrics = [self._entities.Metric(name, value, now, step) for name, step, value in points]
        for start in range(0, len(metrics), _METRICS):
            self._client.log_batch(self._id, metrics=metrics[start : start + _METRICS])

    def close(self, *, finished: bool) -> None:
        """Mark the run as finished, or as killed."""
        with _variable(_NO_ADDRESS):
            self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")


@contextmanager
def _variable(name: str) -> Iterator[None]:
    """Set a variable of the environment to `true` within the block, unless the user has set it."""
    if name in os.environ:
        yield
        return
    os.environ[name] = "true"
    try:
        yield
    finally:
        del os.environ[name]
