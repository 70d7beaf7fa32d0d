import json
from pathlib import Path

import pytest
from error_checks import raises

from metazoo.errors import ArtefactError
from metazoo.storage.artefacts import sha256_of_file, write_bytes
from metazoo.storage.manifest import Manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.bin", "a/z.bin", "a/y.bin"):
        write_bytes(tmp_path / name, name.encode())
    return tmp_path


def test_added_files_are_written_sorted_and_read_again(folder: Path) -> None:
    sha256 = sha256_of_file(folder / "b.bin")
    Manifest(folder).add("b.bin", folder / "a" / "z.bin", Path("a/y.bin"), hashes={"b.bin": sha256})
    content = json.loads((folder / "manifest.json").read_text())
    assert content["format_version"] == 1
    assert list(content["files"]) == ["a/y.bin", "a/z.bin", "b.bin"]
    assert content["files"]["b.bin"] == {"sha256": sha256, "bytes": 5}
    again = Manifest(folder)
    again.verify()
    assert again.sha256("a/z.bin") == sha256_of_file(folder / "a/z.bin")


def test_the_first_bad_file_is_named(folder: Path) -> None:
    manifest = Manifest(folder)
    manifest.add("b.bin", "a/z.bin", "a/y.bin")
    (folder / "b.bin").write_bytes(b"B.bin")
    with raises(ArtefactError, subject="b.bin", problem="changed"):
        manifest.verify()
    manifest.verify("a/y.bin")
    (folder / "a/z.bin").unlink()
    with raises(ArtefactError, subject="z.bin", problem="missing"):
        manifest.verify()
    (folder / "a/y.bin").write_bytes(b"longer than before")
    with raises(ArtefactError, subject="y.bin", problem="changed"):
        manifest.verify()
    with raises(ArtefactError, subject="other.bin", problem="manifest"):
        manifest.verify("other.bin")


def test_a_wrong_hash_given_by_the_writer_is_found_out(folder: Path) -> None:
    manifest = Manifest(folder)
    manifest.add("b.bin", hashes={"b.bin": "0" * 64})
    with raises(ArtefactError, subject="b.bin", problem="changed"):
        manifest.verify()


def test_an_incomplete_folder_is_not_sound(folder: Path) -> None:
    with raises(ArtefactError, subject="manifest.json", problem="missing"):
        Manifest(folder).verify()


def test_a_failed_addition_changes_nothing(folder: Path) -> None:
    manifest = Manifest(folder)
    manifest.add("b.bin")
    before = (folder / "manifest.json").read_bytes()
    for hashes in (None, {"gone.bin": "0" * 64}):
        with raises(ArtefactError, subject="gone.bin", problem="missing"):
            manifest.add("a/z.bin", "gone.bin", hashes=hashes)
    assert list(manifest.files) == ["b.bin"]
    assert (folder / "manifest.json").read_bytes() == before


def test_discarded_files_are_forgotten(folder: Path) -> None:
    manifest = Manifest(folder)
    manifest.add("b.bin", "a/z.bin")
    manifest.discard("b.bin")
    (folder / "b.bin").unlink()
    Manifest(folder).verify()
    with raises(ArtefactError, subject="b.bin", problem="manifest"):
        Manifest(folder).sha256("b.bin")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../outside", "", ".", "manifest.json"])
def test_only_files_within_the_folder_are_listed(folder: Path, name: str) -> None:
    with raises(ArtefactError, subject=name, problem=str(folder)):
        Manifest(folder).add(name)
    (folder / "manifest.json").write_text(
        json.dumps({"format_version": 1, "files": {name: {"sha256": "", "bytes": 0}}})
    )
    with raises(ArtefactError, subject="manifest.json", problem=repr(name)):
        Manifest(folder)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "JSON"),
        ("[]", "is not a manifest"),
        ('{"format_version": 1}', "is not a manifest"),
        ('{"format_version": 1, "files": {"a": "b"}}', "is not a manifest"),
        ('{"format_version": 1, "files": {"a": {"sha256": 1, "bytes": 1}}}', "is not a manifest"),
        ('{"format_version": 2, "files": {}}', "format version 2"),
    ],
)
def test_a_damaged_or_newer_manifest_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with raises(ArtefactError, subject="manifest.json", problem=problem):
        Manifest(tmp_path)
