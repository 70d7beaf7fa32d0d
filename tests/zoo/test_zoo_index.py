"""The list of a zoo while several models are added in one go."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from zoo_helpers import classifier, content

from metazoo.errors import ArtefactError
from metazoo.storage import artefacts
from metazoo.zoo import Zoo, add_folder, verify_zoo, zoo_folder, zoo_index

NAMES = ["b", "C", "a", "d"]


def add(zoo: Zoo, *names: str) -> None:
    for name in names:
        zoo.add(name, classifier(seed=len(name)), class_names=("x", "y", "é"), domain="d")


@pytest.fixture
def one_by_one(tmp_path: Path) -> Path:
    add(Zoo.create(tmp_path / "one by one"), *NAMES)
    return tmp_path / "one by one"


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """The folder of a zoo whose writer was killed after its last model."""
    zoo = Zoo.create(tmp_path / "zoo")
    with zoo.writing():
        add(zoo, *NAMES)
        shutil.copytree(zoo.folder, tmp_path / "interrupted", ignore=shutil.ignore_patterns(".lock*"))
    return tmp_path / "interrupted"


def described(zoo: Path, files: Path) -> None:
    """The weights of a zoo in a folder, each with a file that describes the model."""
    shutil.copytree(zoo / "models", files)
    said = Zoo.open(zoo).contract("a").spec.model_dump(mode="json") | {"classes": ["x", "y", "z"], "domain": "d"}
    for path in list(files.iterdir()):
        path.with_suffix(".json").write_text(json.dumps(said))


def names_in(folder: Path) -> list[str]:
    return [contract.name for contract in Zoo.open(folder)]


def test_many_in_one_go_end_as_one_by_one_with_the_list_written_once(
    tmp_path: Path, one_by_one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo, written = Zoo.create(tmp_path / "zoo"), []
    monkeypatch.setattr(
        zoo_folder, "write_listing", lambda *given: written.append(1) or zoo_index.write_listing(*given)
    )
    with zoo.writing():
        for count, name in enumerate(NAMES, start=1):
            add(zoo, name)
            assert names_in(zoo.folder) == sorted(NAMES[:count]) == [contract.name for contract in zoo]
        assert not written
    assert len(written) == 1
    assert content(zoo.folder) == content(one_by_one)
    with zoo.writing():
        zoo.remove(["C"])
        add(zoo, "e")
        zoo.permit(["e"], "keep")
    assert names_in(zoo.folder) == ["a", "b", "d", "e"]
    assert sorted(content(zoo.folder)) == [*(f"models/{name}.safetensors" for name in "abde"), "zoo.json"]


def test_what_a_killed_writer_added_counts_and_the_next_one_puts_it_into_the_list(
    interrupted: Path, one_by_one: Path
) -> None:
    before = content(interrupted)
    assert json.loads(before["zoo.json"])["models"] == []
    assert names_in(interrupted) == sorted(NAMES)
    assert {finding.status for finding in verify_zoo(Zoo.open(interrupted))} == {"sound"}
    assert content(interrupted) == before
    with Zoo.open(interrupted).writing():
        assert content(interrupted) == content(one_by_one)
    Zoo.open(interrupted).settle()
    assert content(interrupted) == content(one_by_one)


@pytest.mark.parametrize("kept", [1, 40, 67, 68, 200])
def test_a_half_written_line_does_not_count(interrupted: Path, kept: int) -> None:
    path = interrupted / "added.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    assert names_in(interrupted) == []
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:kept])
    assert names_in(interrupted) == ["C", "b"]
    add(Zoo.open(interrupted), "a")
    assert names_in(interrupted) == ["C", "a", "b"]
    assert not path.exists()


def test_what_was_added_to_another_list_is_void(interrupted: Path, one_by_one: Path) -> None:
    # As left by a writer that was killed between the new list and the end of what had been added to the former one.
    shutil.copy(one_by_one / "zoo.json", interrupted)
    assert names_in(interrupted) == sorted(NAMES)
    Zoo.open(interrupted).remove(["a"])
    assert names_in(interrupted) == ["C", "b", "d"]
    assert not (interrupted / "added.jsonl").exists()


def test_a_reader_between_the_new_list_and_the_end_of_the_former_one_sees_all(
    interrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled = []

    def read(path: Path) -> bytes:
        data = artefacts.read_bytes(path)
        if not settled:
            settled.append(1)
            Zoo(interrupted, ()).settle()
        return data

    monkeypatch.setattr(zoo_index, "read_bytes", read)
    assert names_in(interrupted) == sorted(NAMES)
    assert settled


def test_damage_is_named(interrupted: Path) -> None:
    path = interrupted / "added.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, b"{]\n"]))
    with pytest.raises(ArtefactError, match=r"added.jsonl is not valid JSON"):
        Zoo.open(interrupted)
    path.write_bytes(b"".join([*lines, b'{"name": "q"}\n']))
    with pytest.raises(ArtefactError, match=r"model 'q' in .*added.jsonl is damaged"):
        Zoo.open(interrupted)
    path.write_bytes(b"".join([*lines, lines[1].replace(b'"b"', b'"B"', 1)]))
    with pytest.raises(ArtefactError, match=r"added.jsonl has two models called 'B'"):
        Zoo.open(interrupted)


_KILLED = """
import os, signal, sys
from pathlib import Path
from metazoo.storage import artefacts as lines
from metazoo.zoo import add_folder, zoo_folder
real, left = zoo_folder.add_to_listing, [int(sys.argv[3])]
def dying(*given):
    real(*given)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
zoo_folder.add_to_listing = dying
add_folder(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_folder_is_gone_on_with_where_it_was_killed(tmp_path: Path, one_by_one: Path) -> None:
    files = tmp_path / "files"
    described(one_by_one, files)
    command = [
        sys.executable,
        "-W",
        "ignore::DeprecationWarning",
        "-c",
        _KILLED,
        str(tmp_path / "zoo"),
        str(files),
        "2",
    ]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -9
    assert names_in(tmp_path / "zoo") == ["C", "a"]
    additions = add_folder(tmp_path / "zoo", files)
    assert [addition.status for addition in additions] == ["present", "present", "added", "added"]
    add_folder(tmp_path / "whole", files)
    assert content(tmp_path / "zoo") == content(tmp_path / "whole")
    assert not (tmp_path / "zoo" / "added.jsonl").exists()


def test_a_folder_whose_first_model_cannot_be_written_goes_on_with_the_others(
    tmp_path: Path, one_by_one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described(one_by_one, tmp_path / "files")
    write = zoo_folder.write_weights

    def refusing(zoo: Path, name: str, *rest: Any) -> str:
        if name == "C":
            raise ArtefactError("cannot write C")
        return write(zoo, name, *rest)

    monkeypatch.setattr(zoo_folder, "write_weights", refusing)
    Zoo.create(tmp_path / "zoo")
    additions = add_folder(tmp_path / "zoo", tmp_path / "files")
    assert [addition.status for addition in additions] == ["problem", "added", "added", "added"]
    assert additions[0].text == "cannot write C"
    assert names_in(tmp_path / "zoo") == ["a", "b", "d"]
