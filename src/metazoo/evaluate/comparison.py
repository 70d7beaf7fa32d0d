"""Paired comparison of results on the same episodes, over one or several training seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor

from metazoo.data.unlabelled import use_of_data
from metazoo.errors import UsageError
from metazoo.evaluate.intervals import Estimate, mean_interval, paired_difference
from metazoo.evaluate.results import Result, read_accuracies, read_results
from metazoo.evaluate.subjects import FIXED_BASELINES, ZOO_BASELINES
from metazoo.execution.progress import message

Task = tuple[int, int]
"""Ways and shots."""
_Measured = dict[Task, tuple[tuple[Result, ...], Tensor]]
"""Results of the files of a row and their accuracies [files, episodes], by task."""


@dataclass(frozen=True)
class Comparison:
    """Comparison of one row on one task.

    Attributes:
        name: name of the row.
        results: results, one per file (usually one file per training seed), which differ in accuracy only.
        accuracy: mean over the files in percent with its interval; see `metazoo.evaluate.intervals`.
        difference: difference from the reference row, paired on the episodes; None for the reference.
    """

    name: str
    results: tuple[Result, ...]
    accuracy: Estimate
    difference: Estimate | None

    @property
    def task(self) -> Task:
        """Ways and shots."""
        return self.results[0].ways, self.results[0].shots


def compare(rows: Mapping[str, Sequence[Path | str]], *, against: str | None = None) -> list[Comparison]:
    """Compare result files of `evaluate` on the same episodes.

    A warning names files that measure the same meta-model in the same way, because they are not different seeds.

    Args:
        rows: result files by name of the row: one file, or one per training seed. Files with several subjects give a
            row `NAME: SUBJECT` for each subject that all files have.
        against: name of the reference row. None stands for the last row of the first name.

    Returns:
        Comparisons by row, then by task.

    Raises:
        UsageError: no row, a duplicate name, an unknown row `against`, or files that were not measured on the same
            episodes in the same way.
        ArtefactError: a file is missing or damaged.
    """
    measured: dict[str, _Measured] = {}
    homes: dict[tuple[object, ...], Path] = {}
    first = None
    for name, files in rows.items():
        found = _rows_of(name, [Path(file) for file in files], homes)
        first = first or list(found)[-1]
        duplicate = next((own for own in found if own in measured), None)
        if duplicate is not None:
            raise UsageError(f"row {duplicate!r}", "name of two rows", "rename one of them")
        measured |= found
    if first is None:
        raise UsageError("compare", "nothing to compare", "give at least one result file")
    reference = against or first
    if reference not in measured:
        raise UsageError("--against", f"unknown row {reference!r}", f"choose one of {', '.join(measured)}")
    comparisons = []
    for name, by_task in measured.items():
        for task, (results, values) in by_task.items():
            base, of_base = measured[reference].get(task, (None, None))
            if base is None or of_base is None or results[0].episode_list_sha256 != base[0].episode_list_sha256:
                raise UsageError(
                    f"{name} and {reference}",
                    f"were not measured on the same {task[0]}-way {task[1]}-shot episodes",
                    "evaluate both with the same --data, --ways, --shots, --queries, --episodes and --seed",
                )
            difference = None if name == reference else paired_difference(values, of_base)
            comparisons.append(Comparison(name, results, mean_interval(values), difference))
    return comparisons


def _rows_of(name: str, files: Sequence[Path], homes: dict[tuple[object, ...], Path]) -> dict[str, _Measured]:
    if not files:
        raise UsageError(f"row {name!r}", "no result file", "give at least one")
    contents = [read_results(file) for file in files]
    subjects = dict.fromkeys(result.subject for result in contents[0])
    common = [own for own in subjects if all(any(result.subject == own for result in content) for content in contents)]
    if not common:
        raise UsageError(f"row {name!r}", "its files have no subject in common", "give files of the same subject")
    rows: dict[str, _Measured] = {}
    for subject in common:
        by_task: _Measured = {}
        of_files = [{(row.ways, row.shots): row for row in content if row.subject == subject} for content in contents]
        for task in of_files[0]:
            results = tuple(own[task] for own in of_files if task in own)
            if len(results) < len(files) or len({_way(result) for result in results}) > 1:
                raise UsageError(
                    f"row {name!r}",
                    f"its files were not measured in the same way on the same {task[0]}-way {task[1]}-shot episodes",
                    "give each file as a separate row",
                )
            values = [read_accuracies(file, result) for file, result in zip(files, results, strict=True)]
            by_task[task] = results, torch.stack(values)
        _warn_of_copies(files, next(iter(by_task.values()))[0], homes)
        rows[name if len(common) == 1 else f"{name}: {subject}"] = by_task
    return rows


def _way(result: Result) -> tuple[object, ...]:
    return (result.episode_list_sha256, result.head, result.batch_norm, result.mirrored, result.domain)


def _warn_of_copies(files: Sequence[Path], results: Sequence[Result], homes: dict[tuple[object, ...], Path]) -> None:
    for file, result in zip(files, results, strict=True):
        if result.subject_sha256 is None or result.method in ZOO_BASELINES | FIXED_BASELINES:
            continue
        other = homes.setdefault((result.subject_sha256, *_way(result)), file)
        if other is not file:
            message(
                f"warning: {other} and {file} measure the same meta-model in the same way; they are not different seeds"
            )


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Table for a rich console, one row per name, with accuracy and difference in percent for each task."""
    tasks = list(dict.fromkeys(comparison.task for comparison in comparisons))
    reference = next(comparison.name for comparison in comparisons if comparison.difference is None)
    files = {len(comparison.results) for comparison in comparisons}
    caption = (
        f"accuracy in percent and difference from {reference}, paired on the episodes, ± half-width of the 95 % "
        "interval; *: interval excludes zero"
    )
    if max(files) > 1:
        caption += "; rows with several files: mean, interval over training seeds and episodes, (lowest, highest)"
    if min(files) == 1:
        caption += "; rows with one file: interval over episodes, which does not cover the training seed"
    table = Table(caption=Text(caption))
    table.add_column("row", overflow="fold")
    table.add_column("measured by", overflow="fold")
    for ways, shots in tasks:
        table.add_column(f"{ways}-way {shots}-shot", justify="right")
        table.add_column("difference", justify="right")
    for name in dict.fromkeys(comparison.name for comparison in comparisons):
        own = {comparison.task: comparison for comparison in comparisons if comparison.name == name}
        cells = [cell for task in tasks for cell in (_accuracy(own.get(task)), _difference(own.get(task)))]
        table.add_row(Text(name), Text(_protocol(next(iter(own.values())).results[0])), *cells)
    return table


def _protocol(result: Result) -> str:
    domain = "" if result.domain is None else f", domain {result.domain}"
    used = use_of_data(result.unlabelled, result.validated)
    images = f", {used}" if used else ""
    return f"{result.head}, batch norm {result.batch_norm}{', mirrored' if result.mirrored else ''}{domain}{images}"


def _accuracy(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    text = f"{comparison.accuracy.mean:.1f} ± {comparison.accuracy.half_width:.1f}"
    values = [result.accuracy for result in comparison.results]
    return text if len(values) == 1 else f"{text} ({min(values):.1f}, {max(values):.1f})"


def _difference(comparison: Comparison | None) -> str:
    if comparison is None or comparison.difference is None:
        return ""
    difference = comparison.difference
    return f"{difference.mean:+.1f} ± {difference.half_width:.1f}{' *' if difference.excludes_zero else '  '}"
