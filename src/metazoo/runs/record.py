"""Run on disk, unfinished or finished."""

import contextlib
from pathlib import Path
from typing import Any, final

from metazoo.adapt import MetaModel
from metazoo.adapt.card_text import is_validated, unlabelled_count
from metazoo.data import UnlabelledImages
from metazoo.data.unlabelled import use_of_data
from metazoo.errors import ArtefactError, MetazooError, RunError, UsageError
from metazoo.execution.progress import message
from metazoo.notebook import ShownInNotebook
from metazoo.pipeline.layout import BACKBONE, DESCRIPTION, FINISHED, META_MODEL, METRICS, UNLABELLED, VALIDATION
from metazoo.pipeline.recovery_stage import recovery_options
from metazoo.runs.config import RunConfig
from metazoo.runs.description import begun_config
from metazoo.storage.manifest import Manifest
from metazoo.storage.metrics import MetricsLog
from metazoo.storage.run_folder import RunFolder
from metazoo.zoo import Zoo


@final
class Run(ShownInNotebook):
    """Run on disk, unfinished or finished.

    Attributes:
        path: path of the folder.
        description: content of `run.json`: zoo, versions, threads.
    """

    def __init__(self, path: Path, description: dict[str, Any]) -> None:
        self.path, self.description = path, description

    @classmethod
    def open(cls, path: Path | str) -> "Run":
        """Open a run folder.

        Raises:
            UsageError: the folder does not exist, or is not a run.
            ArtefactError: the description of the run has changed.
        """
        path = Path(path)
        if not (path / DESCRIPTION).is_file():
            raise UsageError(path, f"is not a run folder, without {DESCRIPTION}", "give a folder made by train")
        return cls(path, RunFolder(path).read_json(DESCRIPTION))

    def __repr__(self) -> str:
        """Path, method, preset, seed, use of data, zoo and state, in one line."""
        with contextlib.suppress(MetazooError):
            config, zoo = self.config, self.description["zoo"]
            state = "finished" if self.finished else "not finished"
            name = f"{config.method.name}, preset {config.preset}, seed {config.seed}"
            used = use_of_data(unlabelled_count(self.description), is_validated(self.description))
            name += f", {used}" if used else ""
            return f"Run({str(self.path)!r}: {name}, {zoo['models']} models, {state})"
        return f"Run({str(self.path)!r})"

    @property
    def finished(self) -> bool:
        """Whether the meta-model is complete."""
        return any(map(RunFolder(self.path).has, FINISHED))

    @property
    def config(self) -> RunConfig:
        """Complete configuration of the run.

        Raises:
            RunError: the run was begun by a version of metazoo with other options.
            ArtefactError: the description is missing or has changed.
        """
        begun = begun_config(self.path)
        if begun is None:
            raise ArtefactError(self.path / DESCRIPTION, "is missing", "restore it")
        return begun

    @property
    def meta_model(self) -> MetaModel:
        """Learned meta-model.

        Raises:
            RunError: the run has not finished.
            ArtefactError: a file is missing or has changed.
        """
        if not self.finished:
            raise RunError(self.path, "has not finished", "continue it with train --resume")
        return MetaModel.load(self.path / META_MODEL)

    def check_same_images(self, zoo: Zoo, config: RunConfig) -> None:
        """Check that another run would recover the same images as this run.

        Raises:
            UsageError: the other run recovers no images, so that it cannot use any.
            RunError: the zoo, the seed or an option of recovery differs.
        """
        if not recovery_options(config.options):
            problem = f"{config.method.name} recovers no images before it learns, with these options"
            raise UsageError("reuse_images", problem, "omit it")
        own, other = ({"seed": each.seed, **recovery_options(each.options)} for each in (self.config, config))
        differing = [name for name in ("seed", "recovery", "budget") if own.get(name) != other.get(name)]
        if self.description["zoo"]["sha256"] != zoo.sha256:
            differing.insert(0, "zoo")
        if differing:
            raise RunError(
                self.path,
                f"has images of another {differing[0]}",
                f"reuse images of a run with the same {differing[0]}",
            )

    def record(self, name: str) -> Any:
        """Read a JSON file of the run, such as `recovery.json`, or the rows of `metrics.jsonl`.

        Returns:
            Its content; None if the run has not written it.

        Raises:
            ArtefactError: the file is missing or has changed.
        """
        if name == METRICS:
            return self.metrics() or None
        folder = RunFolder(self.path)
        return folder.read_json(name) if folder.has(name) else None

    def backbone_classes(self) -> dict[str, tuple[str, ...]]:
        """Class names of a backbone from outside the zoo, by its source; empty if there is none or they are unknown.

        Raises:
            ArtefactError: a record is missing or has changed.
        """
        record = self.record(BACKBONE)
        if record is None:
            return {}
        if record["class_names"] is None:
            message(f"note: the classes that {record['source']} was trained on are unknown; they may be evaluated ones")
            return {}
        return {record["source"]: tuple(record["class_names"])}

    def count_unlabelled(self, evaluated: UnlabelledImages) -> int | None:
        """Number of evaluated images among the unlabelled ones of the run, by their pixels; None for a data-free run.

        Raises:
            ArtefactError: a record is missing or has changed.
        """
        record = self.record(UNLABELLED)
        return None if record is None else evaluated.count_among(set(record["sha256"]))

    def count_validated(self, evaluated: UnlabelledImages) -> int | None:
        """Number of evaluated images among the labelled validation images of the run, by their pixels.

        None for a run that used none.

        Raises:
            ArtefactError: a record is missing or has changed.
        """
        record = self.record(VALIDATION)
        return None if record is None else evaluated.count_among(set(record["sha256"]))

    def check_zoo(self, zoo: Zoo) -> None:
        """Check that a zoo, which may have changed, is the zoo of the run.

        Raises:
            UsageError: the zoo lacks a model of the run.
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
        """Names of the models in the records (`{"model": NAME, ...}`); empty before the first record."""
        names = [name for name in Manifest(self.path).files if name.endswith(".json") and META_MODEL not in name]
        records = [record for record in map(self.record, names) if isinstance(record, dict)]
        lists = [value for record in records for value in record.values() if isinstance(value, list)]
        rows = [row for rows in lists for row in rows if isinstance(row, dict)]
        return {row[key] for row in rows for key in ("model", "teacher") if isinstance(row.get(key), str)}

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of `metrics.jsonl`."""
        return MetricsLog(self.path / METRICS).rows()
