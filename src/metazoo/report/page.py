"""Report of a run as one HTML file: its properties, accuracy, zoo, recovered images, groups and learning curves."""

import base64
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from metazoo.adapt import MetaModel
from metazoo.adapt.card_text import counted, images_note, images_used, meta_model_rows, summary
from metazoo.errors import ArtefactError, UsageError
from metazoo.evaluate import Result, read_contamination, read_results, results_table
from metazoo.evaluate.subjects import FIXED_BASELINES, ZOO_BASELINES
from metazoo.pipeline.layout import HEALTH, REPORT, sheet_of
from metazoo.report.run_tables import html_table
from metazoo.report.sections import IMAGES, sections_of
from metazoo.report.templates import MARK, rendered
from metazoo.report.zoo_tables import domain_rows, domain_table, model_rows, model_table
from metazoo.runs.config import RunConfig
from metazoo.runs.record import Run
from metazoo.storage.artefacts import read_bytes, write_text
from metazoo.storage.run_folder import RunFolder
from metazoo.text import printable
from metazoo.zoo import ModelContract, Zoo

_MOST_SHEETS = 24


def write_report(
    run: Run,
    out: Path | str | None = None,
    *,
    results: Sequence[Path | str] = (),
    zoo: Zoo | None = None,
    images: bool = True,
) -> Path:
    """Write the report of a run as one HTML file, which loads no other file and nothing from the network.

    The same run and results give the same file. The report of an unfinished run shows the stages that are complete.

    Args:
        run: run, finished or not.
        out: file to write; `report.html` in the run folder if None. An earlier report is replaced.
        results: result files of this run, written by `evaluate`. Rows of version 0.1, which do not identify what was
            measured, get a warning.
        zoo: zoo of the run with its current contracts; without it, the page lists no models and shows no images.
        images: whether to show recovered images of models whose contract allows it.

    Returns:
        Path of the page.

    Raises:
        UsageError: `out` exists and is not a report, `zoo` lacks a model of the run, or a result is of another run.
        ArtefactError: a file of the run or a result is missing or has changed, or `out` cannot be written.
    """
    out = run.path / REPORT if out is None else Path(out)
    _check_out(out)
    if zoo is not None:
        run.check_zoo(zoo)
        names = run.model_names()
        zoo = Zoo(zoo.folder, [contract for contract in zoo if contract.name in names or not names])
    config = run.config
    meta_model = run.meta_model if run.finished else None
    sheets = _sheets(run, zoo, images)
    shown = [_sheet(run, name) for name in sheets[:_MOST_SHEETS]]
    here = f"This page shows images of {counted(len(shown), 'model')}." if shown else "This page shows no images."
    content = {
        **_about(run, config, meta_model),
        **_models(run, zoo),
        "measured": [_measured(Path(path), run, meta_model) for path in results],
        "chapters": _chapters(run, zoo, shown),
        "more_sheets": len(sheets) - len(shown),
        "reveals": ""
        if zoo is None
        else images_note(
            config.as_record(), run.description, zoo, here, stored=not run.finished or run.record(HEALTH) is not None
        ),
    }
    write_text(out, rendered("report.html.j2", **content))
    return out


def _check_out(out: Path) -> None:
    if out.is_dir():
        raise UsageError(out, "is a folder", "give the path of an HTML file")
    if out.exists() and MARK.encode() not in read_bytes(out)[:2000]:
        raise UsageError(out, "exists and is not a metazoo report", "give another path")


def _about(run: Run, config: RunConfig, meta_model: MetaModel | None) -> dict[str, Any]:
    begun = run.description["zoo"]
    which = f"{counted(begun['models'], 'model')}, SHA-256 {begun['sha256']}"
    used = " and ".join(images_used(config.as_record(), run.description)) or "no training images"
    rows = []
    if meta_model is not None:
        reference = config.method.reference
        rows = meta_model_rows(meta_model.module, config.as_record(), run.description, reference=reference, zoo=which)
    machine = [*map(str, run.description.get("machine", {}).values()), run.description.get("device", "cpu")]
    return {
        "name": printable(run.path.resolve().name),
        "title": config.method.title,
        "summary": summary(begun["models"], used, run.description),
        "finished": meta_model is not None,
        "facts": [(name, printable(value)) for name, value in rows],
        "configuration": config.as_yaml(),
        "machine": ", ".join(machine),
    }


def _models(run: Run, zoo: Zoo | None) -> dict[str, Any]:
    return {
        "zoo": None if zoo is None else html_table(model_table(model_rows(zoo))),
        "domains": None if zoo is None else html_table(domain_table(domain_rows(zoo))),
        "zoo_path": printable(run.description["zoo"]["path"]),
    }


def _measured(path: Path, run: Run, meta_model: MetaModel | None) -> dict[str, Any]:
    from metazoo.report.figures import accuracy_figure  # matplotlib takes a second to import

    results, contamination = read_results(path), read_contamination(path)
    if not results:
        raise ArtefactError(path, "contains no result", "evaluate again")
    data = printable(results[0].image_set)
    warnings = [] if contamination is None else contamination.warnings(data)
    return {
        "heading": data,
        "table": html_table(results_table(results)),
        "figure": _embedded("svg+xml", accuracy_figure(results)),
        "warnings": [*_notes(path, results, run, meta_model), *warnings],
    }


def _notes(path: Path, results: Sequence[Result], run: Run, meta_model: MetaModel | None) -> list[str]:
    """Warnings about rows that may not belong to this run.

    Raises:
        UsageError: rows measure meta-models, but not the one of this run.
    """
    unchecked, other_zoos, other_runs = dict[str, None](), dict[str, None](), dict[str, None]()
    own = None if meta_model is None else meta_model.sha256
    for row in results:
        if row.method in FIXED_BASELINES:
            continue
        if row.subject_sha256 is None:
            unchecked[row.subject] = None
        elif row.method in ZOO_BASELINES and row.subject_sha256 != own:
            if row.subject_sha256 != run.description["zoo"]["sha256"]:
                other_zoos[row.subject] = None
        elif row.subject_sha256 != own:
            other_runs[row.subject] = None
    if other_runs and own not in {row.subject_sha256 for row in results}:
        raise UsageError(
            f"{path}, row {printable(next(iter(other_runs)))!r}",
            f"measures another meta-model than the one of {run.path}",
            "give results of this run",
        )
    sentences = {
        "Not checked, because the file does not identify what was measured": unchecked,
        "Measured on another zoo, or on the zoo of this run after a change": other_zoos,
        "From other runs, for comparison": other_runs,
    }
    return [f"{sentence}: {', '.join(map(printable, rows))}." for sentence, rows in sentences.items() if rows]


def _chapters(run: Run, zoo: Zoo | None, sheets: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Sections and recovered images, by the headings of their chapters."""
    chapters: dict[str, dict[str, Any]] = {}

    def chapter(name: str) -> dict[str, Any]:
        empty = {"heading": name, "warnings": [], "sheets": [], "sections": []}
        return chapters.setdefault(name, empty)

    if sheets:
        chapter(IMAGES)["sheets"] = sheets
    for section, content in sections_of(run, zoo):
        own = chapter(section.chapter or section.title)
        own["warnings"] += map(printable, content.warnings)
        shown = {
            "title": section.title if section.chapter else None,
            "text": content.text,
            "pictures": [
                {"image": _embedded("svg+xml", one.draw()), "alt": one.alt, "caption": one.caption}
                for one in content.pictures
            ],
            "tables": [html_table(table) for table in content.tables],
        }
        own["sections"].append(shown)
    return [*chapters.values()]


def _sheets(run: Run, zoo: Zoo | None, images: bool) -> list[str]:
    """Names of the models whose contact sheets may be shown."""
    folder, allowed = RunFolder(run.path), images and run.description.get("images", True)
    return [
        contract.name
        for contract in _in_turn(zoo or ())
        if allowed and contract.recovered_images == "show" and folder.has(sheet_of(contract.name))
    ]


def _sheet(run: Run, name: str) -> tuple[str, str]:
    content = read_bytes(run.path / sheet_of(name), RunFolder(run.path).sha256(sheet_of(name)))
    return printable(name), _embedded("png", content)


def _in_turn(contracts: Iterable[ModelContract]) -> list[ModelContract]:
    """Order contracts so that domains alternate: the first of each domain, then the second of each, and so on."""
    seen: Counter[str] = Counter()
    turns: list[tuple[int, ModelContract]] = []
    for contract in contracts:
        turns.append((seen[contract.domain], contract))
        seen[contract.domain] += 1
    return [contract for _, contract in sorted(turns, key=lambda turn: turn[0])]


def _embedded(kind: str, content: str | bytes) -> str:
    data = content.encode() if isinstance(content, str) else content
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
