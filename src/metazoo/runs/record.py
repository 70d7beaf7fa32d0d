"""A run as its folder has it, begun or finished."""

from pathlib import Path
from typing import Any, final

from metazoo.adapt import MetaModel
from metazoo.errors import RunError, UsageError
from metazoo.execution.progress import message
from metazoo.pipeline.layout import DESCRIPTION, FINISHED, HEALTH, META_MODEL, METRICS, SELECTION, SELECTION_DATA, TRUST
from metazoo.runs.config import RunConfig
from metazoo.runs.description import begun_config
from metazoo.storage.metrics import MetricsLog
from metazoo.storage.run_folder import RunFolder
from metazoo.zoo import Zoo


@final
class Run:
    """A run folder.

    Attributes:
        path: of the folder.
        description: the content of `run.json`: zoo, versions, threads.
    """

    def __init__(self, path: Path, description: dict[str, Any]) -> None:
        self.path, self.description = path, description

    @classmethod
    def open(cls, path: Path | str) -> "Run":
        """Open a run that was begun.

        Raises:
            UsageError: there is no such folder, or it is not a run.
            ArtefactError: the run's own description has changed.
        """
        path = Path(path)
        if not (path / DESCRIPTION).is_file():
            raise UsageError(f"{path} is not a run folder, it has no {DESCRIPTION}; give one that train has made")
        return cls(path, RunFolder(path).read_json(DESCRIPTION))

    @property
    def finished(self) -> bool:
        """Whether the meta-model is there."""
        return any(map(RunFolder(self.path).has, FINISHED))

    @property
    def config(self) -> RunConfig:
        """The complete description of the run.

        Raises:
            RunError: it was begun by a metazoo of other options.
            ArtefactError: it is missing or has changed.
        """
        begun = begun_config(self.path)
        assert begun is not None  # `open` has seen to that
        return begun

    @property
    def meta_model(self) -> MetaModel:
        """What the run has learned.

        Raises:
            RunError: the run has not finished.
            ArtefactError: a file is missing or has changed.
        """
        if not self.finished:
            raise RunError(f"{self.path} has not finished; go on with it by train --resume")
        return MetaModel.load(self.path / META_MODEL)

    @property
    def selection_classes(self) -> tuple[str, ...]:
        """Classes of the labelled images that models were selected by; empty if they were not."""
        found = self.record(SELECTION_DATA)
        return () if found is None else tuple(found["classes"])

    def record(self, name: str) -> Any:
        """What the run has written under that name, such as `recovery.json`; None if nothing, or nothing yet.

        Raises:
            ArtefactError: it is missing or has changed.
        """
        folder = RunFolder(self.path)
        return folder.read_json(name) if folder.has(name) else None

    def check_zoo(self, zoo: Zoo) -> None:
        """See that `zoo`, which may have changed since, is the one that the run began with.

        Raises:
            UsageError: it lacks a model of the run.
            ArtefactError: a record is missing or has changed.
        """
        if self.description["zoo"]["sha256"] == zoo.sha256:
            return
        lacking = sorted(self.model_names() - {contract.name for contract in zoo})
        if lacking:
            raise UsageError(
                f"{self.path} is of another zoo: {zoo.folder} has no model {lacking[0]!r}; give that of the run, "
                f"{self.description['zoo']['path']}"
            )
        message(f"note: {zoo.folder} is not as {self.path} began with; what it says of the models may no longer hold")

    def model_names(self) -> set[str]:
        """Names of the models that the run has recovered images from, judged or selected; empty if none yet."""
        records = [record for record in map(self.record, (HEALTH, TRUST, SELECTION)) if record is not None]
        rows = [row for record in records for row in record.get("teachers", record.get("models"))]
        return {row.get("teacher", row.get("model")) for row in rows}

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of the run's diary."""
        return MetricsLog(self.path / METRICS).rows()
