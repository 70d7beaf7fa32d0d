"""Tests of `metazoo report`."""

import hashlib
import shutil
from collections.abc import Callable
from typing import Any

from cli_helpers import Outcome, Workshop, edit_json, edit_tensors

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
    assert cli("report", own.run, "--no-images").code == 0  # replaces the page
    assert "tgr meta-model" not in page.read_text()
    assert "data:image/png" not in page.read_text()


def test_a_report_with_a_missing_or_moved_zoo(cli: Cli, own: Workshop) -> None:
    page, folder = own.run / "report.html", RunFolder(own.run)
    begun = folder.read_json(DESCRIPTION)
    folder.write_json(DESCRIPTION, {**begun, "zoo": {**begun["zoo"], "path": str(own.none)}})
    outcome = cli("report", own.run)
    assert outcome.code == 0
    assert outcome.err.startswith("note: ")
    assert f"{own.none}" in outcome.err
    assert "--zoo" in outcome.err
    assert "data:image/png" not in page.read_text()
    outcome = cli("report", own.run, "--zoo", own.zoo)
    assert (outcome.code, outcome.err) == (0, "")
    assert "data:image/png" in page.read_text()


def test_a_result_of_another_run_is_refused(cli: Cli, refused: Refused, own: Workshop) -> None:
    words = ("--data", own.unseen, "--ways", 3, "--shots", 1, "--queries", 2, "--episodes", 4, "--baselines")
    out = own.folder / "result.json"
    weights = own.run / "meta-model" / "model.safetensors"
    first = weights.read_bytes()
    edit_tensors(weights, lambda tensors: tensors["blocks.0.0.bias"].add_(1))
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    other = own.folder / "other"
    shutil.copytree(own.run / "meta-model", other)
    edit_json(other / "bundle.json", lambda content: content.update(weights_sha256=sha256))
    weights.write_bytes(first)
    assert cli("evaluate", other, *words, "--zoo", own.zoo, "--out", out).code == 0
    error = refused(2, "report", own.run, out)
    assert f"{out}, row 'tgr meta-model': measures another meta-model than the one of {own.run}" in error
    assert cli("evaluate", own.run, *words, "--out", out, "--overwrite").code == 0
    page = own.run / "report.html"
    assert cli("report", own.run, out).code == 0
    assert 'class="warning"' not in page.read_text().partition("<h2>Zoo</h2>")[0]

    def elsewhere(content: dict[str, Any]) -> None:
        for row in content["results"]:
            if row["method"] == "zoo-ensemble":
                row["subject_sha256"] = "0" * 64

    edit_json(out, elsewhere)
    assert cli("report", own.run, out).code == 0
    assert "Measured on another zoo, or on the zoo of this run after a change: zoo ensemble." in (page.read_text())

    def as_of_version_01(content: dict[str, Any]) -> None:
        for row in content["results"]:
            row.pop("subject_sha256", None)

    edit_json(out, as_of_version_01)
    assert cli("report", own.run, out).code == 0
    rows = "parameter average, best single teacher, zoo ensemble, tgr meta-model"
    assert f"Not checked, because the file does not identify what was measured: {rows}." in page.read_text()


def test_errors_of_report_are_named(refused: Refused, own: Workshop) -> None:
    assert f"{own.support}: is not a run folder" in refused(2, "report", own.support)
    assert "none.json" in refused(1, "report", own.run, own.folder / "none.json")
    assert "is not a metazoo report" in refused(2, "report", own.run, "--out", own.config)
    assert "none" in refused(2, "report", own.run, "--zoo", own.none)
