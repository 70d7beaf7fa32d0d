"""What a notebook shows: parsed as a page, in a real IPython formatter and in a real kernel."""

import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from training_helpers import OPTIONS, coloured_images, untrained

from metazoo.adapt import FewShotClassifier, Prediction
from metazoo.data import ImageSet
from metazoo.evaluate import Result, Results, evaluate, raw_pixels
from metazoo.notebook import ShownInNotebook, updating_line
from metazoo.report.notebook_tables import html_of
from metazoo.runs.record import Run
from metazoo.runs.train import train
from metazoo.study.runner import cells_of
from metazoo.study.study_file import study_from
from metazoo.study.study_results import StudyResults
from metazoo.zoo import Zoo

HOSTILE = "<script>alert(1)</script>"
ALLOWED = {"div", "p", "strong", "table", "caption", "thead", "tbody", "tr", "th", "td", "details", "summary"}


class _Page(HTMLParser):
    """Texts of the cells of each table, and all elements and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.texts: list[str] = []
        self._cell: list[str] | None = None
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self.tables[-1][-1].append("".join(self._cell))
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)
        self.texts.append(data)


def shown(value: ShownInNotebook) -> _Page:
    """Page of the HTML that IPython takes from an object."""
    from IPython.core.formatters import DisplayFormatter

    data, _ = DisplayFormatter().format(value)
    page = _Page(data["text/html"])
    assert page.elements <= ALLOWED
    assert page.attributes <= {"style"}
    assert "color" not in data["text/html"]
    assert "http" not in data["text/html"]
    assert data["text/plain"]
    return page


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return untrained(tmp_path_factory.mktemp("untrained") / "zoo", ("signs", "signs", "pets"))


@pytest.fixture(scope="module")
def run(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(zoo, out=tmp_path_factory.mktemp("first") / "run", config=OPTIONS, workers=1)


@pytest.fixture(scope="module")
def results() -> Results:
    own = coloured_images(3, 8)
    images = ImageSet(own.images, own.labels, own.class_names, name=HOSTILE)
    return evaluate([raw_pixels(8)], images, ways=2, shots=(1, 2), episodes=4, queries=3)


def test_a_zoo_is_a_table_of_its_domains_and_one_of_its_models(zoo: Zoo, tmp_path: Path) -> None:
    domains, models = shown(zoo).tables
    assert [row[:3] for row in domains[1:]] == [["pets", "thin-resnet width 4", "1"], ["signs", "conv4 width 4", "2"]]
    assert models[0][:2] == ["model", "domain"]
    assert [row[0] for row in models[1:]] == ["model-0", "model-1", "model-2"]
    assert shown(Zoo.create(tmp_path / "empty")).tables == []


def test_a_long_table_is_folded(tmp_path: Path) -> None:
    page = shown(untrained(tmp_path / "zoo", ("signs",) * 13))
    assert "details" in page.elements
    assert "13 rows" in page.texts


def test_a_run_shows_what_it_is_and_its_records(run: Run, zoo: Zoo, tmp_path: Path) -> None:
    page = shown(run)
    facts, *records = page.tables
    assert ["run", str(run.path)] in facts
    assert ["state", "finished"] in facts
    assert [row[1] for row in facts if row[0] == "architecture"] == ["conv4, width 4"]
    titles = {"Recovery", "Trust"}
    assert titles <= set(page.texts)
    assert [table[0][0] for table in records] == ["model", "model", "group"]
    assert sum(len(table) - 1 for table in records[:2]) == 2 * len(zoo)
    moved = Run.open(shutil.copytree(run.path, tmp_path / "run"))
    moved.description["zoo"]["path"] = str(tmp_path / "nowhere")
    assert [table[0][0] for table in shown(moved).tables[1:]] == ["model", "model"]


def test_a_damaged_run_is_shown_as_text(run: Run, tmp_path: Path) -> None:
    copied = Run.open(shutil.copytree(run.path, tmp_path / "run"))
    (copied.path / "recovery.json").write_text("{}")
    assert copied._repr_html_() is None
    assert repr(copied).startswith("Run(")


def test_results_are_a_list_and_a_table(results: Results) -> None:
    assert isinstance(results, list)
    assert all(type(result) is Result for result in results)
    page = shown(results)
    (table,) = page.tables
    assert table[0] == ["subject", "2-way 1-shot", "2-way 2-shot", "parameters"]
    cells = [f"{result.accuracy:.1f} ± {result.interval:.1f}" for result in results]
    assert table[1] == ["raw pixels", *cells, "0"]
    assert any(HOSTILE in text for text in page.texts)
    assert shown(results[1]).tables[0][1] == ["raw pixels", cells[1], "0"]
    assert shown(Results()).tables == []


def classifier_of(run: Run) -> FewShotClassifier:
    images = torch.randint(0, 256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return run.meta_model.adapt(images, [HOSTILE, "dog"] * 2)


def test_a_classifier_names_its_classes_and_a_meta_model_its_network(run: Run) -> None:
    page = shown(classifier_of(run))
    facts = {row[0]: row[1] for row in page.tables[0]}
    assert facts["classes"] == f"{HOSTILE}, dog"
    assert facts["head"].startswith("logistic")
    assert facts["made from"] == "tgr (default), seed 0"
    assert ["architecture", "conv4, width 4"] in shown(run.meta_model).tables[0]


def test_a_prediction_is_a_row_per_image() -> None:
    probabilities = torch.tensor([[0.125, 0.25, 0.5, 0.0625, 0.03125, 0.03125], [1.0, 0, 0, 0, 0, 0]])
    names = (HOSTILE, "dog", "cow", "owl", "ant", "bee")
    (table,) = shown(Prediction(names, probabilities)).tables
    assert table[1] == ["0", "cow", "50.0 %", f"dog 25.0 %, {HOSTILE} 12.5 %, owl 6.2 %, ant 3.1 %"]
    assert table[2][:3] == ["1", HOSTILE, "100.0 %"]
    page = shown(Prediction(("cat", "dog"), torch.full((1000, 2), 0.5)))
    assert len(page.tables[0]) == 201
    assert "the first 200 of 1,000 images" in page.texts
    assert len(shown(Prediction(("cat", "dog"), torch.empty(0, 2))).tables[0]) == 1


def test_a_study_shows_its_tables(zoo: Zoo, tmp_path: Path) -> None:
    study: dict[str, Any] = {
        "zoos": {"small": {"path": str(zoo.folder)}},
        "data": {"glyphs": "glyphs:greek"},
        "protocol": {"ways": 2, "shots": [1], "episodes": 3, "queries": 2},
        "rows": [{"name": "nothing", "method": "random"}],
        "seeds": [0],
    }
    plan = study_from(study)
    cells = cells_of(plan, tmp_path, {"small": zoo.folder})
    page = shown(StudyResults.read(plan, cells))
    assert "0 of 1 cells measured" in page.texts
    assert page.tables[0][1][:3] == ["nothing", "logistic", "0/1"]


def test_an_object_of_another_class_is_its_text() -> None:
    class Other(ShownInNotebook):
        def __repr__(self) -> str:
            return HOSTILE

    assert HOSTILE in _Page(html_of(Other())).texts[1]
    assert "<script" not in html_of(Other())


def test_there_is_no_updating_line_outside_of_notebooks() -> None:
    assert updating_line() is None


CELL = """
import sys
from metazoo.execution import progress
progress._SECONDS_BETWEEN_UPDATES = 0
for stage in ("recovering", "learning"):
    with progress.Progress(stage, 500) as bar:
        for step in range(500):
            bar.advance(note=f"step {step}")
"""


@pytest.fixture
def messages(tmp_path: Path) -> Iterator[list[dict[str, Any]]]:
    """Messages of a real kernel that runs `CELL`, over sockets in a folder."""
    from jupyter_client.manager import KernelManager

    manager = KernelManager(transport="ipc", connection_file=str(tmp_path / "kernel.json"), kernel_name="python3")
    manager.start_kernel()
    try:
        client = manager.blocking_client()
        client.start_channels()
        client.wait_for_ready(timeout=60)
        found: list[dict[str, Any]] = []
        reply = client.execute_interactive(CELL, timeout=60, output_hook=found.append)
        assert reply["content"]["status"] == "ok", found
        client.stop_channels()
        yield found
    finally:
        manager.shutdown_kernel(now=True)


def test_progress_in_a_notebook_is_one_line_per_stage(messages: list[dict[str, Any]]) -> None:
    outputs = [message for message in messages if message["msg_type"] not in ("status", "execute_input")]
    assert {message["msg_type"] for message in outputs} == {"display_data", "update_display_data"}
    lines = [message for message in outputs if message["msg_type"] == "display_data"]
    assert len(lines) == 2
    by_line: dict[str, list[str]] = {}
    for message in outputs:
        content = message["content"]
        by_line.setdefault(content["transient"]["display_id"], []).append(content["data"]["text/plain"])
    assert len(by_line) == 2
    for stage, texts in zip(("recovering", "learning"), by_line.values(), strict=True):
        assert texts[0].startswith(f"{stage}: 1/500, about ")
        assert texts[-1].startswith(f"{stage}: 500/500, done in ")
        assert len(texts) == 500
