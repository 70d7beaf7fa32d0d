"""Tables on standard output."""

import os
import sys

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

_WIDEST, _WIDTH_IN_A_PIPE = 100_000, 100


def print_table(table: Table) -> None:
    """Print a table, fitted to the terminal; without one, to COLUMNS or 100 characters."""
    terminal = sys.stdout.isatty() and os.environ.get("TERM", "") != "dumb"
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdecimal() and int(columns) else _WIDTH_IN_A_PIPE
    console = Console(width=None if terminal else width, highlight=False, no_color=not terminal)
    if Measurement.get(console, console.options.update(width=_WIDEST), table).maximum > console.width:
        _tighten(table, console)
    console.print(table)


def _tighten(table: Table, console: Console) -> None:
    """Remove the frame, and wrap words, except for numbers and short names in the first column."""
    table.box, table.show_edge, table.padding = SIMPLE_HEAD, False, 0
    for column in table.columns:
        column.no_wrap = column.justify == "right"
    first = table.columns[0]
    names = [Measurement.get(console, console.options, cell).maximum for cell in first.cells]
    first.no_wrap = max(names) <= console.width // 3
