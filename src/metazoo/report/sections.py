"""Sections of a report: the records of a run, shown on a page and in a terminal."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from metazoo.errors import MetazooError
from metazoo.features.embedders import recogniser_of
from metazoo.pipeline.audit_stage import kept_models
from metazoo.pipeline.layout import CHOICE, DISTANCE, GROUPING, HEALTH, METRICS, TRUST, UNLABELLED
from metazoo.plugins import Registry
from metazoo.report.run_tables import choice_table, group_table, health_table, trust_table, unlabelled_table
from metazoo.runs.record import Run
from metazoo.storage.run_folder import RunFolder
from metazoo.taskspace import Partition
from metazoo.zoo import Zoo

IMAGES = "Recovered images"
"""Chapter in which a page shows recovered images."""


@dataclass(frozen=True)
class Picture:
    """Figure of a page.

    Attributes:
        draw: function that returns the SVG text.
        alt: alternative text.
        caption: text below the figure.
    """

    draw: Callable[[], str]
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class SectionContent:
    """Content of a section, from top to bottom. Warnings are shown first, and pictures only on a page."""

    warnings: Sequence[str] = ()
    text: str = ""
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Section:
    """Section of a report, which shows one record of a run.

    Attributes:
        title: unique heading.
        record: name of the record in the run folder; see `metazoo.pipeline.layout`.
        content: function from the stored record (the rows of `metrics.jsonl`), the run and its zoo (None if it is not
            available) to the content; it returns None if there is nothing to show.
        chapter: heading above all sections of the same chapter; the title if None.
        about_models: whether it describes single models, so that `metazoo zoo inspect --run` prints it instead of
            `metazoo train`.
    """

    title: str
    record: str
    content: Callable[[Any, Run, Zoo | None], SectionContent | None]
    chapter: str | None = None
    about_models: bool = False


SECTIONS: Registry[Section] = Registry("report section")


def register_section(section: Section) -> Section:
    """Add a section to every report, after the existing ones, and return it.

    Raises:
        UsageError: another section has the same title.
    """
    return SECTIONS.register(section.title, section)


def sections_of(
    run: Run, zoo: Zoo | None, *, about_models: bool | None = None
) -> Iterator[tuple[Section, SectionContent]]:
    """Sections for which a run has a record, in the order of registration, with their contents.

    Args:
        run: run, finished or not.
        zoo: zoo of the run; None if it is not available.
        about_models: selection of the sections that describe single models (True) or do not (False); None for all.

    Raises:
        ArtefactError: a record is missing or has changed.
    """
    with contextlib.suppress(MetazooError):
        _ = run.config  # loads the method, and with it the sections that its package registers
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
        text="Each model is embedded by the Fisher information of its task in a common probe network. Models are "
        "grouped by these embeddings, and learning reduces conflicts between the gradients in a group.",
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
        "Loss, gradient agreement and change by regularisation over the steps",
        "A cosine of 1 means that the gradients of all models in a group agree, or that the group has one model. The "
        "change is the norm of the term that regularisation adds to the mean gradient of a group, relative to the norm "
        "of that gradient.",
    )
    return SectionContent(pictures=[picture]) if curves else None


register_section(Section("Unlabelled images", UNLABELLED, _of_record(unlabelled_table)))
register_section(Section("Recovery", HEALTH, _of_record(health_table), IMAGES, about_models=True))
register_section(Section("Trust", TRUST, _of_record(trust_table), IMAGES, about_models=True))
register_section(Section("Task space and groups", GROUPING, _groups))
register_section(Section("Choice of models", CHOICE, _of_record(choice_table), about_models=True))
register_section(Section("Learning", METRICS, _learning))
