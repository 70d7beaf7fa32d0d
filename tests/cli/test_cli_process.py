"""What only a process of its own shows."""

import os
import subprocess
import sys

import pytest
from cli_helpers import Workshop

RUN = "import sys; from metazoo.cli import main; sys.exit(main())"


def command(*words: object, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RUN, *map(str, words)],
        env=os.environ | more, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("words", ["['--help']", "['--version']", "['train', '--help']", "['trian']", "['train']"])
def test_help_version_and_typing_errors_are_quick(words: str) -> None:
    script = f"""
import contextlib, io, sys
from metazoo.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    try:
        main({words})
    except SystemExit:
        pass
print(sorted({{'torch', 'numpy', 'pydantic', 'rich', 'yaml', 'PIL', 'matplotlib', 'sklearn'}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "[]\n"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize("words", ["--help", "zoo inspect {zoo}", "predict {classifier} {unseen} --format jsonl"])
def test_a_reader_that_goes_away_is_no_error(workshop: Workshop, words: str) -> None:
    line = words.format(zoo=workshop.zoo, classifier=workshop.classifier, unseen=workshop.unseen)
    # Whatever is written, `true` has gone before.
    script = f"({{ sleep 0.3; {sys.executable} -c '{RUN}' {line}; echo $? >&2; }}) | true"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False, timeout=300)
    assert done.stderr.strip() in ("0", "1")


def test_exit_codes_reach_the_shell() -> None:
    done = command("zoo", "inspect", "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("metazoo: nowhere is not a folder")


def test_names_of_any_bytes_are_printed_in_any_encoding(workshop: Workshop) -> None:
    odd = workshop.folder / "odd-\udcff-é.png"
    odd.write_bytes(next(workshop.support.rglob("*.png")).read_bytes())
    for form in ("csv", "table"):
        done = command("predict", workshop.classifier, odd, "--format", form, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
        assert (done.returncode, done.stderr) == (0, "")
        assert r"odd-\udcff-\xe9.png" in done.stdout
