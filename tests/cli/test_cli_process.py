"""Tests that need a separate process."""

import os
import subprocess
import sys

import pytest
from cli_helpers import Workshop


def test_help_version_and_typing_errors_are_quick() -> None:
    script = """
import contextlib, io, sys
from metazoo.cli import main
for words in (['--help'], ['--version'], ['train', '--help'], ['trian'], ['train'], ['evaluate', 'r', '--head', 'svm']):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with contextlib.suppress(SystemExit):
            main(words)
print(sorted({'torch', 'numpy', 'pydantic', 'rich', 'yaml', 'PIL', 'matplotlib', 'sklearn'} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("words", [["--help"], ["zoo", "inspect", "{zoo}"]])
def test_a_reader_that_goes_away_is_no_error(workshop: Workshop, words: list[str]) -> None:
    command = [sys.executable, "-m", "metazoo", *(word.format(zoo=workshop.zoo) for word in words)]
    # Without a buffer, argparse itself ignores the error.
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            command, env=buffered, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=300
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_exit_codes_reach_the_shell() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "metazoo", "trian"], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("metazoo: COMMAND: invalid choice: 'trian'")
