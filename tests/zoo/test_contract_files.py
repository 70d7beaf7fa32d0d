"""The contract files of a zoo, and zoos of version 0.1, which had one list of all contracts."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from error_checks import raises
from zoo_helpers import classifier, content

from metazoo.errors import ArtefactError, ZooError
from metazoo.storage import artefacts
from metazoo.zoo import Zoo, add_folder, contract_files, verify_zoo, zoo_folder
from metazoo.zoo.checking.verify import stray_files

NAMES = ["b", "C", "a", "d"]


def add(zoo: Zoo, *names: str) -> None:
    for name in names:
        zoo.store(name, classifier(seed=len(name)), class_names=("x", "y", "é"), domain="d")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    zoo = Zoo.create(tmp_path_factory.mktemp("template") / "zoo")
    add(zoo, *NAMES)
    return zoo.folder


@pytest.fixture
def young(template: Path, tmp_path: Path) -> Path:
    """A zoo as it is written today."""
    return shutil.copytree(template, tmp_path / "young", ignore=shutil.ignore_patterns(".lock*"))


@pytest.fixture
def former(young: Path, tmp_path: Path) -> Path:
    """The same zoo of version 0.1, whose writer was killed after it had added `a` and `d`."""
    folder = shutil.copytree(young, tmp_path / "former", ignore=shutil.ignore_patterns("*.json"))
    records = {contract.name: contract.as_record() for contract in Zoo.open(young)}
    index = {"format": "metazoo-zoo", "format_version": 1, "models": [records["b"], records["C"]]}
    (folder / "zoo.json").write_text(json.dumps(index))
    lines = [hashlib.sha256((folder / "zoo.json").read_bytes()).hexdigest(), records["a"], records["d"]]
    (folder / "added.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def described(zoo: Path, files: Path) -> None:
    """The weights of a zoo in a folder, each with a file that describes the model."""
    shutil.copytree(zoo / "models", files, ignore=shutil.ignore_patterns("*.json"))
    said = Zoo.open(zoo).contract("a").spec.model_dump(mode="json") | {"classes": ["x", "y", "z"], "domain": "d"}
    for path in list(files.iterdir()):
        path.with_suffix(".json").write_text(json.dumps(said))


def names_in(folder: Path) -> list[str]:
    return [contract.name for contract in Zoo.open(folder)]


def test_a_model_more_writes_its_own_two_files_alone(young: Path) -> None:
    before = content(young)
    with (zoo := Zoo.open(young)).writing():
        for name in ("e", "f"):
            add(zoo, name)
            assert name in names_in(young)
    after = content(young)
    assert {path: after[path] for path in before} == before
    assert after.keys() - before.keys() == {
        f"models/{name}{suffix}" for name in "ef" for suffix in (".json", ".safetensors")
    }
    zoo.permit(["e"], "keep")
    changed = content(young)
    assert [path for path in after if changed[path] != after[path]] == ["models/e.json"]
    zoo.remove(["e", "f"])
    assert content(young) == before


def test_weights_without_a_whole_contract_do_not_count(young: Path) -> None:
    whole = (young / "models" / "a.json").read_bytes()
    (young / "models" / "a.json").rename(young / "models" / ".a.json.1.tmp")
    assert names_in(young) == ["C", "b", "d"]
    assert stray_files(Zoo.open(young)) == ["models/.a.json.1.tmp", "models/a.safetensors"]
    add(Zoo.open(young), "a")
    assert not (young / "models" / ".a.json.1.tmp").exists()
    assert (young / "models" / "a.json").read_bytes() == whole


def test_a_zoo_of_version_0_1_opens_and_keeps_its_hash(former: Path, young: Path) -> None:
    before = content(former)
    zoo = Zoo.open(former)
    assert [contract.name for contract in zoo] == sorted(NAMES)
    assert zoo.sha256 == Zoo.open(young).sha256
    assert zoo.reference(*zoo).open().contracts == zoo.contracts
    assert {finding.status for finding in verify_zoo(zoo) if finding.subject in NAMES} == {"sound"}
    assert content(former) == before


def test_the_first_writer_migrates_it_and_references_stay_valid(former: Path, young: Path) -> None:
    zoo = Zoo.open(former)
    reference = zoo.reference(*zoo)
    with zoo.writing():
        assert content(former) == content(young)
    assert content(former) == content(young)
    assert [contract.name for contract in reference.open()] == sorted(NAMES)


@pytest.mark.parametrize("kept", [1, 40, 67, 68, 200])
def test_a_half_written_line_of_version_0_1_does_not_count(former: Path, kept: int) -> None:
    path = former / "added.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    assert names_in(former) == ["C", "b"]
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:kept])
    assert names_in(former) == ["C", "a", "b"]


def test_what_was_added_to_another_list_is_void(former: Path) -> None:
    index = json.loads((former / "zoo.json").read_text())
    (former / "zoo.json").write_text(json.dumps({**index, "models": index["models"][:1]}))
    assert names_in(former) == ["b"]


def test_a_reader_during_the_migration_sees_all(former: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    migrated = []

    def read(path: Path) -> bytes:
        data = artefacts.read_bytes(path)
        if not migrated:
            migrated.append(1)
            with Zoo(former, ()).writing():
                pass
        return data

    monkeypatch.setattr(contract_files, "read_bytes", read)
    assert names_in(former) == sorted(NAMES)
    assert not (former / "added.jsonl").exists()


def test_a_reader_during_a_removal_sees_the_others(young: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> bytes:
        (young / "models" / "b.json").unlink(missing_ok=True)
        return artefacts.read_bytes(path)

    monkeypatch.setattr(contract_files, "read_bytes", read)
    assert names_in(young) == ["C", "a", "d"]


def test_damage_is_named(young: Path, former: Path) -> None:
    path, other = young / "models" / "a.json", young / "models" / "q.json"
    record = json.loads(path.read_text())
    for text, problem in (
        ("{]", ""),
        ("[]", "damaged contract"),
        (json.dumps({**record, "format_version": 9}), ""),
        (json.dumps({**record, "accuracy": -1}), "damaged contract of model 'a' (accuracy"),
        (json.dumps({**record, "name": "b"}), "holds the contract of 'b'"),
    ):
        path.write_text(text)
        with raises(ArtefactError, subject=str(path), problem=problem):
            Zoo.open(young)
    path.write_text(json.dumps(record))
    other.mkdir()
    with raises(ArtefactError, subject=str(other), problem="not a file"):
        Zoo.open(young)
    lines = (former / "added.jsonl").read_bytes().splitlines(keepends=True)
    for line, problem in ((b'{"name": "q"}\n', "model 'q'"), (lines[1].replace(b'"a"', b'"A"', 1), "'A'")):
        (former / "added.jsonl").write_bytes(b"".join([*lines, line]))
        with raises(ArtefactError, subject="added.jsonl", problem=problem):
            Zoo.open(former)


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
def test_contracts_elsewhere_are_not_read(young: Path, tmp_path: Path) -> None:
    (young / "models").rename(tmp_path / "outside")
    (young / "models").symlink_to(tmp_path / "outside")
    with raises(ZooError, subject=str(young / "models"), problem="leads out of the zoo"):
        Zoo.open(young)


_KILLED = """
import os, signal, sys
from pathlib import Path
from metazoo.zoo import add_folder, zoo_folder
real, left = zoo_folder.write_contract, [2]
def dying(*given):
    real(*given)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
zoo_folder.write_contract = dying
add_folder(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_folder_is_continued_where_it_was_killed(tmp_path: Path, young: Path) -> None:
    files = tmp_path / "files"
    described(young, files)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _KILLED, str(tmp_path / "zoo"), str(files)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -9
    assert names_in(tmp_path / "zoo") == ["C", "a"]
    additions = add_folder(tmp_path / "zoo", files)
    assert [addition.status for addition in additions] == ["present", "present", "added", "added"]
    add_folder(tmp_path / "whole", files)
    assert content(tmp_path / "zoo") == content(tmp_path / "whole")


def test_a_folder_whose_first_model_cannot_be_written_continues_with_the_others(
    tmp_path: Path, young: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described(young, tmp_path / "files")
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
