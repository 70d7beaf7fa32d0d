import re
from typing import Any

import pytest
from rich.table import Table

from metazoo.cli.output import print_table
from metazoo.text import printable


def table() -> Table:
    made = Table(title="a title")
    made.add_column("name", overflow="fold")
    made.add_column("parameters", justify="right")
    made.add_column("accuracy", justify="right")
    made.add_row("x" * 60, "1,234,567", "99.9 %")
    return made


def shown(capsys: pytest.CaptureFixture[str], **environment: Any) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        if environment:
            patch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        print_table(table())
    return re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()


def test_without_a_terminal_nothing_is_cut_or_folded(capsys: pytest.CaptureFixture[str]) -> None:
    wide = Table()
    wide.add_column("file", overflow="fold")
    wide.add_row("y" * 3000)
    print_table(wide)
    assert "y" * 3000 in capsys.readouterr().out
    assert any("x" * 60 in line and "1,234,567" in line for line in shown(capsys))


def test_a_wide_terminal_shows_the_whole_table(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, COLUMNS="120", TERM="xterm")
    assert any("x" * 60 in line and "│" in line for line in lines)


def test_on_a_narrow_terminal_words_are_folded_and_numbers_stay_whole(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, COLUMNS="60", TERM="xterm")
    assert max(map(len, lines)) <= 60
    text = "\n".join(lines)
    for whole in ("parameters", "accuracy", "1,234,567", "99.9 %"):
        assert whole in text
    assert text.count("x") == 60


def test_printable_text_steers_no_terminal() -> None:
    assert printable("plain é 漢字 👩‍🔬 [red]") == "plain é 漢字 👩‍🔬 [red]"
    assert printable("a\x1b[31m\r\n\t\x7f\x9b\u202e\u2028\udcff") == (r"a\x1b[31m\r\n\t\x7f\x9b\u202e\u2028\udcff")
