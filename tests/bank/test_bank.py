import json
from pathlib import Path

import pytest
import torch
from error_checks import raises
from torch import Tensor

from metazoo.bank import Bank
from metazoo.errors import ArtefactError, DataError, UsageError
from metazoo.storage.artefacts import sha256_of_file


def bucket_of(seed: int, count: int = 6, channels: int = 3, side: int = 5) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, channels, side, side), generator=random, dtype=torch.uint8)
    return images, torch.randint(0, 3, (count,), generator=random)


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_images_come_back_in_the_order_of_the_buckets(tmp_path: Path) -> None:
    bank = Bank.create(tmp_path / "bank")
    assert (bank.teachers, bank.total_bytes) == ((), 0)
    bank.add("b.1", 0, 10, *bucket_of(1), health={"agreement": 0.5})
    bank.add("b.1", 0, 2, *bucket_of(2, count=1))
    bank.add("A-grey", 0, 0, *bucket_of(3, channels=1, side=7), made_with={"seed": 4, "rate": 0.1, "canvas": "noise"})
    for opened in (bank, Bank.open(tmp_path / "bank"), Bank.open_or_create(tmp_path / "bank")):
        assert opened.teachers == ("A-grey", "b.1")
        assert opened.has("b.1", 0, 10)
        assert not opened.has("b.1", 0, 0)
        assert not opened.has("b.1", 1, 10)
        assert not opened.has("c", 0, 0)
        images, labels = opened.images_of("b.1")
        assert torch.equal(images, torch.cat([bucket_of(2, count=1)[0], bucket_of(1)[0]]))
        assert torch.equal(labels, torch.cat([bucket_of(2, count=1)[1], bucket_of(1)[1]]))
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
        assert opened.images_of("A-grey", 0)[0].shape == (6, 1, 7, 7)
        assert opened.made_with("A-grey") == {"seed": 4, "rate": 0.1, "canvas": "noise"}
        shards = opened.shards_of("b.1")
        assert [shard.bucket for shard in shards] == [2, 10]
        assert shards[1].health == {"agreement": 0.5}
        assert shards[1].images == sum(shards[1].class_counts.values()) == 6
        assert opened.total_bytes == sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
        opened.verify()


def test_a_second_generation_is_appended_and_leaves_every_byte_of_the_first(tmp_path: Path) -> None:
    bank = Bank.create(tmp_path)
    for bucket in range(3):
        bank.add("a", 0, bucket, *bucket_of(bucket), made_with={"iterations": 10})
    before = bytes_in(tmp_path)
    bank.add("a", 1, 0, *bucket_of(9, side=8), made_with={"iterations": 20})
    after = bytes_in(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 2
    again = Bank.open(tmp_path)
    assert again.generations_of("a") == (0, 1)
    assert torch.equal(again.images_of("a")[0], bucket_of(9, side=8)[0])
    assert len(again.images_of("a", 0)[0]) == 18
    assert again.made_with("a", 0) == {"iterations": 10}


def test_nothing_is_ever_overwritten(tmp_path: Path) -> None:
    bank = Bank.create(tmp_path)
    bank.add("a", 0, 0, *bucket_of(1))
    before = bytes_in(tmp_path)
    for opened in (bank, Bank.open(tmp_path)):
        with raises(UsageError, subject="bucket 0 of generation 0 of a", problem=str(tmp_path)):
            opened.add("a", 0, 0, *bucket_of(2))
        with raises(UsageError, subject="'A'", problem="'a'"):
            opened.add("A", 0, 0, *bucket_of(2))
        with raises(UsageError, subject="bucket 1 of generation 0 of a", problem="options"):
            opened.add("a", 0, 1, *bucket_of(2), made_with={"seed": 1})
        with raises(UsageError, subject=str(tmp_path), problem="already"):
            Bank.create(tmp_path)
    assert bytes_in(tmp_path) == before


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "/a", "a\\b", ".a", "a b", "ä", "a" * 101, "a\n", "-a"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    bank = Bank.create(tmp_path / "bank")
    with raises(UsageError, subject=f"teacher {name!r}", problem="name"):
        bank.add(name, 0, 0, *bucket_of(1))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["bank.json"]


def test_images_and_labels_that_do_not_fit_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    bank = Bank.create(tmp_path)
    bank.add("a", 0, 0, *bucket_of(1))
    before = bytes_in(tmp_path)
    images, labels = bucket_of(2)
    for wrong in (images.float(), images[:, :2], images[..., :4], images[0], images[:0]):
        with raises(DataError, subject="bucket 1 of generation 0 of a", problem=f"{wrong.dtype} {list(wrong.shape)}"):
            bank.add("a", 0, 1, wrong, labels)
    for wrong in (labels.int(), labels[:4], labels - 3, labels[:, None]):
        with raises(DataError, problem="int64 [6]"):
            bank.add("a", 0, 1, images, wrong)
    for channels, side in ((1, 5), (3, 6)):
        with raises(DataError, problem="[6, 3, 5, 5]"):
            bank.add("a", 0, 1, *bucket_of(2, channels=channels, side=side))
    with raises(UsageError, problem="generation -1"):
        bank.add("a", -1, 0, images, labels)
    with pytest.raises(ArtefactError, match="finite"):
        bank.add("a", 1, 0, images, labels, health={"agreement": float("nan")})
    assert not bank.has("a", 1, 0)
    assert bytes_in(tmp_path).keys() - before.keys() <= {"a/generation-0001-bucket-0000.safetensors"}
    assert Bank.open(tmp_path).generations_of("a") == (0,)


def test_missing_banks_and_images_are_named(tmp_path: Path) -> None:
    with raises(ArtefactError, subject="nowhere", problem="bank.json"):
        Bank.open(tmp_path / "nowhere")
    bank = Bank.create(tmp_path)
    bank.add("a", 0, 0, *bucket_of(1))
    with raises(UsageError, subject=str(tmp_path), problem="'b'"):
        bank.images_of("b")
    with raises(UsageError, subject=str(tmp_path), problem="generation 3 of 'a'"):
        bank.images_of("a", 3)


def test_the_files_describe_themselves(tmp_path: Path) -> None:
    bank = Bank.create(tmp_path)
    bank.add("a", 2, 1, *bucket_of(1))
    assert json.loads((tmp_path / "bank.json").read_text()) == {"format": "metazoo-bank", "format_version": 1}
    index = json.loads((tmp_path / "a" / "generation-0002.json").read_text())
    assert {index[key] for key in ("format", "teacher", "channels", "side")} == {"metazoo-images", "a", 3, 5}
    assert (index["format_version"], index["generation"]) == (1, 2)
    shard = tmp_path / "a" / "generation-0002-bucket-0001.safetensors"
    assert index["shards"][0]["sha256"] == sha256_of_file(shard)
    assert index["shards"][0]["bytes"] == shard.stat().st_size
    assert sum(index["shards"][0]["class_counts"].values()) == 6
