"""Printing to people: tables on standard output."""

import os
import sys

from rich.console import Console
from rich.table import Table


def print_table(table: Table) -> None:
    """Print a table; where standard output is no terminal it is plain and not cut to a width."""
    terminal = sys.stdout.isatty() and os.environ.get("TERM", "") != "dumb"
    Console(width=None if terminal else 160, highlight=False, no_color=not terminal).print(table)
