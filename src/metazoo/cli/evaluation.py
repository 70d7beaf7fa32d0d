"""`metazoo evaluate`."""

from argparse import Namespace

from metazoo.cli.output import print_table
from metazoo.cli.subject import open_source
from metazoo.data import load_images
from metazoo.evaluate import evaluate as evaluate_subjects
from metazoo.evaluate import results_table
from metazoo.run.memory import keep_freed_memory
from metazoo.run.progress import Progress
from metazoo.run.signals import graceful


def evaluate(options: Namespace) -> None:
    """Measure, print the table, write RESULT.json."""
    keep_freed_memory()
    source = open_source(options.subject)
    images = load_images(options.data, images_per_class=options.images_per_class)
    subjects = source.table() if options.baselines else [source.subject()]
    total = len(subjects) * len(options.shots) * options.episodes
    with graceful() as stop, Progress("evaluating", total) as bar:

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
            seed=options.seed,
            out=options.out,
            advance=advance,
        )
    print_table(results_table(results))
