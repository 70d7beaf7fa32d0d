"""A run folder, begun or finished."""

import contextlib
from pathlib import Path
from typing import Any, final

from metazoo.adapt import MetaModel
from metazoo.errors import ArtefactError, MetazooError, RunError, UsageError
from metazoo.execution.progress import message
from metazoo.pipeline.layout import DESCRIPTION, FINISHED, META_MODEL, METRICS
from metazoo.runs.config import RunConfig
from metazoo.runs.description import begun_config
from metazoo.storage.manifest import Manifest
from metazoo.storage.metrics import MetricsLog
from metazoo.storage.run_folder import RunFolder
from metazoo.zoo import Zoo


@final
class Run:
    """A run folder.

    Attributes:
        path: path of the folder.
        description: content of `run.json`: zoo, versions, threads.
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
            raise UsageError(path, f"is not a run folder, without {DESCRIPTION}", "give a folder that train has made")
        return cls(path, RunFolder(path).read_json(DESCRIPTION))

    def __repr__(self) -> str:
        """Path, method, preset, seed, zoo and state, in one line."""
        with contextlib.suppress(MetazooError):
            config, zoo = self.config, self.description["zoo"]
            state = "finished" if self.finished else "not finished"
            name = f"{config.method.name}, preset {config.preset}, seed {config.seed}"
            return f"Run({str(self.path)!r}: {name}, {zoo['models']} models, {state})"
        return f"Run({str(self.path)!r})"

    @property
    def finished(self) -> bool:
        """Whether the run has its meta-model."""
        return any(map(RunFolder(self.path).has, FINISHED))

    @property
    def config(self) -> RunConfig:
        """The complete description of the run.

        Raises:
            RunError: the run was begun by a metazoo of other options.
            ArtefactError: the description is missing or has changed.
        """
        begun = begun_config(self.path)
        if begun is None:
            raise ArtefactError(self.path / DESCRIPTION, "is missing", "restore it")
        return begun

    @property
    def meta_model(self) -> MetaModel:
        """The learned meta-model.

        Raises:
            RunError: the run has not finished.
            ArtefactError: a file is missing or has changed.
        """
        if not self.finished:
            raise RunError(self.path, "has not finished", "continue it by train --resume")
        return MetaModel.load(self.path / META_MODEL)

    def check_same_images(self, zoo: Zoo, config: RunConfig) -> None:
        """Check that a run by `config` on `zoo` recovers the same images as this run.

        Raises:
            RunError: the zoo, the seed or an option of recovery differs.
        """
        own, other = self.config.as_record(), config.as_record()
        differing = [name for name in ("seed", "recovery", "budget") if own.get(name) != other.get(name)]
        if self.description["zoo"]["sha256"] != zoo.sha256:
            differing.insert(0, "zoo")
        if differing:
            raise RunError(self.path, f"images of another {differing[0]}", "reuse those of a run with the same")

    def record(self, name: str) -> Any:
        """Read a JSON file that the run has written, such as `recovery.json`, or the rows of `metrics.jsonl`.

        Returns:
            Its content; None if the run has not written it, or not yet.

        Raises:
            ArtefactError: it is missing or has changed.
        """
        if name == METRICS:
            return self.metrics() or None
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
                zoo.folder,
                f"has no model {lacking[0]!r} of {self.path}",
                f"give the zoo of the run, {self.description['zoo']['path']}",
            )
        message(f"note: {zoo.folder} has changed since {self.path} began; its records of models may no longer hold")

    def model_names(self) -> set[str]:
        """Names of the models that records have rows of (`{"model": NAME, ...}`); empty if there are none yet."""
        names = [name for name in Manifest(self.path).files if name.endswith(".json") and META_MODEL not in name]
        records = [record for record in map(self.record, names) if isinstance(record, dict)]
        lists = [value for record in records for value in record.values() if isinstance(value, list)]
        rows = [row for rows in lists for row in rows if isinstance(row, dict)]
        return {row[key] for row in rows for key in ("model", "teacher") if isinstance(row.get(key), str)}

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of `metrics.jsonl`."""
        return MetricsLog(self.path / METRICS).rows()
