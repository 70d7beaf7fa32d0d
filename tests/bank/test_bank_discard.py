from pathlib import Path

import pytest
import torch
from error_checks import raises

from metazoo.bank import Bank
from metazoo.errors import ArtefactError, UsageError
from metazoo.recover import health_rows
from metazoo.storage.artefacts import read_json


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    """Two generations of `a`, one of `b`."""
    bank = Bank.create(tmp_path / "bank")
    for teacher, generation, bucket in (("a", 0, 0), ("a", 0, 1), ("a", 1, 0), ("b", 0, 0)):
        images = torch.full((3, 3, 8, 8), generation, dtype=torch.uint8)
        bank.add(teacher, generation, bucket, images, torch.arange(3), health={"agreement": 0.5})
    return bank


def shards(bank: Bank) -> list[str]:
    return sorted(path.relative_to(bank.folder).as_posix() for path in bank.folder.rglob("*.safetensors"))


def test_discarded_images_are_deleted_and_their_index_stays(bank: Bank) -> None:
    known = [bank.shards_of("a", generation) for generation in (0, 1)]
    left = bank.shards_of("b")[0].bytes
    assert "discarded" not in read_json(bank.folder / "a" / "generation-0000.json")
    bank.discard("a")
    for opened in (bank, Bank.open(bank.folder)):
        assert shards(opened) == ["b/generation-0000-bucket-0000.safetensors"]
        assert [opened.shards_of("a", generation) for generation in (0, 1)] == known
        assert opened.has("a", 0, 1)
        assert opened.total_bytes == left
        assert [(row.teacher, row.images, row.agreement) for row in health_rows(opened)] == [
            ("a", 3, 0.5),
            ("b", 3, 0.5),
        ]
        opened.verify()
        assert len(opened.images_of("b")[0]) == 3
        for generation in (None, 0, 1):
            with raises(UsageError, subject="'a'", problem="deleted"):
                opened.images_of("a", generation)


def test_it_may_be_called_again_and_touches_nothing_then(bank: Bank) -> None:
    bank.discard("a")
    times = {path: path.stat().st_mtime_ns for path in bank.folder.rglob("*") if path.is_file()}
    for opened in (bank, Bank.open(bank.folder)):
        opened.discard("a")
        opened.discard("of no such teacher")
    assert {path: path.stat().st_mtime_ns for path in bank.folder.rglob("*") if path.is_file()} == times


def test_what_a_kill_left_is_deleted_by_the_next_call(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = Path.unlink, []

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".safetensors":
            calls.append(path)
            if len(calls) == 2:
                raise KeyboardInterrupt
        real(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            bank.discard("a")
    assert len(shards(bank)) == 3
    opened = Bank.open(bank.folder)
    with raises(UsageError, subject="'a'", problem="deleted"):
        opened.images_of("a")
    opened.discard("a")
    assert shards(opened) == ["b/generation-0000-bucket-0000.safetensors"]


def test_a_shard_that_cannot_be_deleted_is_named(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.unlink

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".safetensors":
            raise PermissionError(13, "Permission denied")
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refused)
    with raises(ArtefactError, subject="bucket-0000.safetensors", problem="Permission denied"):
        bank.discard("a")
