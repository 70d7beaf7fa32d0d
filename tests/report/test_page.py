"""The page of a run shows what the run holds, and no images without permission."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from error_checks import raises
from training_helpers import OPTIONS, coloured_images, untrained

from metazoo.cli.feature_source import open_source
from metazoo.errors import ArtefactError, Interrupted, UsageError
from metazoo.evaluate import evaluate, read_results
from metazoo.report import write_report
from metazoo.runs.record import Run
from metazoo.runs.train import train
from metazoo.zoo import Zoo

DOMAINS = ("<script>$x_1$", "{{ 7 * 7 }}", "birds", "birds\u202e")
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Page as a browser reads it: text, embedded images, and open elements."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.images, self.open, self.tags = "", dict[str, str](), list[str](), set[str]()
        self.source = path.read_text()
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        if tag == "img":
            self.images[str(found["alt"])] = str(found["src"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return untrained(tmp_path_factory.mktemp("untrained") / "zoo", DOMAINS)


@pytest.fixture(scope="module")
def run(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(zoo, out=tmp_path_factory.mktemp("first") / "run", config=OPTIONS, workers=1)


@pytest.fixture(scope="module")
def result(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("measured") / "result.json"
    subjects = open_source(str(run.path)).table()
    evaluate(subjects, coloured_images(6, 16), ways=3, shots=(1, 2), queries=2, episodes=4, out=out)
    return out


def sheets(page: Page) -> dict[str, str]:
    return {alt: source for alt, source in page.images.items() if alt.startswith("Images recovered from ")}


def test_repr_shows_path_method_and_state(run: Run, tmp_path: Path) -> None:
    assert repr(run) == f"Run({str(run.path)!r}: tgr, preset default, seed 0, 4 models, finished)"
    assert repr(Run(tmp_path, {})) == f"Run({str(tmp_path)!r})"


def test_a_page_shows_the_records_of_the_run(zoo: Zoo, run: Run, result: Path, tmp_path: Path) -> None:
    path = write_report(run, tmp_path / "page.html", results=[result], zoo=zoo)
    page = Page(path)
    assert page.open == []
    assert "script" not in page.tags
    for contract in zoo:
        assert page.text.count(contract.name) >= 4  # in the zoo, by recovery, by trust, in its group
    for row in read_results(result):
        assert row.subject in page.text
        assert f"{row.accuracy:.1f} ± {row.interval:.1f}" in page.text
    assert "4 episodes of colours" in page.text
    assert zoo.sha256 in page.text
    assert "113,088" not in page.text
    (options,) = (part for part in re.findall("<pre>(.*?)</pre>", page.source, re.DOTALL))
    assert yaml.safe_load(options.replace("&#39;", "'")) == run.config.as_record()
    assert len(page.images) == 3 + len(sheets(page))


def test_a_page_loads_no_other_file(zoo: Zoo, run: Run, result: Path, tmp_path: Path) -> None:
    page = Page(write_report(run, tmp_path / "page.html", results=[result], zoo=zoo))
    assert all(source.startswith("data:image/") for source in page.images.values())
    for figure in (
        base64.b64decode(s.split(",")[1]).decode() for s in page.images.values() if s.startswith("data:image/svg")
    ):
        assert not re.findall(r'href="(?!#|data:)', figure)
    assert not re.search(r"(src|href)=\"(?!data:)", page.source)
    assert "default-src 'none'" in page.source


def test_foreign_names_are_text(zoo: Zoo, run: Run, tmp_path: Path) -> None:
    page = Page(write_report(run, tmp_path / "page.html", zoo=zoo))
    for name in ("<script>$x_1$", "{{ 7 * 7 }}", r"birds\u202e"):
        assert name in page.text
    assert "\u202e" not in page.source
    encoded = page.images["Map of the models and matrix of their dissimilarities"].split(",")[1]
    assert "&lt;script&gt;$x_1$" in base64.b64decode(encoded).decode()


def test_the_same_run_gives_the_same_page(zoo: Zoo, run: Run, result: Path, tmp_path: Path) -> None:
    first, second = (write_report(run, tmp_path / name, results=[result], zoo=zoo) for name in ("a.html", "b.html"))
    assert first.read_bytes() == second.read_bytes()


def test_a_page_shows_only_images_of_models_that_allow_it(zoo: Zoo, run: Run, tmp_path: Path) -> None:
    def shown(zoo: Zoo | None, images: bool = True) -> dict[str, str]:
        return sheets(Page(write_report(run, tmp_path / "page.html", zoo=zoo, images=images)))

    allowed = [contract.name for contract in zoo if contract.recovered_images == "show"]
    assert len(allowed) == 3
    first = shown(zoo)
    assert {f"Images recovered from {name}, one row per class" for name in allowed} == set(first)
    for name in allowed:
        (source,) = (source for alt, source in first.items() if f" {name}," in alt)
        sheet = (run.path / "recovered" / f"{name}.png").read_bytes()
        assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == sheet
    forbidden = Zoo(zoo.folder, [zoo.contracts[0].model_copy(update={"recovered_images": "keep"}), *zoo.contracts[1:]])
    assert len(shown(forbidden)) == 2
    assert shown(zoo, images=False) == shown(None) == {}
    assert "This page shows no images" in Page(write_report(run, tmp_path / "page.html", zoo=zoo, images=False)).text


def test_a_later_prohibition_removes_the_report_of_the_run(zoo: Zoo, tmp_path: Path) -> None:
    own = untrained(tmp_path / "zoo")
    run = train(own, out=tmp_path / "run", config=OPTIONS, workers=1)
    page = write_report(run, zoo=own)
    assert page == run.path / "report.html"
    again = train(own, out=run.path, config=OPTIONS, workers=1, resume=True)
    assert page.exists()
    own.permit([own.contracts[0].name], "keep")
    train(Zoo.open(own.folder), out=run.path, config=OPTIONS, workers=1, resume=True)
    assert not page.exists()
    assert len(sheets(Page(write_report(again, zoo=Zoo.open(own.folder))))) == 1


def test_the_complete_stages_of_an_unfinished_run_are_shown(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for function, grouped in (
        ("pipeline.distillation.recover_images", False),
        ("pipeline.learning_stage.learn_in_steps", True),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"metazoo.{function}", stopped)
            with pytest.raises(Interrupted):
                train(zoo, out=tmp_path / "run", config=OPTIONS, workers=1, resume=True)
        page = Page(write_report(Run.open(tmp_path / "run"), zoo=zoo))
        assert "This run has not finished" in page.text
        assert ("Task space" in page.text) == grouped


def stopped(*_: object, **__: object) -> None:
    raise Interrupted("enough")


def test_nothing_but_a_report_is_replaced(zoo: Zoo, run: Run, tmp_path: Path) -> None:
    own = tmp_path / "thesis.html"
    own.write_text("<html>years of work</html>")
    with raises(UsageError, subject="thesis.html", problem="not a metazoo report"):
        write_report(run, own)
    assert own.read_text() == "<html>years of work</html>"
    with raises(UsageError, problem="is a folder", remedy="an HTML file"):
        write_report(run, tmp_path)
    page = write_report(run, tmp_path / "page.html", zoo=zoo)
    write_report(run, page)
    assert "was not available" in page.read_text()
    with raises(UsageError, subject=str(zoo.folder), problem="has no model"):
        write_report(run, page, zoo=Zoo(zoo.folder, zoo.contracts[1:]))
    with raises(ArtefactError, subject="none.json"):
        write_report(run, page, results=[tmp_path / "none.json"])
    assert "was not available" in page.read_text()
