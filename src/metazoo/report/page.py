"""One HTML file on a run: what it is made of, what it has recovered, grouped and learned, and how good that is."""

import base64
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from metazoo.errors import ArtefactError, UsageError
from metazoo.evaluate import read_contamination, read_results, results_table
from metazoo.learn.embedders import recogniser_of
from metazoo.methods.privacy import REPORT
from metazoo.methods.selection import SELECTION
from metazoo.methods.stages import DISTANCE, GROUPING, HEALTH, SHEETS
from metazoo.methods.trust import TRUST, kept_models
from metazoo.report.group_tables import group_table
from metazoo.report.health_table import health_table
from metazoo.report.html_table import html_table
from metazoo.report.judged_tables import selection_table, trust_table
from metazoo.report.wording import USE, counted, fate_of_images, images_used, source_of, what_it_is
from metazoo.run.artefacts import read_bytes, write_text
from metazoo.run.folder import RunFolder
from metazoo.run.printable import printable
from metazoo.run_record import Run
from metazoo.taskspace import Grouping
from metazoo.zoo import ModelContract, Zoo, group_rows, model_rows, model_table
from metazoo.zoo import group_table as kinds_table

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
    content = {
        **_about(run, zoo),
        "measured": [_measured(Path(path)) for path in results],
        **_recovered(run, zoo, images),
        **_task_space(run, zoo),
        "learning": _learning(run),
    }
    write_text(out, _environment().get_template("report.html.j2").render(mark=Markup(_MARK), **content))
    return out


def _check_out(out: Path) -> None:
    if out.is_dir():
        raise UsageError(f"{out} is a folder; give the path of an HTML file")
    if out.exists() and _MARK.encode() not in read_bytes(out)[:2000]:
        raise UsageError(f"{out} is there already and is no report of metazoo; give another path")


def _about(run: Run, zoo: Zoo | None) -> dict[str, Any]:
    config, begun, selection = run.config, run.description["zoo"], run.record(SELECTION)
    which = f"{counted(begun['models'], 'model')}, SHA-256 {begun['sha256']}"
    used = " and ".join(images_used(config, selection)) or "no training images"
    rows = what_it_is(config, run.description, which, run.meta_model) if run.finished else []
    models = counted(begun["models"], "pre-trained model")
    machine = [*map(str, run.description.get("machine", {}).values()), run.description.get("device", "cpu")]
    return {
        "name": printable(run.path.resolve().name),
        "title": config.method.title,
        "lead": f"A few-shot image classifier learned from {models} and {used}. {USE}",
        "finished": run.finished,
        "facts": [(name, printable(value)) for name, value in rows],
        "zoo": None if zoo is None else html_table(model_table(model_rows(zoo))),
        "kinds": None if zoo is None else html_table(kinds_table(group_rows(zoo))),
        "zoo_path": printable(begun["path"]),
        "configuration": config.as_yaml(),
        "machine": ", ".join(machine),
    }


def _measured(path: Path) -> dict[str, Any]:
    from metazoo.report.figures import accuracy_figure  # matplotlib takes a second to import

    results, contamination = read_results(path), read_contamination(path)
    if not results:
        raise ArtefactError(f"{path} holds no result; evaluate again")
    data = results[0].image_set
    return {
        "heading": printable(data),
        "table": html_table(results_table(results)),
        "figure": _embedded("svg+xml", accuracy_figure(results)),
        "warnings": [] if contamination is None else contamination.warnings(data),
    }


def _recovered(run: Run, zoo: Zoo | None, images: bool) -> dict[str, Any]:
    folder, config = RunFolder(run.path), run.config
    health, trust, selection = (run.record(name) for name in (HEALTH, TRUST, SELECTION))
    allowed = run.description.get("images", True)
    sheets = [
        (contract.name, f"{SHEETS}/{contract.name}.png")
        for contract in _in_turn(zoo or ())
        if images and allowed and contract.recovered_images == "show" and folder.has(f"{SHEETS}/{contract.name}.png")
    ]
    shown = sheets[:_MOST_SHEETS]
    here = f"This page shows some of {counted(len(shown), 'model')}." if shown else "This page shows none."
    return {
        "reveals": "" if zoo is None else fate_of_images(config, zoo, allowed, here),
        "health": None if health is None else html_table(health_table(health)),
        "trust": None if trust is None else html_table(trust_table(trust)),
        "selection": None if selection is None else html_table(selection_table(selection)),
        "warnings": [printable(found["warning"]) for found in (health, trust) if found and found["warning"]],
        "sheets": [
            (printable(name), _embedded("png", read_bytes(run.path / file, folder.sha256(file))))
            for name, file in shown
        ],
        "more_sheets": len(sheets) - len(shown),
        "source": source_of(config).kind,
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
    folder = RunFolder(run.path)
    if zoo is None or not folder.has(GROUPING):
        return {"groups": None, "task_space": None}
    kept = kept_models(folder, zoo)
    table = html_table(group_table(folder, zoo))
    if len(kept) < 3:
        return {"groups": table, "task_space": None}
    from metazoo.report.figures import task_space_figure

    names = [contract.name for contract in kept]
    grouping = Grouping.from_record(folder.read_json(GROUPING), names)
    distance = folder.read_tensors(DISTANCE)["distance"]
    figure = task_space_figure(distance, grouping.groups, names, [contract.domain for contract in kept])
    return {"groups": table, "task_space": _embedded("svg+xml", figure)}


def _learning(run: Run) -> str | None:
    recogniser = recogniser_of(run.meta_model.module) if run.finished else None
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


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("metazoo.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["code"] = lambda text: Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))
    return environment
