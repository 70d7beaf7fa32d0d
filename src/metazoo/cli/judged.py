"""What a run says of the models that it has judged or selected, as tables."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from metazoo.errors import UsageError
from metazoo.run.folder import RunFolder
from metazoo.run.progress import message
from metazoo.training import Run
from metazoo.zoo import Zoo


def check_zoo_of(run: Path | str, zoo: Zoo, records: Iterable[dict[str, Any]]) -> None:
    """See that a run, whose `records` on models are given, is of `zoo`, which may have changed since.

    Raises:
        UsageError: it is no run, or one of other models.
        ArtefactError: the run's description is damaged.
    """
    begun = Run.open(run).description["zoo"]
    if begun["sha256"] == zoo.sha256:
        return
    judged = {row["model"] for record in records for row in record["models"]}
    lacking = sorted(judged - {contract.name for contract in zoo})
    if lacking:
        raise UsageError(
            f"{run} is of another zoo: {zoo.folder} has no model {lacking[0]!r}; give that of the run, {begun['path']}"
        )
    message(f"note: {zoo.folder} is not as {run} began with; what it says of the models may no longer hold")


def stored_in(run: Path | str, record: str) -> dict[str, Any] | None:
    """The record of that name (`TRUST`, `SELECTION`) in a run; None if it has none.

    Raises:
        UsageError: it is no run.
        ArtefactError: the record is damaged.
    """
    folder = RunFolder(Run.open(run).path)
    return folder.read_json(record) if folder.has(record) else None


def trust_table(record: dict[str, Any]) -> Table:
    """One row a model, the least trusted first; doubtful ones are marked."""
    table = Table(
        title="Trust",
        caption="claims: others see the classes that this model's recovered images stand for; service: it sees those "
        f"of others; both from 0, chance, to 1; trust: both, relative to the most trusted model; below "
        f"{record['threshold']:g}: doubtful (!); -: nobody could judge",
    )
    table.add_column("model", overflow="fold")
    for heading in ("trust", "claims", "service"):
        table.add_column(heading, justify="right")
    for row in sorted(record["models"], key=lambda row: (row["score"], row["model"])):
        is_doubtful = row["model"] in record["doubtful"]
        is_judged = row["claims"] is not None or row["service"] is not None
        score = Text(_figure(row["score"] if is_judged else None), style="bold red" if is_doubtful else "")
        score.append(" !" if is_doubtful else "")
        table.add_row(Text(row["model"]), score, _figure(row["claims"]), _figure(row["service"]))
    return table


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


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
