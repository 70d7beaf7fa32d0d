import json
from pathlib import Path

import pytest

from metazoo.errors import ArtefactError
from metazoo.storage.artefacts import sha256_of_file, write_bytes
from metazoo.storage.manifest import Manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.bin", "a/z.bin", "a/y.bin"):
        write_bytes(tmp_path / name, name.encode())
    return tmp_path


def test_what_is_added_stands_in_the_file_sorted_and_is_read_again(folder: Path) -> None:
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
    with pytest.raises(ArtefactError, match=r"b\.bin has changed since it was written"):
        manifest.verify()
    manifest.verify("a/y.bin")
    (folder / "a/z.bin").unlink()
    with pytest.raises(ArtefactError, match=r"z\.bin is missing"):
        manifest.verify()
    (folder / "a/y.bin").write_bytes(b"longer than before")
    with pytest.raises(ArtefactError, match=r"y\.bin has changed"):
        manifest.verify()
    with pytest.raises(ArtefactError, match=r"other\.bin is not in its manifest"):
        manifest.verify("other.bin")


def test_a_wrong_hash_given_by_the_writer_is_found_out(folder: Path) -> None:
    manifest = Manifest(folder)
    manifest.add("b.bin", hashes={"b.bin": "0" * 64})
    with pytest.raises(ArtefactError, match=r"b\.bin has changed"):
        manifest.verify()


def test_an_incomplete_folder_is_not_sound(folder: Path) -> None:
    with pytest.raises(ArtefactError, match=r"manifest\.json is missing"):
        Manifest(folder).verify()


def test_a_failed_addition_changes_nothing(folder: Path) -> None:
    manifest = Manifest(folder)
    manifest.add("b.bin")
    before = (folder / "manifest.json").read_bytes()
    for hashes in (None, {"gone.bin": "0" * 64}):
        with pytest.raises(ArtefactError, match=r"gone\.bin is missing"):
            manifest.add("a/z.bin", "gone.bin", hashes=hashes)
    assert list(manifest.files) == ["b.bin"]
    assert (folder / "manifest.json").read_bytes() == before


def test_discarded_files_are_forgotten(folder: Path) -> None:
    manifest = Manifest(folder)
    manifest.add("b.bin", "a/z.bin")
    manifest.discard("b.bin")
    (folder / "b.bin").unlink()
    Manifest(folder).verify()
    with pytest.raises(ArtefactError, match="is not in its manifest"):
        Manifest(folder).sha256("b.bin")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../outside", "", ".", "manifest.json"])
def test_only_files_within_the_folder_are_listed(folder: Path, name: str) -> None:
    with pytest.raises(ArtefactError, match="is not a file within"):
        Manifest(folder).add(name)
    (folder / "manifest.json").write_text(
        json.dumps({"format_version": 1, "files": {name: {"sha256": "", "bytes": 0}}})
    )
    with pytest.raises(ArtefactError, match="not a file within its folder"):
        Manifest(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "is not a manifest"),
        ('{"format_version": 1}', "is not a manifest"),
        ('{"format_version": 1, "files": {"a": "b"}}', "is not a manifest"),
        ('{"format_version": 1, "files": {"a": {"sha256": 1, "bytes": 1}}}', "is not a manifest"),
        ('{"format_version": 2, "files": {}}', "format version 2"),
    ],
)
def test_a_damaged_or_newer_manifest_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ArtefactError, match=message):
        Manifest(tmp_path)
