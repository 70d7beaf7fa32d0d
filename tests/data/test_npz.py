from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from error_checks import raises

from metazoo.data import load_images
from metazoo.errors import DataError


def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "images": random.integers(0, 256, (6, 10, 10, 3), dtype=np.uint8),
        "labels": np.array([0, 1, 2, 0, 1, 2]),
        "class_names": np.array(["a", "b", "ć"]),
        "groups": np.array([0, 0, 1, 1, 2, 2], np.int32),
    }


def write(path: Path, **changes: Any) -> Path:
    content = {key: value for key, value in (arrays() | changes).items() if value is not None}
    np.savez_compressed(path, allow_pickle=True, **content)
    return path


def test_a_pack_is_read_as_it_was_written(tmp_path: Path) -> None:
    pack = load_images(write(tmp_path / "signs.npz"))
    assert (pack.name, pack.class_names, pack.side) == ("signs", ("a", "b", "ć"), 10)
    assert np.array_equal(pack.images.permute(0, 2, 3, 1).numpy(), arrays()["images"])
    assert pack.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert pack.groups is not None
    assert pack.groups.dtype == torch.int64
    assert pack.groups.tolist() == [0, 0, 1, 1, 2, 2]
    assert load_images(str(write(tmp_path / "plain.npz", groups=None))).groups is None
    assert load_images(tmp_path / "signs.npz", side=16).images.shape == (6, 3, 16, 16)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"images": None}, "no array 'images'"),
        ({"class_names": None}, "no array 'class_names'"),
        ({"images": np.zeros((6, 10, 10), np.uint8)}, "uint8 [6, 10, 10]"),
        ({"images": np.zeros((6, 10, 10, 3), np.float32)}, "float32"),
        ({"images": np.zeros((6, 10, 12, 3), np.uint8)}, "[6, 10, 12, 3]"),
        ({"images": np.zeros((0, 10, 10, 3), np.uint8), "labels": np.zeros(0, int), "groups": None}, "no image"),
        ({"labels": np.array([0.0, 1, 2, 0, 1, 2])}, "labels must be integers [6], not float64"),
        ({"labels": np.array([0, 1, 2])}, "integers [6]"),
        ({"labels": np.array([0, 1, 2, 0, 3, 2])}, "image 4 has label 3"),
        ({"labels": np.array([0, 1, 2, 0, -1, 2])}, "label -1"),
        ({"labels": np.array([0, 1, 2, 0, 2**64 - 1, 2], np.uint64)}, "image 4 has label"),
        ({"class_names": np.array([1, 2, 3])}, "class_names"),
        ({"class_names": np.array(["a", "b", "a"])}, "'a'"),
        ({"groups": np.array(list("abcdef"))}, "groups"),
        ({"class_names": np.array(["a", "b", None], dtype=object)}, "pickled objects"),
    ],
)
def test_a_wrong_pack_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    path = write(tmp_path / "wrong.npz", **changes)
    with raises(DataError, subject=str(path), problem=problem):
        load_images(path)


def test_files_that_are_no_packs_are_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.npz").read_bytes()
    damaged = bytearray(whole)
    damaged[60:200] = bytes(140)
    contents = {"text": b"hello", "empty": b"", "cut": whole[: len(whole) // 2], "damaged": bytes(damaged)}
    for name, content in contents.items():
        path = tmp_path / f"{name}.npz"
        path.write_bytes(content)
        with raises(DataError, subject=f"{name}.npz", problem="not a readable .npz pack"):
            load_images(path)
    np.save(tmp_path / "single.npy", arrays()["images"])
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    with raises(DataError, subject="single.npz", problem="single array"):
        load_images(tmp_path / "single.npz")
