"""`metazoo zoo ...`."""

from argparse import Namespace

from rich.table import Table
from rich.text import Text

from metazoo.cli.output import print_table
from metazoo.data import load_images
from metazoo.errors import ZooError
from metazoo.run.memory import keep_freed_memory
from metazoo.zoo import TrainingRecipe, Zoo, build_zoo, group_rows, group_table, model_rows, model_table, verify_zoo


def build(options: Namespace) -> None:
    """Build models of one kind."""
    keep_freed_memory()
    images = load_images(options.data, side=options.input_size, images_per_class=options.images_per_class)
    zoo = build_zoo(
        options.out,
        images,
        options.arch,
        options.models,
        options.ways,
        options.seed,
        domain=options.domain,
        recipe=TrainingRecipe(
            epochs=options.epochs, batch_size=options.batch_size, learning_rate=options.learning_rate
        ),
        channels=options.channels,
        width=options.width,
        recovered_images=options.recovered_images,
        workers=options.workers,
        progress=True,
    )
    print_table(group_table(group_rows(zoo)))


def inspect(options: Namespace) -> None:
    """List the models."""
    zoo = Zoo.open(options.zoo)
    print_table(model_table(model_rows(zoo)))
    print_table(group_table(group_rows(zoo)))


def verify(options: Namespace) -> None:
    """Check every model; a ZooError if one is unsound."""
    zoo = Zoo.open(options.zoo)
    findings = verify_zoo(zoo)
    table = Table()
    for column in ("subject", "status", "finding"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        table.add_row(Text(finding.subject), finding.status, Text(finding.text))
    print_table(table)
    unsound = sum(finding.status == "problem" for finding in findings)
    if unsound:
        raise ZooError(f"unsound models in {options.zoo}: {unsound} of {len(zoo)}; the table says what to do")
    print(f"{options.zoo}: all {len(zoo)} models are sound")


def change(options: Namespace) -> None:
    """Change the contracts of models."""
    zoo = Zoo.open(options.zoo)
    names = options.names or [contract.name for contract in zoo]
    zoo.permit(names, options.recovered_images)
    print(f"{options.zoo}: recovered images are to {options.recovered_images}, of {', '.join(sorted(set(names)))}")


def remove(options: Namespace) -> None:
    """Take models out."""
    Zoo.open(options.zoo).remove(options.names)
    print(f"{options.zoo}: removed {', '.join(sorted(set(options.names)))}")
