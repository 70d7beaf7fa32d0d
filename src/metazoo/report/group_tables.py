"""The group table of a run."""

from dataclasses import dataclass

from rich.table import Table
from rich.text import Text
from torch import Tensor

from metazoo.methods.stages import DISTANCE, GROUPING
from metazoo.methods.trust import kept_models
from metazoo.report.wording import counted, figure
from metazoo.run.folder import RunFolder
from metazoo.run_record import Run
from metazoo.taskspace import Grouping, group_quality, group_rows
from metazoo.zoo import Zoo


@dataclass(frozen=True, eq=False)
class GroupedModels:
    """The models that a run learns from, in the order of `distance` [n, n], and their groups."""

    zoo: Zoo
    grouping: Grouping
    distance: Tensor

    @classmethod
    def of(cls, run: Run, zoo: Zoo) -> "GroupedModels":
        """Those of a run that has grouped the models of `zoo`.

        Raises:
            ArtefactError: a file of the run is missing or has changed.
        """
        folder = RunFolder(run.path)
        kept = kept_models(folder, zoo)
        grouping = Grouping.from_record(folder.read_json(GROUPING), [contract.name for contract in kept])
        return cls(kept, grouping, folder.read_tensors(DISTANCE)["distance"])

    @property
    def names(self) -> list[str]:
        """Of the models."""
        return [contract.name for contract in self.zoo]

    @property
    def domains(self) -> list[str]:
        """Of the models."""
        return [contract.domain for contract in self.zoo]


def group_table(models: GroupedModels) -> Table:
    """Which models of a run learn together, and how unlike they are."""
    rows = group_rows(
        models.distance,
        models.grouping,
        names=models.names,
        domains=models.domains,
        architectures=[contract.spec.architecture for contract in models.zoo],
    )
    quality = group_quality(models.distance, models.grouping)
    caption = "mean D: mean dissimilarity of the members in the task space"
    if quality.within_mean is not None and quality.between_mean is not None:
        caption += f"; {quality.within_mean:.4f} within groups, {quality.between_mean:.4f} between them"
    table = Table(title=Text(f"{counted(len(rows), 'group')}, {models.grouping.strategy}"), caption=caption)
    for column in ("group", "members", "domains", "architectures"):
        table.add_column(column, overflow="fold")
    table.add_column("mean D", justify="right")
    for row in rows:
        kinds = (_counts(row.domains), _counts(row.architectures))
        table.add_row(str(row.index + 1), Text("\n".join(row.members)), *kinds, figure(row.mean_distance, 4))
    return table


def _counts(values: dict[str, int]) -> Text:
    return Text("\n".join(f"{count} {name}" for name, count in values.items()))
