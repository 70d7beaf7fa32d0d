"""Results of a study, finished or not: accuracies, paired comparisons and costs of its cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from metazoo.evaluate import Comparison, compare, holm
from metazoo.notebook import ShownInNotebook
from metazoo.study.cells import Cell, image_makers
from metazoo.study.cost import Cost
from metazoo.study.study_file import OwnHead, Row, StudyFile


@dataclass(frozen=True)
class StudyLine:
    """Line of a table: a row with one head on one zoo and image set.

    Attributes:
        label: name of the row, with the head if it is the row's own.
        row: row of the study.
        cells: all cells of the line.
        files: result files of its finished cells.
    """

    label: str
    row: Row
    head: OwnHead
    cells: list[Cell]
    files: list[Path]


@dataclass(frozen=True)
class StudyTable:
    """Table of one zoo and one image set.

    Attributes:
        zoo: name of the zoo.
        data: name of the image set; empty if the study has one.
        lines: lines of the table, in the order of the study.
        comparisons: comparisons by label and number of shots, for lines with a finished cell.
        p_values: p-values of the differences after Holm's correction, by label and number of shots.
    """

    zoo: str
    data: str
    lines: list[StudyLine]
    comparisons: dict[tuple[str, int], Comparison]
    p_values: dict[tuple[str, int], float]

    @property
    def title(self) -> str:
        """Zoo and image set."""
        return f"{self.zoo}, measured on {self.data}" if self.data else self.zoo


@final
class StudyResults(ShownInNotebook):
    """Results of a study so far.

    Attributes:
        study: the study.
        cells: all cells, finished or not.
        sections: tables, one per zoo and image set.
    """

    def __init__(self, study: StudyFile, cells: Sequence[Cell], sections: Sequence[StudyTable]) -> None:
        self.study, self.cells, self.sections = study, tuple(cells), tuple(sections)
        makers = image_makers(cells)
        self._costs = {cell.folder: _cost(cell, makers[cell.folder]) for cell in cells}

    @classmethod
    def read(cls, study: StudyFile, cells: Sequence[Cell]) -> "StudyResults":
        """Read the results of all finished cells.

        Raises:
            ArtefactError: a result file is damaged.
        """
        pairs = [(zoo, data) for zoo in study.zoos for data in study.data_of(zoo)]
        return cls(study, cells, [_study_table(study, cells, zoo, data) for zoo, data in pairs])

    @property
    def finished(self) -> bool:
        """Whether every cell is measured."""
        return all(cell.is_finished for cell in self.cells)

    @property
    def errors(self) -> dict[str, str]:
        """Errors of failed cells, by row, zoo and seed in words."""
        return {cell.label: cell.error or "" for cell in self.cells if cell.error and not cell.is_finished}

    def progress_line(self) -> str:
        """Numbers of finished and failed cells."""
        done, failed = sum(cell.is_finished for cell in self.cells), len(self.errors)
        return f"{done} of {len(self.cells)} cells measured" + (f", {failed} failed" if failed else "")

    def cost_of(self, cell: Cell) -> Cost:
        """Cost of a cell, with the recovery of images that another cell has made for it."""
        return self._costs[cell.folder]


def _cost(cell: Cell, maker: Cell | None) -> Cost:
    own = cell.cost
    return own if maker is None or not own.reused else own.with_recovery_of(maker.cost)


def _study_table(study: StudyFile, cells: Sequence[Cell], zoo: str, data: str) -> StudyTable:
    lines = []
    for row in study.rows:
        own = [cell for cell in cells if cell.zoo == zoo and cell.row == row]
        for head in own[0].heads if own else []:
            label = row.name if head == own[0].heads[0] else f"{row.name} ({head_text(head)})"
            paths = [cell.result_file(data, head) for cell in own]
            lines.append(StudyLine(label, row, head, own, [path for path in paths if path.is_file()]))
    measured = {line.label: line.files for line in lines if line.files}
    comparisons: dict[tuple[str, int], Comparison] = {}
    if measured:
        reference = study.reference_row if study.reference_row in measured else None
        for found in compare(measured, against=reference or next(iter(measured))):
            kept = found if reference is not None else Comparison(found.name, found.results, found.accuracy, None)
            comparisons[found.name, found.results[0].shots] = kept
    differing = {key: found.difference for key, found in comparisons.items() if found.difference is not None}
    adjusted = holm([difference.p_value for difference in differing.values()])
    return StudyTable(zoo, data, lines, comparisons, dict(zip(differing, adjusted, strict=True)))


def head_text(head: OwnHead) -> str:
    """Head and batch-norm mode in words."""
    return head.head if head.batch_norm == "running" else f"{head.head}, batch norm {head.batch_norm}"
