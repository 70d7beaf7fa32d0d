import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from error_checks import raises

from metazoo.errors import ArtefactError
from metazoo.storage.artefacts import (
    read_bytes,
    read_json,
    remove_stale_temporaries,
    sha256_of_file,
    write_bytes,
    write_json,
    write_text,
)
from metazoo.storage.lock import exclusive
from metazoo.storage.tensor_files import read_tensor_metadata, read_tensors, write_tensors


def _entries(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_written_bytes_are_read_back_with_their_hash(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "data.bin"
    assert write_bytes(path, b"first") == hashlib.sha256(b"first").hexdigest()
    sha256 = write_bytes(path, b"second")
    assert read_bytes(path, sha256) == b"second"
    assert sha256_of_file(path) == sha256 == hashlib.sha256(b"second").hexdigest()
    assert _entries(tmp_path / "new" / "folder") == ["data.bin"]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_mode_follows_the_umask_for_bytes_and_tensors(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_bytes(tmp_path / "a.bin", b"a")
        write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(1)})
    finally:
        os.umask(before)
    for name in ("a.bin", "a.safetensors"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask


def test_every_write_is_flushed_before_it_is_renamed_within_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor: int) -> None:
        events.append(("fsync", os.path.realpath(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def recorded_replace(source: Path, target: Path) -> None:
        events.append(("replace", f"{source} -> {target}"))
        replace(source, target)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to name a descriptor")
    folder = tmp_path.resolve() / "made"
    temporary = folder / f".data.bin.{os.getpid()}.tmp"
    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    write_bytes(folder / "data.bin", b"data")
    assert events == [
        ("fsync", str(folder.parent)),
        ("fsync", str(temporary)),
        ("replace", f"{temporary} -> {folder / 'data.bin'}"),
        ("fsync", str(folder)),
    ]


def test_a_folder_on_another_file_system_than_the_temporary_folder_can_be_written(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system")
    path = memory / f"metazoo-test-{os.getpid()}"
    try:
        write_bytes(path, b"data")
        assert read_bytes(path) == b"data"
    finally:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("call", "code", "remedy"),
    [
        ("fsync", errno.ENOSPC, "free some space"),
        ("fsync", errno.EDQUOT, "free some space"),
        ("fsync", errno.EIO, "check the disk"),
        ("replace", errno.EXDEV, "choose another path"),
        ("replace", errno.EROFS, "writable"),
        ("replace", errno.EACCES, "writable"),
    ],
)
def test_a_failure_of_the_system_names_the_path_and_the_remedy_and_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, remedy: str
) -> None:
    path = tmp_path / "data.bin"
    write_bytes(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with raises(ArtefactError, subject=str(path), problem=os.strerror(code), remedy=remedy):
            write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert _entries(tmp_path) == ["data.bin"]


def test_an_interrupt_in_mid_write_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "data.bin", b"new")
    assert _entries(tmp_path) == []


def test_a_really_full_disk_is_a_clear_error_and_leaves_the_old_file_alone(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    probe = subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    ) if Path("/usr/bin/unshare").exists() else None  # fmt: skip
    if probe is None or probe.returncode != 0:
        pytest.skip("this machine does not let a test mount a small disk of its own")
    script = f"""
import sys
from pathlib import Path
from metazoo.errors import ArtefactError
from metazoo.storage.artefacts import write_bytes
path = Path({str(disk)!r}) / "data.bin"
write_bytes(path, b"old")
try:
    write_bytes(path, bytes(1 << 20))
except ArtefactError as error:
    assert path.read_bytes() == b"old" and [p.name for p in path.parent.iterdir()] == ["data.bin"]
    sys.exit(str(error))
"""
    command = f'mount -t tmpfs -o size=64k tmpfs "{disk}" && exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command, sys.executable, script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    for text in (str(disk / "data.bin"), "No space left on device", "free some space", "--resume"):
        assert text in message


def test_a_folder_without_write_permission_is_a_clear_error(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    script = f"""
import os, sys
from metazoo.errors import ArtefactError, RunError
from metazoo.storage.artefacts import write_bytes
from metazoo.storage.lock import exclusive
os.chdir({str(folder)!r})
os.chmod(".", 0o555)
if os.geteuid() == 0:
    os.seteuid(65534)
for act in (lambda: write_bytes("data.bin", b"x"), lambda: exclusive(".").__enter__()):
    try:
        act()
    except (ArtefactError, RunError) as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    write, lock = done.stdout.splitlines()
    assert write == "data.bin: cannot be written (Permission denied); make the folder writable or choose another"
    assert lock == ".: cannot be locked (Permission denied); choose a folder that can be written and locked"
    assert _entries(folder) == []


@pytest.mark.parametrize("name", ["folder", "file/inside", "a" * 300, "nul\0"])
def test_an_impossible_path_is_a_clear_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("a file")
    with raises(ArtefactError, subject=name, problem="written"):
        write_bytes(tmp_path / name, b"data")
    assert _entries(tmp_path) == ["file", "folder"]


def test_a_link_planted_where_the_temporary_file_goes_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f".data.bin.{os.getpid()}.tmp").symlink_to(victim)
    write_bytes(tmp_path / "data.bin", b"data")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "data.bin").is_symlink()


def test_threads_that_write_one_file_leave_a_whole_version(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    versions = [bytes([number]) * 100_000 for number in range(4)]
    failures: list[BaseException] = []

    def work(data: bytes) -> None:
        try:
            for _ in range(10):
                write_bytes(path, data)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(version,)) for version in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert path.read_bytes() in versions
    assert _entries(tmp_path) == ["data.bin"]


def test_stale_temporaries_are_removed_except_those_of_another_writer(tmp_path: Path) -> None:
    with exclusive(tmp_path / "run"):
        names = {
            "deep/.model.safetensors.4194305.tmp": True,
            f".zoo.json.{os.getpid()}.tmp": True,
            f".zoo.json.{os.getppid()}.tmp": True,  # of a running process
            f"run/.run.json.{os.getpid()}.tmp": False,
            f"run/deep/.model.safetensors.{os.getpid()}.tmp": False,
            ".zoo.json.tmp": False,
            "zoo.json.1.tmp": False,
            ".zoo.json.1.tmp.bak": False,
            "zoo.json": False,
        }
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("")
        os.utime(tmp_path / f".zoo.json.{os.getppid()}.tmp", (2e9, 2e9))  # by a wrong clock
        assert remove_stale_temporaries(tmp_path) == 3
        assert {name for name in names if not (tmp_path / name).exists()} == {n for n, stale in names.items() if stale}
        assert remove_stale_temporaries(tmp_path / "run") == 2
    assert remove_stale_temporaries(tmp_path / "nowhere") == 0


def test_json_round_trip_and_refusals(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    value = {"name": "Ω \udc80", "list": [1, 2.5, None, True]}
    sha256 = write_json(path, value)
    assert read_json(path, sha256) == value
    assert "Ω" in path.read_text(encoding="utf-8")
    for unfit in (float("nan"), float("inf"), {1, 2}, torch.ones(1)):
        with raises(ArtefactError, subject="value.json", problem="JSON"):
            write_json(path, {"value": unfit})
    assert read_json(path, sha256) == value


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\xfa", b"[NaN]", b"-Infinity", b"[" * 200_000])
def test_what_is_not_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "value.json"
    path.write_bytes(content)
    with raises(ArtefactError, subject="value.json", problem="JSON"):
        read_json(path)


def test_text_is_utf8_without_newline_translation(tmp_path: Path) -> None:
    write_text(tmp_path / "card.md", "a\nß\r\n")
    assert (tmp_path / "card.md").read_bytes() == b"a\n\xc3\x9f\r\n"


@pytest.mark.parametrize("read", [read_bytes, read_json, read_tensors, read_tensor_metadata, sha256_of_file])
def test_a_missing_file_and_a_folder_instead_of_it_are_clear_errors(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    with raises(ArtefactError, subject="gone.json", problem="missing", remedy="restore"):
        read(tmp_path / "gone.json")
    with raises(ArtefactError, subject=str(tmp_path), problem="director"):
        read(tmp_path)


def test_a_changed_json_file_is_noticed(tmp_path: Path) -> None:
    sha256 = write_json(tmp_path / "a.json", {"a": 1})
    (tmp_path / "a.json").write_text(json.dumps({"a": 2}))
    with raises(ArtefactError, subject="a.json", problem="SHA-256"):
        read_json(tmp_path / "a.json", sha256)
