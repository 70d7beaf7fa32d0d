"""Sections of a report, also those of other packages."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from error_checks import raises
from rich.table import Table
from rich.text import Text
from training_helpers import OPTIONS, untrained

from metazoo.cli.run_output import print_sections
from metazoo.errors import ArtefactError, UsageError
from metazoo.pipeline.layout import CHOICE, GROUPING, HEALTH, METRICS, TRUST, UNLABELLED
from metazoo.plugins import Registry
from metazoo.report import Picture, Section, SectionContent, register_section, write_report
from metazoo.report.sections import SECTIONS, sections_of
from metazoo.runs.record import Run
from metazoo.runs.train import train
from metazoo.storage.run_folder import RunFolder
from metazoo.zoo import Zoo

CURVES = "curves.json"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return untrained(tmp_path_factory.mktemp("untrained") / "zoo")


@pytest.fixture(scope="module")
def path(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(zoo, out=tmp_path_factory.mktemp("first") / "run", config=OPTIONS, workers=1).path


@pytest.fixture
def run(path: Path) -> Iterator[Run]:
    yield Run.open(path)
    folder = RunFolder(path)
    if folder.has(CURVES):
        folder.delete(CURVES)


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the sections of a test after it."""
    built_in = {name: SECTIONS.get(name) for name in SECTIONS.names()}
    fresh: Registry[Section] = Registry("report section", values=built_in)
    monkeypatch.setattr("metazoo.report.sections.SECTIONS", fresh)


def titles(run: Run, zoo: Zoo | None, **limits: bool) -> list[str]:
    return [section.title for section, _ in sections_of(run, zoo, **limits)]


def curves(record: Any, run: Run, zoo: Zoo | None) -> SectionContent | None:
    """Content as a method of another package would make it from its own record."""
    if not record["rows"]:
        return None
    table = Table(title="Tasks <b>")
    table.add_column("model")
    for row in record["rows"]:
        table.add_row(Text(row["model"]))
    picture = Picture(lambda: "<svg xmlns='http://www.w3.org/2000/svg'/>", "Curves", "Falling is good.")
    return SectionContent(("beware of <curves>",), "How tasks fared.", (picture,), (table,))


def test_a_run_has_a_section_per_record(zoo: Zoo, run: Run) -> None:
    assert [SECTIONS.get(name).record for name in SECTIONS.names()] == [
        UNLABELLED,
        HEALTH,
        TRUST,
        GROUPING,
        CHOICE,
        METRICS,
    ]
    assert titles(run, zoo) == ["Recovery", "Trust", "Task space and groups", "Learning"]
    assert titles(run, None) == ["Recovery", "Trust", "Learning"]
    assert titles(run, zoo, about_models=True) == ["Recovery", "Trust"]
    assert titles(run, zoo, about_models=False) == ["Task space and groups", "Learning"]


def test_another_package_shows_its_own_record(
    zoo: Zoo, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    section = register_section(Section("Curves", CURVES, curves))
    assert "Curves" not in titles(run, zoo)
    RunFolder(run.path).write_json(CURVES, {"rows": []})
    assert "Curves" not in titles(run, zoo)
    RunFolder(run.path).write_json(CURVES, {"rows": [{"model": "model-0"}, {"model": "<i>"}]})
    assert titles(run, zoo)[-1] == "Curves"
    page = write_report(run, tmp_path / "page.html", zoo=None).read_text()
    svg = base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg'/>").decode()
    for part in (
        '<p class="warning">beware of &lt;curves&gt;</p>',
        "<p>How tasks fared.</p>",
        f'<img src="data:image/svg+xml;base64,{svg}" alt="Curves">',
        '<p class="faint">Falling is good.</p>',
        '<p class="faint">Tasks &lt;b&gt;</p>',
        "<td>&lt;i&gt;</td>",
    ):
        assert page.count(part) == 1
    assert page.index("<h2>Learning</h2>") < page.index("<h2>Curves</h2>") < page.index("<h2>Configuration</h2>")
    assert print_sections(run, zoo, about_models=False)
    out, err = capsys.readouterr()
    assert "Tasks <b>" in out
    assert err == "warning: beware of <curves>\n"
    with raises(UsageError) as caught:
        register_section(Section("Recovery", "other.json", curves))
    assert "'Recovery'" in str(caught.value)
    assert register_section(section) is section


def test_a_section_may_join_a_chapter(zoo: Zoo, run: Run, tmp_path: Path) -> None:
    register_section(Section("Curves", CURVES, curves, chapter="Recovered images", about_models=True))
    RunFolder(run.path).write_json(CURVES, {"rows": [{"model": "model-0"}]})
    page = write_report(run, tmp_path / "page.html", zoo=zoo).read_text()
    positions = [
        page.index(f">{heading}<") for heading in ("Recovered images", "Recovery", "Trust", "Curves", "Learning")
    ]
    assert positions[:4] == sorted(positions[:4])
    assert page.index("beware of") < page.index("<h3>Recovery</h3>")
    assert positions[3] < page.index("<h2>Task space and groups</h2>") < positions[4]
    assert titles(run, zoo, about_models=True) == ["Recovery", "Trust", "Curves"]


def test_a_run_names_the_models_of_any_record(zoo: Zoo, run: Run) -> None:
    names = {contract.name for contract in zoo}
    assert run.model_names() == names
    RunFolder(run.path).write_json(CURVES, {"rows": [{"model": "gone"}, {"loss": 1.0}, 3], "other": [[1]], "n": 1})
    assert run.model_names() == {*names, "gone"}
    with raises(UsageError, subject=str(zoo.folder), problem="'gone'"):
        run.check_zoo(Zoo(zoo.folder, zoo.contracts[:1]))


def test_a_record_that_has_changed_is_named(zoo: Zoo, run: Run) -> None:
    register_section(Section("Curves", CURVES, curves))
    RunFolder(run.path).write_json(CURVES, {"rows": [{"model": "model-0"}]})
    (run.path / CURVES).write_text('{"rows": []}')
    with raises(ArtefactError, subject=CURVES):
        titles(run, zoo)
