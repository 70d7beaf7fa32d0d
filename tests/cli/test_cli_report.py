"""`metazoo report`, as it is typed."""

from collections.abc import Callable

from cli_helpers import Outcome, Workshop

from metazoo.pipeline.layout import DESCRIPTION
from metazoo.storage.run_folder import RunFolder

Cli = Callable[..., Outcome]
Refused = Callable[..., str]


def test_a_run_becomes_a_page_with_what_was_measured(cli: Cli, workshop: Workshop, own: Workshop) -> None:
    words = ("--data", workshop.unseen, "--ways", 3, "--shots", 1, "--queries", 2, "--episodes", 4)
    assert cli("evaluate", workshop.run, *words, "--out", own.folder / "result.json").code == 0
    outcome = cli("report", own.run, own.folder / "result.json")
    page = own.run / "report.html"
    assert outcome.out == f"{page}: a report of {page.stat().st_size / 1e6:.1f} MB; open it in a browser\n"
    assert "tgr meta-model" in page.read_text()
    assert "data:image/png" in page.read_text()
    assert cli("report", own.run, "--no-images").code == 0  # which replaces it
    assert "tgr meta-model" not in page.read_text()
    assert "data:image/png" not in page.read_text()


def test_the_zoo_may_be_gone_or_elsewhere(cli: Cli, own: Workshop) -> None:
    page, folder = own.run / "report.html", RunFolder(own.run)
    begun = folder.read_json(DESCRIPTION)
    folder.write_json(DESCRIPTION, {**begun, "zoo": {**begun["zoo"], "path": str(own.none)}})
    outcome = cli("report", own.run)
    assert outcome.code == 0
    assert outcome.err.startswith("note: nothing is said of single models and no image is shown (")
    assert f"{own.none}" in outcome.err
    assert "data:image/png" not in page.read_text()
    outcome = cli("report", own.run, "--zoo", own.zoo)
    assert (outcome.code, outcome.err) == (0, "")
    assert "data:image/png" in page.read_text()


def test_what_cannot_be_reported_is_named(refused: Refused, own: Workshop) -> None:
    assert f"{own.support} is not a run folder" in refused(2, "report", own.support)
    assert "none.json" in refused(1, "report", own.run, own.folder / "none.json")
    assert "is no report of metazoo" in refused(2, "report", own.run, "--out", own.config)
    assert "none" in refused(2, "report", own.run, "--zoo", own.none)
