import os
import re
import subprocess
import sys

import pytest

from metazoo.execution import progress
from metazoo.execution.progress import Progress, message


class _Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_long_stage_gives_a_line_a_tenth_with_the_time_left(
    clock: _Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("recover", 100) as bar:
        for unit in range(100):
            clock.now += 2.0
            bar.advance(note=f"unit {unit}")
    output = capsys.readouterr()
    lines = output.err.splitlines()
    assert output.out == ""
    assert lines[0] == "recover: 10/100, about 3 min left; unit 9"
    assert lines[-2:] == ["recover: 90/100, about 20 s left; unit 89", "recover: 100/100, done in 3 min"]
    assert len(lines) == 10


def test_a_fast_stage_gives_no_line_within_five_seconds_of_the_last(
    clock: _Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("learn", 1000) as bar:
        for _ in range(1000):
            clock.now += 0.012
            bar.advance()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["learn: 417/1000", "learn: 834/1000", "learn: 1000/1000"]


def test_a_slow_stage_still_gives_a_line_a_minute(clock: _Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("zoo", 10_000) as bar:
        for _ in range(20):
            clock.now += 15.0
            bar.advance()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    assert lines[0] == "zoo: 4/10000, about 41.6 h left"
    assert lines[-1] == "zoo: 20/10000, done in 5 min"


def test_units_of_an_earlier_call_do_not_count_for_the_time_left(
    clock: _Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("zoo", 20, done=10) as bar:
        clock.now += 10.0
        bar.advance(2)
    assert capsys.readouterr().err.splitlines()[0] == "zoo: 12/20, about 40 s left"


def test_an_interrupted_stage_shows_its_progress(clock: _Clock, capsys: pytest.CaptureFixture[str]) -> None:
    def stage() -> None:
        with Progress("zoo", 20) as bar:
            bar.advance(3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage()
    assert capsys.readouterr().err == "zoo: 3/20, ended early after 0 s\n"


def test_a_stage_that_fails_at_once_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), Progress("zoo", 20, done=3):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == ""


def test_a_message_is_a_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    message("a [plain] line")
    assert capsys.readouterr() == ("", "a [plain] line\n")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("terminal", ["xterm", "dumb"])
def test_a_terminal_gets_a_bar_with_the_time_left_and_messages_above_it(terminal: str) -> None:
    import pty

    script = (
        "import time\n"
        "from metazoo.execution.progress import Progress, message\n"
        "with Progress('stage [1]', 3) as bar:\n"
        "    for unit in range(3):\n"
        "        time.sleep(0.05)\n"
        "        message(f'message {unit}')\n"
        "        bar.advance(note='[x]')\n"
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": terminal, "COLUMNS": "120"}
    with subprocess.Popen([sys.executable, "-c", script], stderr=theirs, stdout=theirs, env=environment) as process:
        os.close(theirs)
        output = b""
        try:
            while chunk := os.read(ours, 65536):
                output += chunk
        except OSError:
            pass
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.decode())
    assert process.returncode == 0
    assert all(f"message {unit}" in text for unit in range(3))
    if terminal == "dumb":
        assert text.splitlines()[-1] == "stage [1]: 3/3, done in 0 s"
    else:
        assert re.search(r"stage \[1\] ━+ 3/3 0:00:00 left 0:00:00 \[x\]", text)
