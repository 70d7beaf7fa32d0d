"""What a run says of the models that it has judged or selected, as tables."""

from typing import Any

from rich.table import Table
from rich.text import Text

from metazoo.report.wording import figure


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
        score = Text(figure(row["score"] if is_judged else None, 2), style="bold red" if is_doubtful else "")
        score.append(" !" if is_doubtful else "")
        table.add_row(Text(row["model"]), score, figure(row["claims"], 2), figure(row["service"], 2))
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
