"""Tables of the records of a run."""

from typing import Any

from rich.table import Table
from rich.text import Text
from torch import Tensor

from metazoo.adapt.card_text import counted, figure
from metazoo.data.unlabelled import label_free
from metazoo.taskspace import Partition, group_quality, group_rows
from metazoo.text import printable
from metazoo.zoo import Zoo


def group_table(zoo: Zoo, partition: Partition, distance: Tensor) -> Table:
    """Table of the groups of models with their mean dissimilarity, one row per group.

    Args:
        zoo: models that the run learns from.
        partition: groups of the indices of the models.
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
        caption += f"; {quality.within_mean:.4f} within groups, {quality.between_mean:.4f} between groups"
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


def unlabelled_table(record: dict[str, Any]) -> Table:
    """Table of the use of unlabelled images, in one row."""
    alone = record["share"] == 1
    table = Table(
        title=Text(label_free(record["images"])),
        caption="not data-free"
        + ("; no image was recovered, so trust was not estimated and all models count as one domain" if alone else ""),
    )
    for heading in ("images", "side", "share", "weighting"):
        table.add_column(heading, justify="left" if heading == "weighting" else "right")
    share = f"{100 * record['share']:g} %"
    table.add_row(f"{record['images']:,}", f"{record['side']} px", share, record["weighting"])
    return table


def health_table(record: dict[str, Any]) -> Table:
    """Table of the health of recovery, one row per model."""
    table = Table(
        title="Recovery",
        caption="recognised: share of the recovered images that the model assigns to the intended class; batch norm: "
        "distance of the batch-norm statistics of the images from the stored ones, before and after recovery; -: no "
        "batch norm",
    )
    table.add_column("model", overflow="fold")
    for heading in ("images", "recognised", "batch norm before", "after"):
        table.add_column(heading, justify="right")
    for row in record["teachers"]:
        start, end = (figure(row[name], 1) for name in ("batch_norm_distance_at_start", "batch_norm_distance"))
        table.add_row(Text(row["teacher"]), str(row["images"]), f"{100 * row['agreement']:.0f} %", start, end)
    return table


def html_table(table: Table) -> dict[str, Any]:
    """Content of a table for the page template, as plain text that is not escaped.

    `numbers` marks the columns that contain numbers.
    """
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
    """Table of the trust in models, one row per model, the least trusted first; doubtful models are marked."""
    table = Table(
        title="Trust",
        caption="recognised by others: how well other models recognise the classes of the images recovered from this "
        "model; recognises others: how well it recognises theirs; both from 0 (chance) to 1; trust: both together, "
        f"relative to the most trusted model; !: doubtful, below {record['threshold']:g}; -: no comparison possible",
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


def choice_table(record: dict[str, Any]) -> Table:
    """Table of the choice of models, one row per model, the least probable first."""
    table = Table(
        title=f"Choice of models, {record['strategy']}",
        caption=f"reward: accuracy on {record['reward']}; probability: that the model is drawn first, at the end of "
        f"the run, {100 / len(record['models']):.1f} % if all are alike; visits: refills of the memory with its images",
    )
    table.add_column("model", overflow="fold")
    for heading in ("probability", "visits"):
        table.add_column(heading, justify="right")
    for row in sorted(record["models"], key=lambda row: (row["probability"], row["model"])):
        table.add_row(Text(row["model"]), f"{100 * row['probability']:.1f} %", str(row["visits"]))
    return table
