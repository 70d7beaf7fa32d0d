"""The selection table of a run."""

from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from metazoo.methods.selection import SELECTION
from metazoo.run.folder import RunFolder
from metazoo.training import Run


def selection_record(run: Path | str) -> dict[str, Any] | None:
    """What a run says of the models that it has selected; None if it has selected none.

    Raises:
        UsageError: it is no run.
        ArtefactError: the record is damaged.
    """
    folder = RunFolder(Run.open(run).path)
    return folder.read_json(SELECTION) if folder.has(SELECTION) else None


def selection_table(record: dict[str, Any]) -> Table:
    """One row a model, the least likely first."""
    seen = record["validation"]
    table = Table(
        title="Selection",
        caption="chance that a single model drawn at the end of the run were this one; learned from the accuracy on "
        f"{seen['images']} labelled images ({seen['accuracy']:.1f} % at the end), so the run is not data-free",
    )
    table.add_column("model", overflow="fold")
    table.add_column("chance", justify="right")
    for row in sorted(record["models"], key=lambda row: (row["probability"], row["model"])):
        table.add_row(Text(row["model"]), f"{100 * row['probability']:.1f} %")
    return table
