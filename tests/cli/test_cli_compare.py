import csv
import io
from collections.abc import Callable

import pytest
from cli_helpers import Outcome, Workshop

from metazoo.evaluate import mean_interval, paired_difference, read_accuracies, read_results

Cli = Callable[..., Outcome]
Refused = Callable[..., str]
SMALL = ("--ways", 3, "--shots", "1,2", "--episodes", 10, "--queries", 3)


@pytest.fixture
def measured(cli: Cli, own: Workshop) -> Workshop:
    """Workshop with results `logistic.json` and `ridge.json` of its run."""
    for head in ("logistic", "ridge"):
        words = ("--data", own.unseen, *SMALL, "--head", head, "--out", own.folder / f"{head}.json")
        assert cli("evaluate", own.run, *words).code == 0
    return own


def test_two_results_are_compared(cli: Cli, measured: Workshop) -> None:
    files = [measured.folder / f"{head}.json" for head in ("logistic", "ridge")]
    outcome = cli("compare", files[0], f"by ridge={files[1]}")
    assert (outcome.code, outcome.err) == (0, "")  # different heads, so no copies
    for words in (
        "3-way 1-shot",
        "3-way 2-shot",
        "logistic, batch norm running",
        "by ridge",
        "difference from logistic,",
    ):
        assert words in outcome.out
    rows = list(csv.DictReader(io.StringIO(cli("compare", *files, "--format", "csv").out)))
    assert [(row["row"], row["shots"]) for row in rows] == [(n, s) for n in ("logistic", "ridge") for s in ("1", "2")]
    for index, row in enumerate(rows):
        of_both = [read_accuracies(file, read_results(file)[index % 2]) for file in files]
        own = of_both[index // 2]
        assert float(row["accuracy"]) == pytest.approx(mean_interval(own).mean, abs=1e-4)
        expected = paired_difference(of_both[1], of_both[0])
        found = (row["difference"], row["difference_interval"])
        if index < 2:
            assert found == ("", "")
        else:
            assert [float(part) for part in found] == pytest.approx([expected.mean, expected.half_width], abs=1e-4)


def test_several_files_are_a_row(cli: Cli, measured: Workshop) -> None:
    file = measured.folder / "logistic.json"
    outcome = cli("compare", f"both={file},{file}", file, "--format", "csv")
    assert "measure the same meta-model" in outcome.err
    rows = list(csv.DictReader(io.StringIO(outcome.out)))
    assert [(row["row"], row["files"]) for row in rows[::2]] == [("both", "2"), ("logistic", "1")]
    assert float(rows[2]["difference"]) == 0


def test_errors_of_compare_are_named(refused: Refused, measured: Workshop) -> None:
    file = measured.folder / "logistic.json"
    assert "row 'logistic': " in refused(2, "compare", file, file)
    assert "none.json" in refused(1, "compare", measured.folder / "none.json")
    assert "--against: unknown row 'x'" in refused(2, "compare", file, "--against", "x")
    assert "not measured in the same way" in refused(2, "compare", f"a={file},{measured.folder / 'ridge.json'}")
    assert "is not a result file" in refused(1, "compare", measured.zoo / "zoo.json")
