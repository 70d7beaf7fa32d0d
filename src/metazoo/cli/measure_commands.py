"""`metazoo evaluate`, `compare` and `report`."""

import csv
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from metazoo.cli.feature_source import open_source
from metazoo.cli.output import print_table
from metazoo.data import UnlabelledImages, load_images
from metazoo.data.load import has_own_side
from metazoo.errors import MetazooError, UsageError
from metazoo.evaluate import Comparison, compare, comparison_table, exclude_known, find_contamination, results_table
from metazoo.evaluate import evaluate as evaluate_subjects
from metazoo.execution.compute import Compute
from metazoo.execution.progress import Progress, message
from metazoo.execution.signals import graceful
from metazoo.execution.threads import torch_threads
from metazoo.features.heads import FeatureHead, get_head
from metazoo.report import write_report
from metazoo.runs.record import Run
from metazoo.zoo import Zoo

_COLUMNS = ["row", "head", "batch_norm", "mirrored", "image_set", "unlabelled", "validated", "ways"]
_COLUMNS += [
    "shots",
    "episodes",
    "files",
    "accuracy",
    "interval",
    "lowest",
    "highest",
    "difference",
    "difference_interval",
]


def compare_results(options: Namespace) -> None:
    """Compare result files on the same episodes and print the table."""
    rows: dict[str, list[Path]] = {}
    for given in options.rows:
        name, files = _row(given)
        if name in rows:
            raise UsageError(f"row {name!r}", "two rows have this name", "name one of them with NAME=FILE")
        rows[name] = files
    comparisons = compare(rows, against=options.against)
    if options.format == "csv":
        _write_csv(comparisons)
    else:
        print_table(comparison_table(comparisons))


def _row(given: str) -> tuple[str, list[Path]]:
    """Name and files of `[NAME=]FILE[,FILE...]`; a single file name may contain `=` and commas."""
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
        kept = (comparison.name, first.head, first.batch_norm, first.mirrored, first.image_set, first.unlabelled or 0)
        kept += (int(first.validated), first.ways, first.shots)
        padding = [""] * (6 - len(figures))
        writer.writerow((*kept, first.episodes, len(values), *(f"{figure:.4f}" for figure in figures), *padding))


def evaluate(options: Namespace) -> None:
    """Evaluate, print the table and write RESULT.json."""
    source = open_source(options.subject, options.zoo)
    side = options.image_size or (None if has_own_side(options.data) else source.side())
    images = load_images(options.data, side=side, images_per_class=options.images_per_class)
    device = Compute.choose(options.device).device
    keeps_models = options.batch_norm == "running" and isinstance(get_head(options.head), FeatureHead)
    in_turn_on = device if keeps_models else None
    rows = source.table(in_turn_on=in_turn_on) if options.baselines else [source.subject(in_turn_on)]
    subjects = [row.on(device) for row in rows]
    contamination = find_contamination(images.class_names, source.class_lists())
    evaluated = UnlabelledImages(options.data, options.images_per_class)
    seen = {"unlabelled": source.count_unlabelled(evaluated), "validated": source.count_validated(evaluated)}
    contamination = contamination.model_copy(update=seen)
    if options.exclude_known:
        images, contamination = exclude_known(images, contamination, options.ways)
    for warning in contamination.warnings(images.name):
        message(f"warning: {warning}")
    total = len(subjects) * len(options.shots) * options.episodes
    with graceful() as stop, torch_threads(options.threads), Progress("evaluating", total) as bar:

        def advance(episodes: int) -> None:
            stop.check()
            bar.advance(episodes)

        results = evaluate_subjects(
            subjects,
            images,
            ways=options.ways,
            shots=options.shots,
            episodes=options.episodes,
            queries=options.queries,
            head=options.head,
            batch_norm=options.batch_norm,
            mirrored=options.mirror,
            domain=options.domain,
            seed=options.seed,
            out=options.out,
            overwrite=options.overwrite,
            contamination=contamination,
            advance=advance,
        )
    print_table(results_table(results))
    if options.out is not None:
        print(f"{options.out}: {len(results)} results, with accuracies per episode beside it")


def report(options: Namespace) -> None:
    """Write the HTML report of a run."""
    run = Run.open(options.run)
    zoo = _zoo_of(run) if options.zoo is None else Zoo.open(options.zoo)
    out = write_report(run, options.out, results=options.results, zoo=zoo, images=options.images)
    print(f"{out}: a report of {out.stat().st_size / 1e6:.1f} MB; open it in a browser")


def _zoo_of(run: Run) -> Zoo | None:
    # A finished run works without its zoo, which may be missing.
    try:
        return Zoo.open(run.description["zoo"]["path"])
    except MetazooError as error:
        message(f"note: the report omits models and images ({error}); give the zoo with --zoo")
        return None
