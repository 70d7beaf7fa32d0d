"""Printing to people: tables on standard output."""

import os
import sys

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from metazoo.execution.progress import message
from metazoo.report.sections import sections_of
from metazoo.runs.record import Run
from metazoo.zoo import Zoo

_WIDEST = 100_000


def print_table(table: Table) -> None:
    """Print a table: plain and as wide as it is, or fitted to the terminal if there is one."""
    terminal = sys.stdout.isatty() and os.environ.get("TERM", "") != "dumb"
    console = Console(width=None if terminal else _WIDEST, highlight=False, no_color=not terminal)
    if Measurement.get(console, console.options.update(width=_WIDEST), table).maximum > console.width:
        _tighten(table)
    console.print(table)


def _tighten(table: Table) -> None:
    """Spend the width on what is in the table: no frame, and only words are folded, numbers stay whole."""
    table.box, table.show_edge, table.padding = SIMPLE_HEAD, False, 0
    for column in table.columns:
        column.no_wrap = column.justify == "right"


def print_sections(run: Run, zoo: Zoo, *, about_models: bool) -> bool:
    """Print the tables of what a run has recorded, and its warnings to standard error; False if there are none.

    Args:
        run: a run on `zoo`.
        zoo: the models as they are now.
        about_models: whether to print what describes single models, or the rest.
    """
    contents = [content for _, content in sections_of(run, zoo, about_models=about_models)]
    for content in contents:
        for table in content.tables:
            print_table(table)
        for warning in content.warnings:
            message(f"warning: {warning}")
    return bool(contents)
