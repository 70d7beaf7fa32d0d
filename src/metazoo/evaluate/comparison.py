"""Comparing what was measured on the same episodes: differences in pairs, over one or several training seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor

from metazoo.errors import UsageError
from metazoo.evaluate.intervals import Estimate, mean_interval, paired_difference
from metazoo.evaluate.results import Result, read_accuracies, read_results

Task = tuple[int, int]
"""Ways and shots."""
_Measured = dict[Task, tuple[tuple[Result, ...], Tensor]]
"""Of one row by task: the result of each file, and the mean of their accuracies on each episode."""


@dataclass(frozen=True)
class Comparison:
    """One row on one task.

    Attributes:
        name: of the row.
        results: of each file, most often one a training seed; they agree in all but the accuracy.
        accuracy: mean over the files, in percent, with the interval over episodes.
        difference: to the row that all are compared with, paired on the episodes; None of that row itself.
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
    """Compare result files that `evaluate` wrote, on the same episodes.

    Args:
        rows: names, each with the files of one way to learn: one, or several of different training seeds, whose
            accuracies are averaged episode by episode. A file of several subjects gives a row for each of them that
            all its fellows have, `NAME: SUBJECT`.
        against: the row that all others are compared with; the last one of the first name if None.

    Returns:
        Row after row, in each by task.

    Raises:
        UsageError: no row, two of one name, no row `against`, or files that were not measured on the same episodes or
            in one way.
        ArtefactError: a file is missing or damaged.
    """
    measured: dict[str, _Measured] = {}
    first = None
    for name, files in rows.items():
        found = _rows_of(name, [Path(file) for file in files])
        first = first or list(found)[-1]
        twice = next((own for own in found if own in measured), None)
        if twice is not None:
            raise UsageError(f"two rows are called {twice!r}; give one of them another name")
        measured |= found
    if first is None:
        raise UsageError("nothing to compare; give at least one result file")
    reference = against or first
    if reference not in measured:
        raise UsageError(f"there is no row {reference!r} to compare with; choose one of {', '.join(measured)}")
    comparisons = []
    for name, by_task in measured.items():
        for task, (results, values) in by_task.items():
            base, of_base = measured[reference].get(task, (None, None))
            if base is None or of_base is None or results[0].episode_list_sha256 != base[0].episode_list_sha256:
                raise UsageError(
                    f"{name} and {reference} were not measured on the same {task[0]}-way {task[1]}-shot episodes; "
                    "evaluate both with the same --data, --ways, --shots, --queries, --episodes and --seed"
                )
            difference = None if name == reference else paired_difference(values, of_base)
            comparisons.append(Comparison(name, results, mean_interval(values), difference))
    return comparisons


def _rows_of(name: str, files: Sequence[Path]) -> dict[str, _Measured]:
    """Of every subject that all files have: by task the results, and the mean accuracy of each episode."""
    if not files:
        raise UsageError(f"{name} has no result file; give at least one")
    contents = [read_results(file) for file in files]
    subjects = dict.fromkeys(result.subject for result in contents[0])
    common = [own for own in subjects if all(any(result.subject == own for result in content) for content in contents)]
    if not common:
        raise UsageError(f"the files of {name} have no subject in common; compare files of the same subject")
    rows: dict[str, _Measured] = {}
    for subject in common:
        by_task: _Measured = {}
        of_files = [{(row.ways, row.shots): row for row in content if row.subject == subject} for content in contents]
        for task in of_files[0]:
            results = tuple(own[task] for own in of_files if task in own)
            if len(results) < len(files) or len({_way(result) for result in results}) > 1:
                raise UsageError(
                    f"the files of {name} were not measured in one way on the same {task[0]}-way {task[1]}-shot "
                    "episodes; they can be rows of their own, but no mean"
                )
            values = [read_accuracies(file, result) for file, result in zip(files, results, strict=True)]
            by_task[task] = results, torch.stack(values).mean(0)
        rows[name if len(common) == 1 else f"{name}: {subject}"] = by_task
    return rows


def _way(result: Result) -> tuple[object, ...]:
    return (result.episode_list_sha256, result.head, result.batch_norm, result.mirrored, result.domain)


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """One row a name; for each task the accuracy and the difference, in percent; for a rich console."""
    tasks = list(dict.fromkeys(comparison.task for comparison in comparisons))
    reference = next(comparison.name for comparison in comparisons if comparison.difference is None)
    several = any(len(comparison.results) > 1 for comparison in comparisons)
    caption = (
        f"accuracy in percent and difference to {reference}, paired on the episodes, ± half-width of the 95 % interval "
        "over episodes; *: zero lies outside"
    )
    if several:
        caption += "; of several files the mean, in brackets the lowest and highest, whose luck no interval covers"
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
    told = "" if result.domain is None else f", told {result.domain}"
    return f"{result.head}, batch norm {result.batch_norm}{', mirrored' if result.mirrored else ''}{told}"


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
