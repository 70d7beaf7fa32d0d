"""The trust table of a run."""

from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from metazoo.methods.trust import TRUST
from metazoo.run.folder import RunFolder
from metazoo.training import Run


def trust_record(run: Path | str) -> dict[str, Any] | None:
    """What a run says of the models it has judged; None if it has not judged any.

    Raises:
        UsageError: it is no run.
        ArtefactError: the record is damaged.
    """
    folder = RunFolder(Run.open(run).path)
    return folder.read_json(TRUST) if folder.has(TRUST) else None


def trust_table(record: dict[str, Any]) -> Table:
    """One row a model, the least trusted first; doubtful ones are marked."""
    table = Table(
        title="Trust",
        caption="claims: others see the classes that this model's recovered images stand for; service: it sees those "
        f"of others; both from 0, chance, to 1; below a trust of {record['threshold']:g}: doubtful (!)",
    )
    table.add_column("model", overflow="fold")
    for heading in ("trust", "claims", "service"):
        table.add_column(heading, justify="right")
    for row in sorted(record["models"], key=lambda row: (row["score"], row["model"])):
        is_doubtful = row["model"] in record["doubtful"]
        score = Text(_figure(row["score"]) + (" !" if is_doubtful else ""), style="bold red" if is_doubtful else "")
        table.add_row(Text(row["model"]), score, _figure(row["claims"]), _figure(row["service"]))
    return table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
