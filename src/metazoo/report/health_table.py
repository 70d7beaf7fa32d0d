"""How well images were recovered, as a table."""

from typing import Any

from rich.table import Table
from rich.text import Text

from metazoo.report.wording import figure


def health_table(record: dict[str, Any]) -> Table:
    """One row a model; `record` is a run's `recovery.json`."""
    table = Table(
        title="Recovery",
        caption="recognised: share of its recovered images that the model takes for the class they were made for; "
        "batch norm: distance of their statistics from the stored ones, at the start of recovery and after it; -: it "
        "has none",
    )
    table.add_column("model", overflow="fold")
    for heading in ("images", "recognised", "batch norm at start", "after"):
        table.add_column(heading, justify="right")
    for row in record["teachers"]:
        start, end = (figure(row[name], 1) for name in ("batch_norm_distance_at_start", "batch_norm_distance"))
        table.add_row(Text(row["teacher"]), str(row["images"]), f"{100 * row['agreement']:.0f} %", start, end)
    return table
