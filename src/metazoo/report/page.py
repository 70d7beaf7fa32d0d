"""One HTML file on a run: what it is made of, what it has recovered, grouped and learned, and how good that is."""

import base64
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from metazoo.adapt import MetaModel
from metazoo.adapt.card_text import counted, fate_of_images, images_used, source_of, summary, what_it_is
from metazoo.errors import ArtefactError, UsageError
from metazoo.evaluate import read_contamination, read_results, results_table
from metazoo.features.embedders import recogniser_of
from metazoo.pipeline.layout import GROUPING, HEALTH, REPORT, SELECTION, TRUST, sheet_of
from metazoo.report.run_tables import GroupedModels, group_table, health_table, html_table, selection_table, trust_table
from metazoo.report.zoo_tables import domain_rows, domain_table, model_rows, model_table
from metazoo.runs.config import RunConfig
from metazoo.runs.record import Run
from metazoo.storage.artefacts import read_bytes, write_text
from metazoo.storage.run_folder import RunFolder
from metazoo.text import printable
from metazoo.zoo import ModelContract, Zoo

_MARK = '<meta name="generator" content="metazoo report">'
_MOST_SHEETS = 24


def write_report(
    run: Run,
    out: Path | str | None = None,
    *,
    results: Sequence[Path | str] = (),
    zoo: Zoo | None = None,
    images: bool = True,
) -> Path:
    """Write one HTML file that needs nothing beside it and asks no network for anything.

    The same run and results give the same file. A run that has not finished is reported as far as it is.

    Args:
        run: see there.
        out: the file to write, `report.html` in the run folder if None; an earlier report there is replaced.
        results: files that `evaluate` has written, of this run.
        zoo: of the run, as its contracts are now; without it nothing is said of single models and no image is shown.
        images: whether to show recovered images of models whose contract allows it.

    Returns:
        Where it is.

    Raises:
        UsageError: `out` is something else than a report, or `zoo` lacks a model of the run.
        ArtefactError: a file of the run or a result is missing or has changed, or `out` cannot be written.
    """
    out = run.path / REPORT if out is None else Path(out)
    _check_out(out)
    if zoo is not None:
        run.check_zoo(zoo)
        names = run.model_names()
        zoo = Zoo(zoo.folder, [contract for contract in zoo if contract.name in names or not names])
    config, selection = run.config, run.record(SELECTION)
    meta_model = run.meta_model if run.finished else None
    content = {
        **_about(run, config, meta_model, selection),
        **_models(run, zoo),
        "measured": [_measured(Path(path)) for path in results],
        **_recovered(run, config, zoo, images),
        "selection": None if selection is None else html_table(selection_table(selection)),
        **_task_space(run, zoo),
        "learning": _learning(run, meta_model),
    }
    write_text(out, _rendered(content))
    return out


def _check_out(out: Path) -> None:
    if out.is_dir():
        raise UsageError(f"{out} is a folder; give the path of an HTML file")
    if out.exists() and _MARK.encode() not in read_bytes(out)[:2000]:
        raise UsageError(f"{out} is there already and is no report of metazoo; give another path")


def _about(
    run: Run, config: RunConfig, meta_model: MetaModel | None, selection: dict[str, Any] | None
) -> dict[str, Any]:
    begun = run.description["zoo"]
    which = f"{counted(begun['models'], 'model')}, SHA-256 {begun['sha256']}"
    used = " and ".join(images_used(config.as_record(), selection)) or "no training images"
    rows = []
    if meta_model is not None:
        reference = config.method.reference
        rows = what_it_is(meta_model.module, config.as_record(), run.description, reference=reference, zoo=which)
    machine = [*map(str, run.description.get("machine", {}).values()), run.description.get("device", "cpu")]
    return {
        "name": printable(run.path.resolve().name),
        "title": config.method.title,
        "summary": summary(begun["models"], used),
        "finished": meta_model is not None,
        "facts": [(name, printable(value)) for name, value in rows],
        "configuration": config.as_yaml(),
        "machine": ", ".join(machine),
    }


def _models(run: Run, zoo: Zoo | None) -> dict[str, Any]:
    return {
        "zoo": None if zoo is None else html_table(model_table(model_rows(zoo))),
        "kinds": None if zoo is None else html_table(domain_table(domain_rows(zoo))),
        "zoo_path": printable(run.description["zoo"]["path"]),
    }


def _measured(path: Path) -> dict[str, Any]:
    from metazoo.report.figures import accuracy_figure  # matplotlib takes a second to import

    results, contamination = read_results(path), read_contamination(path)
    if not results:
        raise ArtefactError(f"{path} holds no result; evaluate again")
    data = printable(results[0].image_set)
    return {
        "heading": data,
        "table": html_table(results_table(results)),
        "figure": _embedded("svg+xml", accuracy_figure(results)),
        "warnings": [] if contamination is None else contamination.warnings(data),
    }


def _recovered(run: Run, config: RunConfig, zoo: Zoo | None, images: bool) -> dict[str, Any]:
    folder = RunFolder(run.path)
    health, trust = run.record(HEALTH), run.record(TRUST)
    allowed = run.description.get("images", True)
    sheets = [
        contract.name
        for contract in _in_turn(zoo or ())
        if images and allowed and contract.recovered_images == "show" and folder.has(sheet_of(contract.name))
    ]
    shown = sheets[:_MOST_SHEETS]
    here = f"This page shows some of {counted(len(shown), 'model')}." if shown else "This page shows none."
    return {
        "reveals": "" if zoo is None else fate_of_images(config.as_record(), zoo, allowed, here),
        "health": None if health is None else html_table(health_table(health)),
        "trust": None if trust is None else html_table(trust_table(trust)),
        "warnings": [printable(found["warning"]) for found in (health, trust) if found and found["warning"]],
        "sheets": [
            (printable(name), _embedded("png", read_bytes(run.path / sheet_of(name), folder.sha256(sheet_of(name)))))
            for name in shown
        ],
        "more_sheets": len(sheets) - len(shown),
        "source": source_of(config.as_record())["kind"],
    }


def _in_turn(contracts: Iterable[ModelContract]) -> list[ModelContract]:
    """The first of every domain, then the second of each, and so on: what comes first shows all kinds."""
    seen: Counter[str] = Counter()
    turns: list[tuple[int, ModelContract]] = []
    for contract in contracts:
        turns.append((seen[contract.domain], contract))
        seen[contract.domain] += 1
    return [contract for _, contract in sorted(turns, key=lambda turn: turn[0])]


def _task_space(run: Run, zoo: Zoo | None) -> dict[str, Any]:
    if zoo is None or not RunFolder(run.path).has(GROUPING):
        return {"groups": None, "task_space": None}
    models = GroupedModels.of(run, zoo)
    table = html_table(group_table(models))
    if len(models.zoo) < 3:
        return {"groups": table, "task_space": None}
    from metazoo.report.figures import task_space_figure

    figure = task_space_figure(models.distance, models.grouping.groups, models.names, models.domains)
    return {"groups": table, "task_space": _embedded("svg+xml", figure)}


def _learning(run: Run, meta_model: MetaModel | None) -> str | None:
    recogniser = None if meta_model is None else recogniser_of(meta_model.module)
    names = {} if recogniser is None else {f"specialist-{n}": name for n, name in enumerate(recogniser.domains, 1)}
    curves: dict[str, list[dict[str, float]]] = {}
    for row in run.metrics():
        if "loss" in row:
            curves.setdefault(names.get(row["stage"]) or str(row["stage"]), []).append(row)
    if not curves:
        return None
    from metazoo.report.figures import learning_figure

    return _embedded("svg+xml", learning_figure(curves))


def _embedded(kind: str, content: str | bytes) -> str:
    data = content.encode() if isinstance(content, str) else content
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _rendered(content: dict[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # not for whoever only trains

    environment = Environment(
        loader=PackageLoader("metazoo.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["code"] = lambda text: Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))
    return environment.get_template("report.html.j2").render(mark=Markup(_MARK), **content)
