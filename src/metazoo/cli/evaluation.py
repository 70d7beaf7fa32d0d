"""`metazoo evaluate`."""

from argparse import Namespace

from metazoo.cli.output import print_table
from metazoo.cli.subject import open_source
from metazoo.data import load_images
from metazoo.data.load import has_own_side
from metazoo.evaluate import evaluate as evaluate_subjects
from metazoo.evaluate import exclude_known, find_contamination, results_table
from metazoo.learn.heads import FeatureHead, get_head
from metazoo.run.compute import Compute
from metazoo.run.memory import keep_freed_memory
from metazoo.run.progress import Progress, message
from metazoo.run.signals import graceful
from metazoo.run.threads import torch_threads


def evaluate(options: Namespace) -> None:
    """Measure, print the table, write RESULT.json."""
    keep_freed_memory()
    source = open_source(options.subject)
    side = options.image_size or (None if has_own_side(options.data) else source.side())
    images = load_images(options.data, side=side, images_per_class=options.images_per_class)
    device = Compute.choose(options.device).device
    leaves_models_alone = options.batch_norm == "running" and isinstance(get_head(options.head), FeatureHead)
    in_turn_on = device if leaves_models_alone else None
    rows = source.table(in_turn_on=in_turn_on) if options.baselines else [source.subject(in_turn_on)]
    subjects = [row.on(device) for row in rows]
    contamination = find_contamination(images.class_names, source.class_lists(), source.selection_classes)
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
        print(f"{options.out}: {len(results)} results, with their episodes beside it")
