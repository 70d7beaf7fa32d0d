"""Tables of a study, finished or not: Markdown, HTML and CSV from the same cells."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from metazoo.data.unlabelled import use_of_data
from metazoo.evaluate import Comparison, Result, read_contamination, read_results
from metazoo.report.notebook_tables import Parts, notebook_parts
from metazoo.report.run_tables import html_table
from metazoo.report.templates import rendered
from metazoo.storage.artefacts import write_text
from metazoo.study.curves import read_curve
from metazoo.study.study_figures import study_figures
from metazoo.study.study_file import Curve
from metazoo.study.study_results import StudyLine, StudyResults, StudyTable, head_text

TABLE, PAGE, SUMMARY, RESULTS, CURVES = "table.md", "table.html", "table.csv", "results.csv", "curves.csv"
_SIGNIFICANT = 0.05
_CAPTION = (
    "Accuracy in percent ± half-width of the 95 % interval, over training seeds and episodes where there are several "
    "seeds, otherwise over episodes only. {differences}Core-minutes: mean wall time of a cell times its workers, with "
    "the recovery of its images; memory: largest peak of a cell."
)
_DIFFERENCES = (
    "Differences are paired on the episodes; *: significant at 5 % after Holm's correction for the {count} comparisons "
    "of this table. "
)
_COLUMNS = ["row", "method", "preset", "zoo", "data", "seed", "head", "batch_norm", "mirrored", "transductive", "ways"]
_COLUMNS += ["shots", "queries", "episodes", "accuracy", "interval", "parameters", "seconds", "recovery_seconds"]
_COLUMNS += ["workers", "core_seconds", "training_core_seconds", "peak_memory", "known_classes", "unlabelled"]
_COLUMNS += ["validated", "known_images", "error", "subject_sha256", "episode_list_sha256"]
_CURVE_COLUMNS = ["row", "zoo", "seed", "data", "step", "shots", "head", "batch_norm", "episodes"]
_CURVE_COLUMNS += ["accuracy", "interval"]
_SUMMARY_COLUMNS = ["row", "zoo", "data", "head", "batch_norm", "ways", "shots", "seeds", "accuracy", "interval"]
_SUMMARY_COLUMNS += ["difference", "difference_interval", "p_value", "holm_p_value", "parameters", "seconds"]
_SUMMARY_COLUMNS += ["core_seconds", "peak_memory", "known_classes", "unlabelled", "validated", "known_images", "error"]


def study_tables(results: StudyResults) -> list[Table]:
    """Tables for a rich console."""
    return [_table(results, section) for section in results.sections]


def _table(results: StudyResults, section: StudyTable) -> Table:
    study, shots = results.study, results.study.protocol.shots
    differences = any(comparison.difference for comparison in section.comparisons.values())
    caption = _DIFFERENCES.format(count=len(section.p_values)) if differences else ""
    table = Table(title=Text(section.title), caption=Text(_CAPTION.format(differences=caption)))
    table.add_column("row", overflow="fold")
    table.add_column("head", overflow="fold")
    table.add_column("seeds", justify="right")
    for count in shots:
        table.add_column(f"{study.protocol.ways}-way {count}-shot", justify="right")
        if differences:
            table.add_column(f"against {study.reference_row}", justify="right")
    for heading in ("parameters", "core-minutes", "GB"):
        table.add_column(heading, justify="right")
    table.add_column("note", overflow="fold")
    for line in section.lines:
        cells: list[str] = []
        for count in shots:
            comparison = section.comparisons.get((line.label, count))
            cells.append(_accuracy(comparison))
            if differences:
                cells.append(_difference(comparison, section.p_values.get((line.label, count))))
        done = [cell for cell in line.cells if cell.is_finished]
        figures = ["", "", ""]
        if done:
            parameters = read_results(line.files[0])[0].parameters
            costs = [results.cost_of(cell) for cell in done]
            minutes = sum(cost.core_seconds for cost in costs) / len(costs) / 60
            figures = [f"{parameters:,}", f"{minutes:.1f}", f"{max(cost.memory for cost in costs) / 1e9:.1f}"]
        measured, total = len(line.files), len(line.cells)
        seeds = str(total) if measured == total else f"{measured}/{total}"
        table.add_row(Text(line.row.name), head_text(line.head), seeds, *cells, *figures, Text(_note(line)))
    return table


@notebook_parts.register
def _of_study(results: StudyResults) -> Parts:
    return [results.progress_line(), *study_tables(results)]


def _accuracy(comparison: Comparison | None) -> str:
    return "" if comparison is None else f"{comparison.accuracy.mean:.1f} ± {comparison.accuracy.half_width:.1f}"


def _difference(comparison: Comparison | None, p_value: float | None) -> str:
    if comparison is None or comparison.difference is None or p_value is None:
        return ""
    mark = "*" if p_value < _SIGNIFICANT else ""
    return f"{comparison.difference.mean:+.1f} ± {comparison.difference.half_width:.1f}{mark}"


def _note(line: StudyLine) -> str:
    errors = dict.fromkeys(cell.error for cell in line.cells if cell.error and not cell.is_finished)
    parts = [f"failed: {error}" for error in errors]
    if line.files:
        found = read_contamination(line.files[0])
        if found is not None and found.known:
            parts.insert(0, f"{len(found.known)} of {found.classes} classes known to models")
        seen = 0 if found is None else (found.unlabelled or 0) + (found.validated or 0)
        if seen:
            parts.insert(0, f"{seen:,} evaluated images among them")
        result = read_results(line.files[0])[0]
        used = use_of_data(result.unlabelled, result.validated)
        if used:
            parts.insert(0, f"{used}, not data-free")
        if result.transductive:
            parts.insert(0, "transductive")
    return "; ".join(parts)


def _known(path: Path) -> dict[str, Any]:
    """Numbers of evaluated classes that models were trained on, by name, of unlabelled images, and of evaluated ones
    among them, and 1 for use of labelled validation images; a number that is not known is absent."""
    found, result = read_contamination(path), read_results(path)[0]
    numbers = (
        {}
        if found is None
        else {"known_classes": len(found.known), "known_images": found.unlabelled or found.validated}
    )
    numbers |= {"unlabelled": result.unlabelled, "validated": 1 if result.validated else None}
    return {key: number for key, number in numbers.items() if number is not None}


def write_tables(out: Path, results: StudyResults) -> None:
    """Write `table.md`, `table.html`, `table.csv`, `results.csv`, the figures and, with a curve, `curves.csv`.

    Each is written completely or not at all.

    Raises:
        ArtefactError: a file cannot be written, or a result file is damaged.
    """
    tables = [html_table(table) for table in study_tables(results)]
    protocol, study = results.study.protocol, results.study
    paragraphs = [
        *([study.description] if study.description else []),
        f"{protocol.episodes} episodes per list (seed {protocol.seed}), {protocol.queries} queries per class; head "
        f"{protocol.head}, batch norm {protocol.batch_norm}{', mirrored' if protocol.mirror else ''}, unless another "
        f"head is named. {results.progress_line()}.",
    ]
    title = study.title or "Study"
    write_text(out / TABLE, _markdown(title, paragraphs, tables))
    figures = study_figures(results)
    for file, figure in figures.items():
        write_text(out / file, figure.svg)
    write_text(
        out / PAGE,
        rendered("study.html.j2", title=title, paragraphs=paragraphs, tables=tables, figures=figures.values()),
    )
    write_text(out / SUMMARY, _csv(_SUMMARY_COLUMNS, _summary_rows(results)))
    write_text(out / RESULTS, _csv(_COLUMNS, _result_rows(results)))
    if study.curve is not None:
        write_text(out / CURVES, _csv(_CURVE_COLUMNS, _curve_rows(results, study.curve)))


def _curve_rows(results: StudyResults, curve: Curve) -> list[dict[str, Any]]:
    common = {"head": curve.head or results.study.protocol.head}
    common |= {"batch_norm": curve.batch_norm, "episodes": str(curve.episodes)}
    return [
        common | {"row": cell.row.name, "zoo": cell.zoo, "seed": cell.seed} | {k: _number(v) for k, v in point.items()}
        for cell in results.cells
        for point in read_curve(cell.folder)
    ]


def _markdown(title: str, paragraphs: Sequence[str], tables: Sequence[dict[str, Any]]) -> str:
    parts = [f"# {title}", *paragraphs]
    for table in tables:
        marks = ["---:" if number else "---" for number in table["numbers"]]
        rows = [table["headings"], marks, *table["rows"]]
        parts += [
            f"## {table['title']}",
            "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in rows),
            table["caption"],
        ]
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("*", "\\*")


def _csv(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _summary_rows(results: StudyResults) -> list[dict[str, Any]]:
    rows = []
    for section in results.sections:
        for line in section.lines:
            done = [results.cost_of(cell) for cell in line.cells if cell.is_finished]
            base = {
                "row": line.row.name,
                "zoo": section.zoo,
                "data": section.data,
                "head": line.head.head,
                "batch_norm": line.head.batch_norm,
                "ways": results.study.protocol.ways,
                "seeds": len(line.files),
                "seconds": f"{sum(cost.seconds for cost in done) / len(done):.1f}" if done else "",
                "core_seconds": f"{sum(cost.core_seconds for cost in done) / len(done):.1f}" if done else "",
                "peak_memory": max((cost.memory for cost in done), default=""),
                "error": "; ".join(dict.fromkeys(cell.error or "" for cell in line.cells if not cell.is_finished)),
            }
            base |= _known(line.files[0]) if line.files else {}
            for shots in results.study.protocol.shots:
                found = section.comparisons.get((line.label, shots))
                figures: dict[str, Any] = {"shots": shots}
                if found is not None:
                    figures |= {"accuracy": found.accuracy.mean, "interval": found.accuracy.half_width}
                    figures["parameters"] = found.results[0].parameters
                if found is not None and found.difference is not None:
                    figures |= {"difference": found.difference.mean, "difference_interval": found.difference.half_width}
                    figures |= {"p_value": found.difference.p_value}
                    figures["holm_p_value"] = section.p_values[line.label, shots]
                rows.append(base | {key: _number(value) for key, value in figures.items()})
    return rows


def _number(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return f"{value:.4g}" if abs(value) < 0.01 else f"{value:.4f}"


def _result_rows(results: StudyResults) -> list[dict[str, Any]]:
    rows = []
    for cell in results.cells:
        cost = results.cost_of(cell)
        base = {"row": cell.row.name, "method": cell.row.method, "preset": cell.config.preset}
        base |= {"zoo": cell.zoo, "seed": cell.seed, "error": "" if cell.is_finished else cell.error or ""}
        base |= {"seconds": f"{cost.seconds:.1f}", "peak_memory": cost.memory}
        base |= {"workers": cost.workers, "core_seconds": f"{cost.core_seconds:.1f}"}
        if cost.training_core_seconds is not None:
            base["training_core_seconds"] = f"{cost.training_core_seconds:.1f}"
        if cost.recovery_seconds is not None:
            base["recovery_seconds"] = f"{cost.recovery_seconds:.1f}"
        measured = [
            {"data": data} | _known(path) | _figures(result)
            for data, _, path in cell.result_files
            if path.is_file()
            for result in read_results(path)
        ]
        rows += [base | figures for figures in measured]
        if not measured and cell.error:
            rows.append(base)
    return rows


def _figures(result: Result) -> dict[str, Any]:
    names = ("head", "batch_norm", "mirrored", "transductive", "ways", "shots", "queries", "episodes", "parameters")
    names += ("subject_sha256", "episode_list_sha256")
    figures = {name: getattr(result, name) for name in names}
    return figures | {"accuracy": f"{result.accuracy:.4f}", "interval": f"{result.interval:.4f}"}
