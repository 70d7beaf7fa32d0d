import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from error_checks import raises

from metazoo.errors import RunError
from metazoo.storage.lock import exclusive

_HOLD = """
import sys
from metazoo.storage.lock import exclusive
with exclusive(sys.argv[1]):
    print("held", flush=True)
    input()
"""


def _holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_another_process_is_refused_by_name_until_the_owner_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "run"
    owner = _holder(folder)
    expected = f"process {owner.pid} on {socket.gethostname()} since 2"
    with raises(RunError, subject=str(folder), problem=expected), exclusive(folder):
        pytest.fail("two writers")
    owner.send_signal(signal.SIGKILL)
    owner.communicate(timeout=30)
    assert json.loads((folder / ".lock-owner.json").read_text())["process"] == owner.pid
    with exclusive(folder):
        assert json.loads((folder / ".lock-owner.json").read_text())["process"] == os.getpid()
    assert not (folder / ".lock-owner.json").exists()


def test_the_same_process_is_refused_too_and_the_first_hold_outlives_the_attempt(tmp_path: Path) -> None:
    refusals: list[str] = []

    def attempt() -> None:
        try:
            with exclusive(tmp_path):
                pass
        except RunError as error:
            refusals.append(str(error))

    with exclusive(tmp_path):
        attempt()
        other = threading.Thread(target=attempt)
        other.start()
        other.join()
        assert len(refusals) == 2
        assert all("in use by this process" in refusal for refusal in refusals)
        assert (tmp_path / ".lock-owner.json").exists()
    attempt()
    assert len(refusals) == 2


def test_a_failure_inside_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path):
        raise ZeroDivisionError
    with exclusive(tmp_path):
        pass


def test_two_folders_are_two_locks(tmp_path: Path) -> None:
    with exclusive(tmp_path / "a"), exclusive(tmp_path / "b"):
        pass


@pytest.mark.parametrize("note", ["", "[]", '{"process": "x"}', '{"process": 4194305, "host": "HOST", "started": "s"}'])
def test_a_damaged_or_stale_note_only_hides_the_name_of_the_owner(tmp_path: Path, note: str) -> None:
    with exclusive(tmp_path):
        (tmp_path / ".lock-owner.json").write_text(note.replace("HOST", socket.gethostname()))
        with raises(RunError, subject=str(tmp_path), problem="another process"), exclusive(tmp_path):
            pytest.fail("two writers")


def test_a_stale_lock_is_acquired_even_if_its_process_number_was_reused(
    tmp_path: Path,
) -> None:
    note = {"process": os.getppid(), "host": socket.gethostname(), "started": "2099-01-01 00:00:00 UTC"}
    (tmp_path / ".lock").write_text("")
    (tmp_path / ".lock-owner.json").write_text(json.dumps(note))
    with exclusive(tmp_path):
        assert json.loads((tmp_path / ".lock-owner.json").read_text())["process"] == os.getpid()


def test_a_file_instead_of_the_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with raises(RunError, subject="run", problem="File exists"), exclusive(tmp_path / "run"):
        pytest.fail("locked a file")
