"""Sections of a report: what the records of a run have to show, on a page and on a terminal."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from metazoo.errors import MetazooError
from metazoo.features.embedders import recogniser_of
from metazoo.pipeline.audit_stage import kept_models
from metazoo.pipeline.layout import DISTANCE, GROUPING, HEALTH, METRICS, TRUST
from metazoo.plugins import Registry
from metazoo.report.run_tables import group_table, health_table, trust_table
from metazoo.runs.record import Run
from metazoo.storage.run_folder import RunFolder
from metazoo.taskspace import Partition
from metazoo.zoo import Zoo

IMAGES = "What was recovered"
"""The chapter beside whose sections a page shows recovered images."""


@dataclass(frozen=True)
class Picture:
    """A figure of a page: `draw` makes its SVG, `alt` says what it shows, `caption` stands below it."""

    draw: Callable[[], str]
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class SectionContent:
    """What a section shows, from top to bottom; warnings come first, pictures on a page alone."""

    warnings: Sequence[str] = ()
    text: str = ""
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Section:
    """How a record of a run is shown.

    Attributes:
        title: heading, different from those of other sections.
        record: name of the record in the run folder, see `metazoo.pipeline.layout`.
        content: makes the content from the stored record (of `metrics.jsonl`, its rows), the run and its zoo, which is
            None where it is not at hand; returns None if there is nothing to show.
        chapter: heading above the sections of one chapter, which follow each other; the title if None.
        about_models: whether it describes single models: `metazoo zoo inspect --run` prints it, and `train` does not.
    """

    title: str
    record: str
    content: Callable[[Any, Run, Zoo | None], SectionContent | None]
    chapter: str | None = None
    about_models: bool = False


SECTIONS: Registry[Section] = Registry("report section")


def register_section(section: Section) -> Section:
    """Add a section to every report; it comes after those that are there. Returns it.

    Raises:
        UsageError: another section has this title.
    """
    return SECTIONS.register(section.title, section)


def sections_of(
    run: Run, zoo: Zoo | None, *, about_models: bool | None = None
) -> Iterator[tuple[Section, SectionContent]]:
    """The sections for which `run` has a record, in the order of their registration.

    Args:
        run: begun or finished.
        zoo: zoo of the run; None if it is not at hand.
        about_models: limits them to those that describe single models, or that do not; None for all.

    Raises:
        ArtefactError: a record is missing or has changed.
    """
    with contextlib.suppress(MetazooError):
        _ = run.config  # which loads the method, and with it what its package registers
    for section in map(SECTIONS.get, SECTIONS.names()):
        if about_models in (None, section.about_models):
            record = run.record(section.record)
            content = None if record is None else section.content(record, run, zoo)
            if content is not None:
                yield section, content


def _of_record(table: Callable[[Any], Table]) -> Callable[[Any, Run, Zoo | None], SectionContent]:
    def content(record: Any, _run: Run, _zoo: Zoo | None) -> SectionContent:
        warning = record.get("warning")
        return SectionContent(tables=[table(record)], warnings=[warning] if warning else [])

    return content


def _groups(record: Any, run: Run, zoo: Zoo | None) -> SectionContent | None:
    if zoo is None:
        return None
    folder = RunFolder(run.path)
    kept, distance = kept_models(folder, zoo), folder.read_tensors(DISTANCE)["distance"]
    names = [contract.name for contract in kept]
    partition = Partition.from_record(record, names)

    def draw() -> str:
        from metazoo.report.figures import task_space_figure  # matplotlib takes a second to import

        return task_space_figure(distance, partition.groups, names, [contract.domain for contract in kept])

    picture = Picture(draw, "Map of the models and matrix of their dissimilarities")
    return SectionContent(
        text="Each model is a point given by the Fisher information of its task in a common probe network. Inside each "
        "group conflicting gradients are made to agree.",
        pictures=[picture] if len(kept) > 2 else [],
        tables=[group_table(kept, partition, distance)],
    )


def _learning(rows: Any, run: Run, _zoo: Zoo | None) -> SectionContent | None:
    recogniser = recogniser_of(run.meta_model.module) if run.finished else None
    names = {} if recogniser is None else {f"specialist-{n}": name for n, name in enumerate(recogniser.domains, 1)}
    curves: dict[str, list[dict[str, float]]] = {}
    for row in rows:
        if "loss" in row:
            curves.setdefault(names.get(row["stage"]) or str(row["stage"]), []).append(row)

    def draw() -> str:
        from metazoo.report.figures import learning_figure

        return learning_figure(curves)

    picture = Picture(
        draw,
        "Loss, agreement and change by regularisation over the steps",
        "A cosine of 1 means that the gradients of all models of a group agree, or that the group has one model. The "
        "change is the length of what regularisation adds to a group's mean gradient, relative to that gradient.",
    )
    return SectionContent(pictures=[picture]) if curves else None


register_section(Section("Recovery", HEALTH, _of_record(health_table), IMAGES, about_models=True))
register_section(Section("Trust", TRUST, _of_record(trust_table), IMAGES, about_models=True))
register_section(Section("Task space and groups", GROUPING, _groups))
register_section(Section("Learning", METRICS, _learning))
