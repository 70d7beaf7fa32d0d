"""`metazoo push`."""

from argparse import Namespace

from rich.table import Table
from rich.text import Text

from metazoo.cli.output import print_table
from metazoo.execution.progress import message
from metazoo.hub import push_bundle
from metazoo.text import printable


def push(options: Namespace) -> None:
    """Upload a bundle and print what was uploaded, or would be."""
    pushed = push_bundle(
        options.bundle,
        options.repository,
        private=options.private,
        revision=options.revision,
        results=options.results or (),
        dry_run=options.dry_run,
    )
    table = Table("file", "bytes", "SHA-256")
    table.columns[1].justify = "right"
    for file in pushed.files:
        table.add_row(Text(file.name), f"{file.size:,}", file.sha256)
    print_table(table)
    for name, reason in pushed.left_out.items():
        print(f"not uploaded: {printable(name)}{f' ({reason})' if reason else ''}")
    for note in pushed.notes:
        message(f"note: {note}")
    if pushed.origin is None:
        print(f"{pushed.repository}: nothing was uploaded (--dry-run)")
    else:
        print(f"{pushed.origin}: uploaded")
