"""`metazoo evaluate`."""

from argparse import Namespace

from metazoo.cli.output import print_table
from metazoo.cli.printable import printable
from metazoo.cli.subject import open_source
from metazoo.data import ImageSet, load_images
from metazoo.evaluate import evaluate as evaluate_subjects
from metazoo.evaluate import results_table
from metazoo.run.memory import keep_freed_memory
from metazoo.run.progress import Progress, message
from metazoo.run.signals import graceful


def evaluate(options: Namespace) -> None:
    """Measure, print the table, write RESULT.json."""
    keep_freed_memory()
    source = open_source(options.subject)
    is_pack = options.data.lower().endswith(".npz")
    side = options.image_size or (None if is_pack else source.side())
    images = load_images(options.data, side=side, images_per_class=options.images_per_class)
    _warn_of_known_classes(source.class_names(), images)
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
    if options.out is not None:
        print(f"{options.out}: {len(results)} results, with their episodes beside it")


def _warn_of_known_classes(known: set[str], images: ImageSet) -> None:
    shared = sorted(known.intersection(images.class_names))
    if shared:
        message(
            f"warning: {len(shared)} of {len(images.class_names)} classes of {images.name} have the name of a class "
            f"that a model of the zoo was trained on, such as {printable(shared[0])}; if they are the same, the "
            "accuracy says nothing of unseen classes"
        )
