"""Runner of studies: every cell once, resumable at every cell and inside one."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metazoo.data import EpisodeList, load_images
from metazoo.errors import RunError, UsageError
from metazoo.execution.compute import Compute
from metazoo.execution.executor import Executor, ExecutorName, executor_for
from metazoo.execution.local_executor import LocalExecutor
from metazoo.execution.progress import message
from metazoo.execution.signals import graceful, stopped_by
from metazoo.methods.base import check_before_work
from metazoo.methods.registry import get_method
from metazoo.storage.artefacts import remove_stale_temporaries, write_text
from metazoo.storage.lock import exclusive
from metazoo.storage.run_folder import names_in
from metazoo.study.cells import Cell, CellWork, check_begun, check_zoo, do_cell, image_makers
from metazoo.study.cost import RUN
from metazoo.study.study_file import Row, StudyFile, StudyZoo, file_name, read_study, study_from, study_yaml
from metazoo.study.study_results import StudyResults
from metazoo.study.tables import write_tables
from metazoo.zoo import Zoo, build_zoo, zoo_with_models

STUDY, _ZOOS, _CELLS = "study.yaml", "zoos", "cells"


def run_study(
    study: StudyFile | Mapping[str, Any] | Path | str,
    out: Path | str,
    *,
    workers: int | None = None,
    executor: Executor | ExecutorName = "local",
    device: str | None = None,
    hours: float | None = None,
    progress: bool = False,
) -> StudyResults:
    """Train and measure every row of a study on every zoo with every seed.

    A study that was interrupted or killed continues when it is called again, and ends bit-equal to an uninterrupted one
    on the CPU. Failed cells are tried again. Rows, zoos and seeds may be added to a study that has begun.

    Cells are independent and run side by side, one process each; a single cell uses all workers. Cells that would
    recover the same images share them. The first seed of every row comes before the second of any.

    Args:
        study: study file or its content; see `metazoo.study.study_file`.
        out: folder of the study, made if missing: the cells, and after every cell `table.md`, `table.html`,
            `table.csv`, `results.csv`, figures (`cost-ZOO.svg`) and, with a curve, `curves.csv` and `curves-ZOO.svg`.
        workers: number of processes; None: one per core, at most 4 on a GPU.
        executor: executor of the cells: `local`, `ray` (needs the extra), or an `Executor`, which stays open.
        device: device of training and evaluation; None: the first GPU, else the CPU.
        hours: time in hours after which no cell begins; None: no limit.
        progress: whether to report progress on standard error.

    Returns:
        Results of all cells that have finished or failed.

    Raises:
        UsageError: the study is wrong, a zoo or an image set does not exist, or `out` holds other files.
        RunError: `out` is in use, or was begun with another protocol, other data, zoos or options of a row.
        ArtefactError: a file is damaged or cannot be written.
        Interrupted: a stop was requested; finished work is kept.
    """
    if not isinstance(study, StudyFile):
        study = study_from(study) if isinstance(study, Mapping) else read_study(study)
    deadline = None if hours is None else time.time() + 3600 * hours
    out = Path(out)
    held = names_in(out, "a study folder")
    if held and STUDY not in held:
        raise UsageError(out, f"holds {held[0]!r} and is not a study", "choose a new or empty folder")
    compute = Compute.choose(device)
    count = compute.default_workers if workers is None else workers
    with graceful("call again to continue") as stop, exclusive(out), executor_for(executor, count) as running:
        remove_stale_temporaries(out)
        _check_same_study(study, out)
        folders = {name: _zoo_folder(name, zoo, out) for name, zoo in study.zoos.items()}
        cells = cells_of(study, out, folders)
        _check(study, folders, cells, stop.check)
        write_text(out / STUDY, study_yaml(study))
        for name, zoo in study.zoos.items():
            _build(folders[name], zoo, running, device, progress)
        sha256 = {folder: Zoo.open(folder).sha256 for folder in folders.values()}
        for cell in cells:
            check_zoo(cell, sha256[cell.zoo_folder])
        results = _written(study, cells, out)
        try:
            for wave in _waves(cells):
                for _ in _do_wave(wave, cells, running, device, deadline, stop.check):
                    results = _written(study, cells, out)
                    if progress:
                        message(f"study: {results.progress_line()}")
        finally:
            results = _written(study, cells, out)
    return results


def _written(study: StudyFile, cells: Sequence[Cell], out: Path) -> StudyResults:
    """Results so far, after writing their tables."""
    results = StudyResults.read(study, cells)
    write_tables(out, results)
    return results


def cells_of(study: StudyFile, out: Path, folders: Mapping[str, Path]) -> list[Cell]:
    """All cells of a study in the order of the work: by seed, then by zoo, then by row.

    Rows whose method does not depend on the seed have one cell per zoo.
    """

    def seeds_of(row: Row) -> tuple[int, ...]:
        own = study.seeds if row.seeds is None else row.seeds
        return own if get_method(row.method).is_random else own[:1]

    seeds = dict.fromkeys(seed for row in study.rows for seed in seeds_of(row))
    seeds = [*(seed for seed in study.seeds if seed in seeds), *(seed for seed in seeds if seed not in study.seeds)]
    return [
        Cell(
            row,
            zoo,
            folders[zoo],
            seed,
            study.data_of(zoo),
            study.protocol,
            out / _CELLS / file_name(zoo) / file_name(row.name) / f"seed-{seed}",
            study.curve,
        )
        for seed in seeds
        for zoo in study.zoos
        for row in study.rows
        if seed in seeds_of(row) and (row.zoos is None or zoo in row.zoos)
    ]


def _check_same_study(study: StudyFile, out: Path) -> None:
    """Compare the study with the one that has begun in its folder, if any."""
    path = out / STUDY
    if path.is_file():
        begun = read_study(path)
        for name in ("protocol", "data", "curve"):
            if getattr(begun, name) != getattr(study, name):
                raise RunError(out, f"was begun with another {name}", "choose another --out")
        for name, zoo in begun.zoos.items():
            if study.zoos.get(name, zoo) != zoo:
                raise RunError(out, f"was begun with another zoo {name!r}", "choose another --out or name")


def _zoo_folder(name: str, zoo: StudyZoo, out: Path) -> Path:
    return out / _ZOOS / file_name(name) if zoo.path is None else zoo_with_models(Path(zoo.path)).folder


def _build(folder: Path, zoo: StudyZoo, executor: Executor, device: str | None, progress: bool) -> None:
    """Train the models of a zoo that are still missing; nothing happens to an existing zoo."""
    for part in zoo.build:
        build_zoo(
            folder,
            load_images(part.data, images_per_class=part.images_per_class),
            part.arch,
            part.models,
            part.ways,
            part.seed,
            domain=part.domain,
            config=part.training,
            input_size=part.input_size,
            width=part.width,
            control=part.control,
            executor=executor,
            device=device,
            progress=progress,
        )


def _check(study: StudyFile, folders: Mapping[str, Path], cells: Sequence[Cell], check: Callable[[], None]) -> None:
    """Raise errors of sources and of begun cells before any work, and before the study is written to its folder."""
    protocol = study.protocol
    open_cells = [cell for cell in cells if not cell.is_finished]
    for source in dict.fromkeys(source for cell in open_cells for source in cell.data.values()):
        check()
        images = load_images(source)
        for shots in protocol.shots:
            EpisodeList.draw(images, protocol.ways, shots, protocol.queries, episodes=1, seed=protocol.seed)
    unbuilt = [part for name, zoo in study.zoos.items() if not folders[name].is_dir() for part in zoo.build]
    for source in dict.fromkeys(part.data for part in unbuilt):
        check()
        load_images(source, images_per_class=2)
    for cell in {cell.row.unlabelled: cell for cell in open_cells if not cell.has_begun}.values():
        check()
        if cell.unlabelled is not None:
            _ = cell.unlabelled.count  # raises if the source cannot be used
    for cell in cells:
        check_begun(cell)


def _waves(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Unfinished cells in groups that run side by side; cells that reuse images come after the one that makes them."""
    by_seed: dict[int, tuple[list[Cell], list[Cell]]] = {}
    makers = image_makers(cells)
    for cell in cells:
        first, second = by_seed.setdefault(cell.seed, ([], []))
        (first if makers[cell.folder] is None else second).append(cell)
    waiting: list[Cell] = []
    for first, second in by_seed.values():
        yield [cell for cell in (*waiting, *first) if not cell.is_finished]
        waiting = second
    yield [cell for cell in waiting if not cell.is_finished]


def _do_wave(
    wave: Sequence[Cell],
    cells: Sequence[Cell],
    executor: Executor,
    device: str | None,
    deadline: float | None,
    check: Callable[[], None],
) -> Iterator[None]:
    """Do cells side by side, and yield after each; a cell whose process dies fails alone."""
    makers = image_makers(cells)
    left = [cell for cell in wave if _is_possible(cell)]
    while left:
        alone = len(left) == 1 or executor.capacity == 1
        units = []
        for cell in left:
            maker = makers[cell.folder]
            provider = maker.folder / RUN if maker is not None and maker.cost.recovery_seconds is not None else None
            units.append(CellWork(cell, provider, executor.capacity if alone else 1, device, deadline))
        if alone:
            if isinstance(executor, LocalExecutor):
                executor.close()  # the memory of idle processes would count as memory of the cell
            for unit in units:
                check()
                with stopped_by(check):
                    do_cell(unit)
                yield
            return
        tried = set[int]()
        try:
            for index, _ in executor.map(do_cell, units, name_of=lambda unit: unit.cell.label, check=check):
                tried.add(index)
                yield
            return
        except RunError as error:
            dead = next((cell for cell in left if error.subject == f"process of {cell.label}"), None)
            if dead is None:
                raise
            dead.fail(error)
            left = [cell for index, cell in enumerate(left) if cell is not dead and index not in tried]
            yield


def _is_possible(cell: Cell) -> bool:
    """Whether the method takes the zoo and the options; if not, the cell fails at once."""
    config = cell.config
    try:
        # A run that has begun may have copied its unlabelled images, which may be gone; else training names them.
        unlabelled = None if cell.has_begun else cell.unlabelled
        check_before_work(config.method, Zoo.open(cell.zoo_folder), config.options, config.seed, unlabelled)
    except Exception as error:
        cell.fail(error)
        return False
    return True
