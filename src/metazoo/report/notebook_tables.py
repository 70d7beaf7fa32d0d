"""Tables of zoos, runs, results, classifiers and predictions in notebooks."""

from collections.abc import Sequence
from functools import singledispatch

from rich.table import Table
from rich.text import Text

from metazoo.adapt import FewShotClassifier, MetaModel, Prediction
from metazoo.adapt.card import classifier_rows
from metazoo.adapt.card_text import images_used, network_rows, summary
from metazoo.errors import MetazooError
from metazoo.evaluate import Result, Results, results_table
from metazoo.notebook import ShownInNotebook
from metazoo.report.run_tables import html_table
from metazoo.report.sections import sections_of
from metazoo.report.templates import rendered
from metazoo.report.zoo_tables import domain_rows, domain_table, model_rows, model_table
from metazoo.runs.record import Run
from metazoo.text import printable, some_of
from metazoo.zoo import Zoo

_MOST_ROWS = 200
_MOST_CLASSES = 5

Parts = Sequence[str | Table]
"""Texts and tables from top to bottom."""


def html_of(value: ShownInNotebook) -> str:
    """HTML of an object for a notebook. Names from outside are escaped; there are no scripts, images and links.

    Raises:
        MetazooError: a file of the object is missing or has changed.
    """
    parts = notebook_parts(value)
    return rendered(
        "notebook.html.j2", parts=[printable(part) if isinstance(part, str) else html_table(part) for part in parts]
    )


@singledispatch
def notebook_parts(value: ShownInNotebook) -> Parts:
    """Texts and tables of an object; other packages may register their own classes."""
    return [repr(value)]


@notebook_parts.register
def _of_zoo(zoo: Zoo) -> Parts:
    return [repr(zoo), *([domain_table(domain_rows(zoo)), model_table(model_rows(zoo))] if len(zoo) else [])]


@notebook_parts.register
def _of_run(run: Run) -> Parts:
    config, description, zoo = run.config, run.description, None
    try:
        zoo = Zoo.open(description["zoo"]["path"])
        run.check_zoo(zoo)
    except MetazooError:
        zoo = None  # a finished run works without its zoo; the table of groups is left out
    rows = [("run", str(run.path)), ("method", f"{config.method.title}; preset {config.preset}, seed {config.seed}")]
    rows.append(("state", "finished" if run.finished else "not finished; continue it with resume=True"))
    rows += network_rows(run.meta_model.module) if run.finished else []
    used = " and ".join(images_used(config.as_record(), description)) or "no training images"
    parts: list[str | Table] = [summary(description["zoo"]["models"], used, description), _facts(rows)]
    for _, content in sections_of(run, zoo):
        parts += [f"Warning: {warning}" for warning in content.warnings]
        parts += content.tables
    return parts


@notebook_parts.register
def _of_results(results: Results) -> Parts:
    return [results_table(results)] if results else ["no results"]


@notebook_parts.register
def _of_result(result: Result) -> Parts:
    return [results_table([result])]


@notebook_parts.register
def _of_meta_model(model: MetaModel) -> Parts:
    return [repr(model), _facts(network_rows(model.module))]


@notebook_parts.register
def _of_classifier(classifier: FewShotClassifier) -> Parts:
    rows = classifier_rows(classifier.as_module().embedder, classifier.description)
    classes = some_of([printable(name) for name in classifier.class_names], _MOST_ROWS)
    return [f"Few-shot classifier of {len(classifier.class_names)} classes", _facts([("classes", classes), *rows])]


@notebook_parts.register
def _of_prediction(prediction: Prediction) -> Parts:
    names, count = prediction.class_names, len(prediction.probabilities)
    table = Table(caption="" if count <= _MOST_ROWS else f"the first {_MOST_ROWS} of {count:,} images")
    table.add_column("image", justify="right")
    table.add_column("class")
    table.add_column("probability", justify="right")
    table.add_column("next classes")
    best = prediction.probabilities[:_MOST_ROWS].topk(min(_MOST_CLASSES, len(names)))
    unknown = prediction.unknown.tolist()
    for image, (values, labels) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
        first, *others = [(names[label], f"{100 * value:.1f} %") for value, label in zip(values, labels, strict=True)]
        name = f"unknown ({first[0]}?)" if unknown[image] else first[0]
        table.add_row(str(image), Text(name), first[1], Text(", ".join(map(" ".join, others))))
    return [table]


def _facts(rows: Sequence[tuple[str, str]]) -> Table:
    table = Table(show_header=False)
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return table
