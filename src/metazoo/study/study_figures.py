"""Figures of a study as SVG: accuracy against cost, and accuracy while learning."""

import base64
from dataclasses import dataclass

from metazoo.study.curves import read_curve
from metazoo.study.study_file import file_name
from metazoo.study.study_results import StudyResults, StudyTable


@dataclass(frozen=True)
class StudyFigure:
    """Figure of a study.

    Attributes:
        title: heading.
        caption: what it shows.
        svg: SVG text.
    """

    title: str
    caption: str
    svg: str

    @property
    def source(self) -> str:
        """Address with the figure in it, for a page."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg.encode()).decode()}"


def study_figures(results: StudyResults) -> dict[str, StudyFigure]:
    """Figures by file name: costs of tables with at least two finished rows, and curves of all rows that have some."""
    found: dict[str, StudyFigure] = {}
    for section in results.sections:
        words = "@".join(file_name(name) for name in (section.zoo, section.data) if name)
        for name, figure in (("cost", _cost_figure(results, section)), ("curves", _curve_figure(results, section))):
            if figure is not None:
                found[f"{name}-{words}.svg"] = figure
    return found


def _cost_figure(results: StudyResults, section: StudyTable) -> StudyFigure | None:
    from metazoo.report.figures import CostPoint, cost_figure  # matplotlib takes a second to import

    points = []
    for line in section.lines:
        costs = [results.cost_of(cell) for cell in line.cells if cell.is_finished]
        own = {shots: section.comparisons.get((line.label, shots)) for shots in results.study.protocol.shots}
        if line.head != line.cells[0].heads[0] or not costs or None in own.values():
            continue
        seconds = [
            cost.core_seconds if cost.training_core_seconds is None else cost.training_core_seconds for cost in costs
        ]
        accuracy = {shots: found.accuracy for shots, found in own.items() if found is not None}
        points.append(
            CostPoint(
                line.row.name,
                sum(seconds) / len(seconds) / 60,
                {shots: estimate.mean for shots, estimate in accuracy.items()},
                {shots: estimate.half_width for shots, estimate in accuracy.items()},
            )
        )
    if len(points) < 2:
        return None
    caption = (
        "Accuracy with the common head and its 95 % interval, against the core-minutes of training, with the recovery "
        "of images and without the training of the zoo. Cells of older versions count their evaluation too."
    )
    return StudyFigure(f"Accuracy against cost: {section.title}", caption, cost_figure(points))


def _curve_figure(results: StudyResults, section: StudyTable) -> StudyFigure | None:
    from metazoo.report.figures import curve_figure

    curves: dict[str, dict[int, list[tuple[int, float]]]] = {}
    for line in section.lines:
        values: dict[int, dict[int, list[float]]] = {}
        for cell in line.cells if line.head == line.cells[0].heads[0] else ():
            for point in read_curve(cell.folder):
                if point["data"] == section.data:
                    values.setdefault(point["shots"], {}).setdefault(point["step"], []).append(point["accuracy"])
        if values:
            curves[line.row.name] = {
                shots: [(step, sum(own) / len(own)) for step, own in sorted(by_step.items())]
                for shots, by_step in values.items()
            }
    if not curves:
        return None
    caption = "Accuracy while learning, on few episodes; mean over training seeds."
    return StudyFigure(f"Learning: {section.title}", caption, curve_figure(curves))
