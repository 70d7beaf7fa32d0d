import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_helpers import Outcome, Workshop, call, make_workshop


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Shared workshop; tests only read it."""
    return make_workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture
def own(workshop: Workshop, tmp_path: Path) -> Workshop:
    """Copy of the workshop to change; its run records the zoo of the original."""
    return Workshop(shutil.copytree(workshop.folder, tmp_path / "workshop"))


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide tables, so that a row is a line."""
    monkeypatch.setenv("COLUMNS", "1000")


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Function that runs a command in this process."""

    def run(*words: object) -> Outcome:
        capfd.readouterr()
        code = call(*words)
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return run


@pytest.fixture
def refused(cli: Callable[..., Outcome]) -> Callable[..., str]:
    """Function that runs a command, checks its exit code and returns its only line on standard error."""

    def run(code: int, *words: object) -> str:
        outcome = cli(*words)
        assert outcome.code == code, outcome
        assert outcome.out == ""
        assert outcome.err.startswith("metazoo: ")
        assert outcome.err.count("\n") == 1
        assert "unexpected" not in outcome.err
        return outcome.err

    return run
