"""A bank whose files were touched, and a bank whose writer was killed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from metazoo.bank import Bank
from metazoo.bank import bank as bank_module
from metazoo.errors import ArtefactError

FIRST, SECOND = (f"generation-0000-bucket-000{bucket}.safetensors" for bucket in range(2))


def images_of(value: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((4, 3, 6, 6), value, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bank = Bank.create(tmp_path / "bank")
    bank.add("a", 0, 0, *images_of(1))
    bank.add("a", 0, 1, *images_of(2))
    bank.add("b", 0, 0, *images_of(3))
    return tmp_path / "bank"


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def swap(path: Path, other: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte of a pixel flipped": (lambda a: flip(a / FIRST, -100), f"{FIRST}: has changed"),
    "a byte of the header flipped": (lambda a: flip(a / FIRST, 20), f"{FIRST}: has changed"),
    "truncated": (lambda a: (a / SECOND).write_bytes((a / SECOND).read_bytes()[:-1]), f"{SECOND}: has changed"),
    "emptied": (lambda a: (a / SECOND).write_bytes(b""), f"{SECOND}: has changed"),
    "deleted": (lambda a: (a / SECOND).unlink(), f"{SECOND}: is missing"),
    "swapped": (lambda a: swap(a / FIRST, a / SECOND), f"{FIRST}: has changed"),
    "taken from another teacher": (lambda a: shutil.copy(a.parent / "b" / FIRST, a / FIRST), f"{FIRST}: has changed"),
    "a folder in its place": (lambda a: ((a / FIRST).unlink(), (a / FIRST).mkdir()), f"{FIRST}"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_touched_shard_is_named_when_it_is_read(folder: Path, damage: str) -> None:
    act, message = DAMAGE[damage]
    act(folder / "a")
    bank = Bank.open(folder)  # opening reads no image
    assert bank.images_of("b")[0].unique().tolist() == [3]
    for read in (lambda: bank.images_of("a"), bank.verify):
        with pytest.raises(ArtefactError, match=message):
            read()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.update(format_version=2), "has format version 2, this metazoo reads 1"),
        (lambda index: index.update(format="else"), "is not an index of recovered images"),
        (lambda index: index.update(extra=1), "is not an index of recovered images"),
        (lambda index: index.update(teacher="b"), "is the index of generation 0 of 'b'"),
        (lambda index: index.update(generation=1), "is the index of generation 1 of 'a'"),
        (lambda index: index.update(shards=index["shards"] * 2), "names a bucket twice"),
        (lambda index: index["shards"][0].update(sha256="../x"), "is not an index of recovered images"),
        (lambda index: index["shards"][1].update(bucket=-1), "is not an index of recovered images"),
    ],
)
def test_a_touched_index_is_named_on_opening(folder: Path, change: Callable[[dict], object], message: str) -> None:
    path = folder / "a" / "generation-0000.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))
    with pytest.raises(ArtefactError, match=rf"generation-0000\.json:? {message}"):
        Bank.open(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": "metazoo-images"}', "\ufeff{}", "[" * 100_000])
def test_an_index_that_is_no_index_is_named(folder: Path, text: str) -> None:
    path = folder / "a" / "generation-0000.json"
    path.write_text(text)
    with pytest.raises(ArtefactError, match=r"a.generation-0000\.json"):
        Bank.open(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "metazoo-zoo", "format_version": 1}'])
def test_a_foreign_bank_file_is_refused(folder: Path, text: str) -> None:
    (folder / "bank.json").write_text(text)
    with pytest.raises(ArtefactError, match=r"bank\.json"):
        Bank.open(folder)
    (folder / "bank.json").write_text('{"format": "metazoo-bank", "format_version": 7}')
    with pytest.raises(ArtefactError, match="has format version 7, this metazoo reads 1; update metazoo"):
        Bank.open(folder)


@pytest.mark.parametrize("lie", [{"images": 5}, {"class_counts": {"0": 3, "1": 1}}, {"class_counts": {"0": 4}}])
def test_an_index_that_lies_about_its_shard_is_found_out(folder: Path, lie: dict[str, Any]) -> None:
    path = folder / "a" / "generation-0000.json"
    index = json.loads(path.read_text())
    index["shards"][0] |= lie
    path.write_text(json.dumps(index))
    with pytest.raises(ArtefactError, match=f"{FIRST} does not hold what its index says"):
        Bank.open(folder).images_of("a")


@pytest.mark.parametrize("killed_in", ["write_shard", "write_index"])
def test_a_writer_that_is_killed_leaves_the_bank_as_it_was(
    folder: Path, killed_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    real = getattr(bank_module, killed_in)

    def killed(path: Path, *arguments: object) -> None:
        if killed_in == "write_shard":
            real(path, *arguments)  # the shard is whole, but it is not in the index yet
        raise Killed

    bank = Bank.open(folder)
    before = (folder / "a" / "generation-0000.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(bank_module, killed_in, killed)
        with pytest.raises(Killed):
            bank.add("a", 0, 2, *images_of(9))
    assert (folder / "a" / "generation-0000-bucket-0002.safetensors").exists()
    assert (folder / "a" / "generation-0000.json").read_bytes() == before
    for opened in (bank, Bank.open(folder)):
        assert not opened.has("a", 0, 2)
        assert len(opened.images_of("a")[0]) == 8
        opened.verify()
    bank.add("a", 0, 2, *images_of(4))  # over the orphan
    assert Bank.open(folder).images_of("a")[0][-1].unique().tolist() == [4]


def test_other_files_and_folders_are_ignored(folder: Path) -> None:
    for name in ("notes.txt", "a/notes.txt", "a/.generation-0000.json.123.tmp", "odd name/generation-0000.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    (folder / "a" / "generation-1.json").write_text("x")
    assert Bank.open(folder).teachers == ("a", "b")


def test_a_full_disk_leaves_the_bank_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise ArtefactError("no space")

    bank = Bank.open(folder)
    monkeypatch.setattr(bank_module, "write_index", full)
    with pytest.raises(ArtefactError, match="no space"):
        bank.add("c", 0, 0, *images_of(9))
    assert bank.teachers == Bank.open(folder).teachers == ("a", "b")
