"""Cells of a study: one row on one zoo with one seed, in a folder of its own.

A cell folder holds the run (`run`), one result file per image set and head (`accuracy-DATA-HEAD.json`), the cost of the
work so far (`cost.json`), the accuracy while learning (`curve.json`) if the study asks for it, and the error of the
last attempt (`error.json`), if it failed.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from metazoo.data import UnlabelledImages, load_images_at
from metazoo.errors import Interrupted, MetazooError, RunError
from metazoo.evaluate import Subject, find_contamination
from metazoo.execution.compute import Compute
from metazoo.methods.base import unlabelled_options
from metazoo.pipeline.layout import DESCRIPTION, HEALTH
from metazoo.pipeline.recovery_stage import recovery_options
from metazoo.runs.config import RunConfig, resolve_config
from metazoo.runs.record import Run
from metazoo.runs.train import train
from metazoo.storage.artefacts import read_json, write_json
from metazoo.study.cost import RUN, Cost, Meter
from metazoo.study.curves import CurveMeter
from metazoo.study.measuring import measure
from metazoo.study.study_file import Curve, OwnHead, Protocol, Row, file_name
from metazoo.zoo import Zoo

_ERROR = "error.json"


@dataclass(frozen=True)
class Cell:
    """One row on one zoo with one seed.

    Attributes:
        row: row of the study.
        zoo: name of the zoo.
        zoo_folder: folder of the zoo.
        seed: training seed.
        data: sources of images of unseen classes, by name.
        protocol: protocol of the study.
        folder: folder of the cell.
        curve: options of the accuracy while learning; None: it is not measured.
    """

    row: Row
    zoo: str
    zoo_folder: Path
    seed: int
    data: dict[str, str]
    protocol: Protocol
    folder: Path
    curve: Curve | None = None

    def side_on(self, zoo: Zoo) -> int:
        """Side in pixels of images whose source has none: one for all rows, so that all are measured on the same."""
        return self.protocol.side or max(contract.spec.input_size for contract in zoo)

    @property
    def label(self) -> str:
        """Row, zoo and seed in words."""
        return f"{self.row.name} on {self.zoo}, seed {self.seed}"

    @property
    def heads(self) -> list[OwnHead]:
        """Heads to evaluate with: that of the protocol, then the row's own if it differs."""
        common = OwnHead(head=self.protocol.head, batch_norm=self.protocol.batch_norm)
        return [common] if self.row.own_head in (None, common) else [common, self.row.own_head]

    @cached_property
    def config(self) -> RunConfig:
        """Complete configuration of the run."""
        return resolve_config(self.row.set, method=self.row.method, preset=self.row.preset, seed=self.seed)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "config"}  # workers resolve it themselves

    @property
    def unlabelled(self) -> UnlabelledImages | None:
        """Unlabelled images of the row; None if it has none."""
        return None if self.row.unlabelled is None else UnlabelledImages(self.row.unlabelled)

    @property
    def has_begun(self) -> bool:
        """Whether its run has begun."""
        return (self.folder / RUN / DESCRIPTION).is_file()

    def result_file(self, data: str, head: OwnHead) -> Path:
        """Result file of one image set and head."""
        words = ("accuracy", data, head.head, "" if head.batch_norm == "running" else head.batch_norm)
        return self.folder / f"{file_name('-'.join(filter(None, words)))}.json"

    @property
    def result_files(self) -> Iterator[tuple[str, OwnHead, Path]]:
        """All image sets and heads with their result files, existing or not."""
        return ((data, head, self.result_file(data, head)) for data in self.data for head in self.heads)

    @property
    def is_finished(self) -> bool:
        """Whether every accuracy is measured."""
        return all(path.is_file() for _, _, path in self.result_files)

    @property
    def error(self) -> str | None:
        """Error of the last attempt; None if there is none."""
        path = self.folder / _ERROR
        return str(read_json(path)["error"]) if path.is_file() else None

    def fail(self, error: Exception) -> None:
        """Store the error of an attempt."""
        text = str(error) if isinstance(error, MetazooError) else f"unexpected {type(error).__name__}: {error}"
        write_json(self.folder / _ERROR, {"error": " ".join(text.split())[:1000]})

    @property
    def cost(self) -> Cost:
        """Cost of the work so far."""
        return Cost.read(self.folder)

    def images_key(self) -> tuple[Any, ...] | None:
        """What the images that the run recovers depend on; None if it recovers none that others can reuse."""
        unlabelled, found = unlabelled_options(self.config.options), recovery_options(self.config.options)
        is_alone = self.row.unlabelled is not None and unlabelled is not None and unlabelled.share == 1
        if not found or is_alone:
            return None
        return self.zoo, self.seed, *(f"{name} {value.model_dump_json()}" for name, value in found.items())


def image_makers(cells: Sequence[Cell]) -> dict[Path, Cell | None]:
    """For each cell, by folder, the cell whose recovered images it reuses; None if it recovers its own or none."""
    keys = {cell.folder: cell.images_key() for cell in cells}
    first: dict[tuple[Any, ...], Cell] = {}
    for cell in sorted(cells, key=_distance_from_images):
        key = keys[cell.folder]
        if key is not None:
            first.setdefault(key, cell)
    makers: dict[Path, Cell | None] = {}
    for cell in cells:
        key = keys[cell.folder]
        maker = None if key is None else first[key]
        makers[cell.folder] = None if maker is cell else maker
    return makers


def _distance_from_images(cell: Cell) -> int:
    """0 for a cell that has recovered its images, 1 for one that has copied them, 2 for one without."""
    return int(cell.cost.reused) if (cell.folder / RUN / HEALTH).exists() else 2


@dataclass(frozen=True)
class CellWork:
    """Unit of work: one cell.

    Attributes:
        cell: cell to finish.
        provider: run folder with the same recovered images; None: the cell recovers its own.
        workers: processes and threads of the run.
        device: device; None: the first GPU, else the CPU.
        deadline: time after which it does not start, in seconds of `time.time`; None: no limit.
    """

    cell: Cell
    provider: Path | None
    workers: int
    device: str | None
    deadline: float | None


def do_cell(work: CellWork) -> bool:
    """Finish a cell: train, then evaluate. An error is stored in its folder.

    Returns:
        Whether the cell was tried; False if the deadline had passed.

    Raises:
        Interrupted: a stop was requested; finished work is kept.
    """
    cell = work.cell
    if work.deadline is not None and time.time() >= work.deadline:
        return False
    cell.folder.mkdir(parents=True, exist_ok=True)
    try:
        recovers = bool(recovery_options(cell.config.options))
        with Meter(cell.folder, work.workers, work.provider is not None, recovers) as meter:
            run, watching = _train(work)
            meter.trained(watching)
            _evaluate(work, run)
    except Interrupted:
        raise
    except Exception as error:
        cell.fail(error)
    else:
        (cell.folder / _ERROR).unlink(missing_ok=True)
    return True


def _train(work: CellWork) -> tuple[Run, float]:
    """Run of a cell, and seconds of measurements while it learned."""
    cell, path = work.cell, work.cell.folder / RUN
    watcher = None
    if cell.curve is not None:
        side = cell.side_on(Zoo.open(cell.zoo_folder))
        watcher = CurveMeter(cell.folder, cell.data, side, cell.protocol, cell.curve)
    run = train(
        cell.zoo_folder,
        cell.row.method,
        out=path,
        preset=cell.row.preset,
        config=cell.row.set,
        seed=cell.seed,
        resume=True,
        workers=work.workers,
        device=work.device,
        reuse_images=work.provider,
        unlabelled=cell.row.unlabelled,
        on_step=watcher,
    )
    return run, watcher.seconds if watcher is not None else 0.0


def _evaluate(work: CellWork, run: Run) -> None:
    cell, protocol = work.cell, work.cell.protocol
    meta_model = run.meta_model
    device = Compute.choose(work.device).device
    subject = Subject.of(cell.row.name, cell.row.method, meta_model.module, meta_model.sha256).on(device)
    subject = replace(subject, unlabelled=meta_model.unlabelled, validated=meta_model.validated)
    zoo = Zoo.open(cell.zoo_folder)
    class_lists = {contract.name: contract.class_names for contract in zoo} | run.backbone_classes()
    side = cell.side_on(zoo)
    for name, source in cell.data.items():
        open_heads = [head for head in cell.heads if not cell.result_file(name, head).is_file()]
        if not open_heads:
            continue
        images = load_images_at(source, side)
        contamination = find_contamination(images.class_names, class_lists)
        shown = UnlabelledImages(source)
        seen = {"unlabelled": run.count_unlabelled(shown), "validated": run.count_validated(shown)}
        contamination = contamination.model_copy(update=seen)
        for head in open_heads:
            measure(
                subject,
                images,
                protocol,
                head=head.head,
                batch_norm=head.batch_norm,
                episodes=protocol.episodes,
                out=cell.result_file(name, head),
                overwrite=True,
                contamination=contamination,
            )


def check_begun(cell: Cell) -> None:
    """Check that a run that has begun in the folder of a cell has the options and unlabelled images of the cell.

    Raises:
        RunError: it has others.
    """
    if not cell.has_begun:
        return
    run = Run.open(cell.folder / RUN)
    source = None if cell.unlabelled is None else cell.unlabelled.identity
    differing = "options" if run.config.as_record() != cell.config.as_record() else None
    if run.description.get("unlabelled", {}).get("source") != source:
        differing = "unlabelled images"
    if differing is not None:
        remedy = f"choose another --out, name the row differently, or delete {cell.folder}"
        raise RunError(run.path, f"was begun with other {differing} than row {cell.row.name!r}", remedy)


def check_zoo(cell: Cell, sha256: str) -> None:
    """Check that a run that has begun in the folder of a cell learns from the zoo as it is now.

    Args:
        cell: cell, begun or not.
        sha256: SHA-256 of its zoo.

    Raises:
        RunError: the zoo has changed since.
    """
    path = cell.folder / RUN
    if cell.has_begun and Run.open(path).description["zoo"]["sha256"] != sha256:
        remedy = f"restore the zoo, choose another --out, or delete {cell.folder}"
        raise RunError(path, f"was begun before {cell.zoo_folder} changed", remedy)
