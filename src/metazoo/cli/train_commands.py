"""`metazoo train` and `metazoo methods`."""

from argparse import Namespace

from rich.table import Table
from rich.text import Text

from metazoo.cli.output import print_sections, print_table
from metazoo.methods import METHODS
from metazoo.pipeline.layout import META_MODEL
from metazoo.runs.config import resolve_config, with_overrides
from metazoo.runs.train import train as train_run
from metazoo.zoo import Zoo


def methods(options: Namespace) -> None:
    """List the methods with their presets and requirements, or all options of one preset."""
    if options.method is not None or options.preset is not None:
        from metazoo.runs.option_list import options_text

        print(options_text(resolve_config(method=options.method, preset=options.preset)), end="")
        return
    table = Table()
    for column in ("method", "presets", "requires", "reference"):
        table.add_column(column)
    for method in METHODS:
        table.add_row(method.name, ", ".join(method.presets), str(method.requires), Text(method.reference))
    print_table(table)


def train(options: Namespace) -> None:
    """Learn a meta-model, or estimate its cost."""
    config = with_overrides(options.config, options.set or ())
    if options.plan:
        from metazoo.runs.plan import plan_run, plan_table

        plan = plan_run(
            options.zoo,
            options.method,
            out=options.out,
            preset=options.preset,
            config=config,
            workers=options.workers,
            threads=options.threads or 1,
            progress=True,
            resume=options.resume,
            unlabelled=options.unlabelled,
        )
        print_table(plan_table(plan))
        return
    zoo = Zoo.open(options.zoo)
    run = train_run(
        zoo,
        options.method,
        out=options.out,
        preset=options.preset,
        config=config,
        seed=options.seed,
        resume=options.resume,
        workers=options.workers,
        executor=options.executor,
        threads=options.threads,
        device=options.device,
        precision=options.precision,
        progress=True,
        images=options.images,
        reuse_images=options.reuse_images,
        unlabelled=options.unlabelled,
    )
    print_sections(run, zoo, about_models=False)
    print(f"{run.path}: meta-model in {run.path / META_MODEL}")
