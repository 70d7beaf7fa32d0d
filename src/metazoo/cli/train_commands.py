"""`metazoo train` and `metazoo methods`."""

import json
from argparse import Namespace
from dataclasses import asdict

from rich.table import Table
from rich.text import Text

from metazoo.cli.output import print_table
from metazoo.cli.run_output import print_sections
from metazoo.methods import list_methods
from metazoo.methods.overview import methods_markdown
from metazoo.pipeline.layout import META_MODEL
from metazoo.runs.config import resolve_config, with_overrides
from metazoo.runs.train import train as train_run
from metazoo.zoo import Zoo


def methods(options: Namespace) -> None:
    """List the methods with what each needs, takes and gives, or all options of one preset."""
    if options.method is not None or options.preset is not None:
        from metazoo.runs.option_list import options_text

        print(options_text(resolve_config(method=options.method, preset=options.preset)), end="")
        return
    if options.format == "markdown":
        print(methods_markdown())
        return
    overviews = list_methods()
    if options.format == "json":
        print(json.dumps([asdict(overview) for overview in overviews], indent=2, ensure_ascii=False))
        return
    rows = [overview.cells() for overview in overviews]
    table = Table()
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(Text, row.values()))
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
        track=options.track or (),
    )
    print_sections(run, zoo, about_models=False)
    print(f"{run.path}: meta-model in {run.path / META_MODEL}")
