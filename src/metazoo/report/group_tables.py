"""The group table of a run."""

from rich.table import Table
from rich.text import Text

from metazoo.methods.stages import DISTANCE, GROUPING
from metazoo.methods.trust import kept_models
from metazoo.run.folder import RunFolder
from metazoo.taskspace import Grouping, group_quality, group_rows
from metazoo.zoo import Zoo


def group_table(folder: RunFolder, zoo: Zoo) -> Table:
    """Which models of a run's zoo learn together, and how unlike they are."""
    zoo = kept_models(folder, zoo)
    names = [contract.name for contract in zoo]
    grouping = Grouping.from_record(folder.read_json(GROUPING), names)
    distance = folder.read_tensors(DISTANCE)["distance"]
    rows = group_rows(
        distance,
        grouping,
        names=names,
        domains=[contract.domain for contract in zoo],
        architectures=[contract.spec.architecture for contract in zoo],
    )
    quality = group_quality(distance, grouping)
    caption = "mean D: mean dissimilarity of the members in the task space"
    if quality.within_mean is not None and quality.between_mean is not None:
        caption += f"; {quality.within_mean:.4f} within groups, {quality.between_mean:.4f} between them"
    counted = "1 group" if len(rows) == 1 else f"{len(rows)} groups"
    table = Table(title=Text(f"{counted}, {grouping.strategy}"), caption=caption)
    for column in ("group", "members", "domains", "architectures"):
        table.add_column(column, overflow="fold")
    table.add_column("mean D", justify="right")
    for row in rows:
        mean = "-" if row.mean_distance is None else f"{row.mean_distance:.4f}"
        kinds = (_counts(row.domains), _counts(row.architectures))
        table.add_row(str(row.index + 1), Text("\n".join(row.members)), *kinds, mean)
    return table


def _counts(values: dict[str, int]) -> Text:
    return Text("\n".join(f"{count} {name}" for name, count in values.items()))
