"""Tables that are printed, as what an HTML template needs of them."""

from dataclasses import dataclass

from rich.table import Table

from metazoo.run.printable import printable


@dataclass(frozen=True)
class HtmlTable:
    """Plain text of a table, not escaped; `numbers` says which columns are of numbers."""

    title: str
    caption: str
    headings: list[str]
    numbers: list[bool]
    rows: list[list[str]]


def html_table(table: Table) -> HtmlTable:
    """The text of a table whose cells are texts; lines within a cell stay lines."""
    columns = [[_text(cell) for cell in column.cells] for column in table.columns]
    return HtmlTable(
        title=_text(table.title or ""),
        caption=_text(table.caption or ""),
        headings=[_text(column.header) for column in table.columns],
        numbers=[column.justify == "right" for column in table.columns],
        rows=[list(row) for row in zip(*columns, strict=True)],
    )


def _text(cell: object) -> str:
    return "\n".join(printable(line) for line in str(cell).split("\n"))
