"""Tables of what a run has recorded."""

from typing import Any

from rich.table import Table
from rich.text import Text
from torch import Tensor

from metazoo.adapt.card_text import counted, figure
from metazoo.taskspace import Partition, group_quality, group_rows
from metazoo.text import printable
from metazoo.zoo import Zoo


def group_table(zoo: Zoo, partition: Partition, distance: Tensor) -> Table:
    """One row for each group of models, with their mean dissimilarity.

    Args:
        zoo: models that a run learns from.
        partition: groups of their indices.
        distance: dissimilarities, float [models, models].
    """
    rows = group_rows(
        distance,
        partition,
        names=[contract.name for contract in zoo],
        domains=[contract.domain for contract in zoo],
        architectures=[contract.spec.architecture for contract in zoo],
    )
    quality = group_quality(distance, partition)
    caption = "mean D: mean dissimilarity of the members in the task space"
    if quality.within_mean is not None and quality.between_mean is not None:
        caption += f"; {quality.within_mean:.4f} within groups, {quality.between_mean:.4f} between them"
    table = Table(title=Text(f"{counted(len(rows), 'group')}, {partition.strategy}"), caption=caption)
    for column in ("group", "members", "domains", "architectures"):
        table.add_column(column, overflow="fold")
    table.add_column("mean D", justify="right")
    for row in rows:
        names = Text("\n".join(row.members))
        counts = (_counts(row.domains), _counts(row.architectures))
        table.add_row(str(row.index + 1), names, *counts, figure(row.mean_distance, 4))
    return table


def _counts(values: dict[str, int]) -> Text:
    return Text("\n".join(f"{count} {name}" for name, count in values.items()))


def health_table(record: dict[str, Any]) -> Table:
    """One row for each model."""
    table = Table(
        title="Recovery",
        caption="recognised: share of its recovered images that the model assigns to the class they were made for; "
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


def html_table(table: Table) -> dict[str, Any]:
    """Plain text of a table for a template, not escaped; `numbers` are the columns of numbers."""
    columns = [[_text(cell) for cell in column.cells] for column in table.columns]
    return {
        "title": _text(table.title or ""),
        "caption": _text(table.caption or ""),
        "headings": [_text(column.header) for column in table.columns],
        "numbers": [column.justify == "right" for column in table.columns],
        "rows": list(zip(*columns, strict=True)),
    }


def _text(cell: object) -> str:
    return "\n".join(printable(line) for line in str(cell).split("\n"))


def trust_table(record: dict[str, Any]) -> Table:
    """One row for each model, the least trusted first; doubtful ones are marked."""
    table = Table(
        title="Trust",
        caption="recognised by others: other models see the classes that this model's recovered images stand for; "
        "recognises others: it sees those of other models; both from 0, chance, to 1; trust: both, relative to the "
        f"most trusted model; below {record['threshold']:g}: doubtful (!); -: nobody could judge",
    )
    table.add_column("model", overflow="fold")
    for heading in ("trust", "recognised by others", "recognises others"):
        table.add_column(heading, justify="right")
    for row in sorted(record["models"], key=lambda row: (row["score"], row["model"])):
        is_doubtful = row["model"] in record["doubtful"]
        is_judged = row["claims"] is not None or row["service"] is not None
        score = Text(figure(row["score"] if is_judged else None, 2), style="bold red" if is_doubtful else "")
        score.append(" !" if is_doubtful else "")
        table.add_row(Text(row["model"]), score, figure(row["claims"], 2), figure(row["service"], 2))
    return table
