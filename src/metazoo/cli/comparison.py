"""`metazoo compare`."""

import csv
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from metazoo.cli.output import print_table
from metazoo.errors import UsageError
from metazoo.evaluate import Comparison, compare, comparison_table

_COLUMNS = ["row", "head", "batch_norm", "mirrored", "image_set", "ways", "shots", "episodes", "files"]
_COLUMNS += ["accuracy", "interval", "lowest", "highest", "difference", "difference_interval"]


def compare_results(options: Namespace) -> None:
    """Read result files, pair their episodes, print the table."""
    rows: dict[str, list[Path]] = {}
    for given in options.rows:
        name, files = _row(given)
        if name in rows:
            raise UsageError(f"two rows are called {name!r}; name one of them, as NAME=FILE")
        rows[name] = files
    comparisons = compare(rows, against=options.against)
    if options.format == "csv":
        _write_csv(comparisons)
    else:
        print_table(comparison_table(comparisons))


def _row(given: str) -> tuple[str, list[Path]]:
    """Name and files of `[NAME=]FILE[,FILE...]`; a file may have such marks in its own name."""
    if Path(given).is_file():
        return Path(given).stem, [Path(given)]
    name, equals, listed = given.partition("=")
    files = [Path(file) for file in (listed if equals else given).split(",")]
    return name if equals else ", ".join(file.stem for file in files), files


def _write_csv(comparisons: Sequence[Comparison]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for comparison in comparisons:
        first, difference = comparison.results[0], comparison.difference
        values = [result.accuracy for result in comparison.results]
        figures = [comparison.accuracy.mean, comparison.accuracy.half_width, min(values), max(values)]
        figures += [] if difference is None else [difference.mean, difference.half_width]
        kept = (comparison.name, first.head, first.batch_norm, first.mirrored, first.image_set, first.ways, first.shots)
        padding = [""] * (6 - len(figures))
        writer.writerow((*kept, first.episodes, len(values), *(f"{figure:.4f}" for figure in figures), *padding))
