import hashlib
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from error_checks import raises
from PIL import Image
from torchvision import datasets

from metazoo.data import ImageSet, cifar_fs, load_images, mini_imagenet
from metazoo.data.load import has_own_side
from metazoo.errors import DataError, UsageError

PARTS = ("train", "val", "test")
Fault = Callable[[Path], object]


def plain(path: Path, colour: int = 0, side: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (colour, colour, 255 - colour)).save(path)


# The published order of CIFAR-100's labels is alphabetical.
CIFAR_NAMES = sorted(name for names in cifar_fs.CLASSES.values() for name in names)


def cifar_images(split: int) -> tuple[np.ndarray, np.ndarray]:
    """Two images of every class for training, one to test, shuffled: labels, and images [n, 3, 32, 32]."""
    random = np.random.default_rng(split)
    labels = random.permutation(np.tile(np.arange(100, dtype=np.uint8), 2 - split))
    images = random.integers(0, 256, (len(labels), 3, 32, 32), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = labels, split
    return labels, images


def write_cifar(root: Path) -> Path:
    folder = root / "cifar-100-binary"
    folder.mkdir()
    (folder / "fine_label_names.txt").write_text("\n".join(CIFAR_NAMES) + "\n")
    for split, file in enumerate(("train.bin", "test.bin")):
        labels, images = cifar_images(split)
        records = [labels // 5, labels, *images.reshape(len(labels), -1).T]
        np.stack(records, 1).astype(np.uint8).tofile(folder / file)
    return root


def load_parts(name: str, root: Path, side: int | None = None) -> list[ImageSet]:
    return [load_images(f"{name}/{part}:{root}", side=side) for part in PARTS]


def disjoint(names: list[tuple[str, ...]]) -> bool:
    return len({name for part in names for name in part}) == sum(map(len, names))


def test_cifar_fs_splits_the_classes_of_cifar_100_as_published(tmp_path: Path) -> None:
    parts = load_parts("cifar-fs", write_cifar(tmp_path))
    assert [len(part.class_names) for part in parts] == [64, 16, 20]
    assert [part.name for part in parts] == ["cifar-fs-train", "cifar-fs-val", "cifar-fs-test"]
    assert disjoint([part.class_names for part in parts])
    assert sorted(name for part in parts for name in part.class_names) == CIFAR_NAMES
    assert {"aquarium_fish", "lion", "boy"} < set(parts[0].class_names)
    assert {"lamp", "sea", "maple_tree"} < set(parts[1].class_names)
    assert {"woman", "leopard", "plain"} < set(parts[2].class_names)
    for part in parts:
        assert part.images.shape == (3 * len(part.class_names), 3, 32, 32)
        assert part.labels.tolist() == [index for index in range(len(part.class_names)) for _ in range(3)]
        kept = [CIFAR_NAMES[value] for value in part.images[:, 0, 0, 0].tolist()]
        assert kept == [part.class_names[label] for label in part.labels.tolist()]
        # CIFAR-100's own training images stand before its test images.
        assert part.images[:, 0, 0, 1].tolist() == [0, 0, 1] * len(part.class_names)
    assert load_images(f"cifar-fs/val:{tmp_path}", side=16).side == 16


def test_the_images_of_cifar_fs_keep_their_channels_and_order(tmp_path: Path) -> None:
    part = load_images(f"cifar-fs/test:{write_cifar(tmp_path)}")
    labels, images = cifar_images(0)
    baby = images[labels == CIFAR_NAMES.index("baby")]
    assert torch.equal(part.images[part.labels == 0][:2], torch.from_numpy(baby))


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(
    ("fault", "subject", "problem"),
    [
        (lambda folder: cut(folder / "test.bin", 5000), "test.bin", "5,000 bytes"),
        (lambda folder: cut(folder / "train.bin", 0), "train.bin", "0 bytes"),
        (lambda folder: [cut(folder / file, 3074) for file in ("train.bin", "test.bin")], "", "no image of class 'app"),
        (lambda folder: (folder / "test.bin").unlink(), "cifar-100-binary", "test.bin"),
        (lambda folder: (folder / "fine_label_names.txt").unlink(), "cifar-100-binary", "fine_label_names"),
        (lambda folder: (folder / "fine_label_names.txt").write_text("apple\nbear"), "", "no class"),
        (lambda folder: (folder / "fine_label_names.txt").write_bytes(b"\xff"), "cifar-100-binary", "cannot be read"),
    ],
)
def test_damaged_files_of_cifar_100_are_named(tmp_path: Path, fault: Fault, subject: str, problem: str) -> None:
    fault(write_cifar(tmp_path) / "cifar-100-binary")
    with raises(DataError, subject=subject or str(tmp_path), problem=problem):
        load_images(f"cifar-fs/train:{tmp_path}")


def test_a_label_beyond_the_classes_is_no_cifar_100(tmp_path: Path) -> None:
    np.full(3074, 200, np.uint8).tofile(write_cifar(tmp_path) / "cifar-100-binary" / "test.bin")
    with raises(DataError, subject=str(tmp_path), problem="label 200 but 100 classes"):
        load_images(f"cifar-fs/train:{tmp_path}")


def test_without_torchvision_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with raises(UsageError, subject=str(tmp_path), problem="neither cifar-100-binary nor cifar-100-python"):
        load_images(f"cifar-fs/train:{tmp_path}")
    (tmp_path / "cifar-100-python").mkdir()
    with raises(UsageError, subject="cifar-100-python", remedy='`pip install "metazoo[torchvision]"`'):
        load_images(f"cifar-fs/train:{tmp_path}")


def test_torchvision_gives_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "binary").mkdir()
    (tmp_path / "cifar-100-python").mkdir()
    hashes = {}
    for split, file in enumerate(("train", "test")):
        labels, images = cifar_images(split)
        content = {"data": images.reshape(len(labels), -1), "fine_labels": labels.tolist()}
        (tmp_path / "cifar-100-python" / file).write_bytes(pickle.dumps(content))
    (tmp_path / "cifar-100-python" / "meta").write_bytes(pickle.dumps({"fine_label_names": CIFAR_NAMES}))
    for file in ("train", "test", "meta"):
        hashes[file] = hashlib.md5((tmp_path / "cifar-100-python" / file).read_bytes()).hexdigest()
    with raises(DataError, subject="cifar-100-python", problem="cannot be read"):
        load_images(f"cifar-fs/train:{tmp_path}")
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [["train", hashes["train"]]])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [["test", hashes["test"]]])
    monkeypatch.setattr(datasets.CIFAR100, "meta", datasets.CIFAR100.meta | {"md5": hashes["meta"]})
    write_cifar(tmp_path / "binary")
    for part in PARTS:
        ours, theirs = (load_images(f"cifar-fs/{part}:{root}") for root in (tmp_path / "binary", tmp_path))
        assert ours.sha256 == theirs.sha256


def write_folders(root: Path, names: list[str]) -> Path:
    for index, name in enumerate(names):
        plain(root / name / "1.png", index)
    return root


WNIDS = {part: list(classes) for part, classes in mini_imagenet.CLASSES.items()}
NAMES = {part: list(classes.values()) for part, classes in mini_imagenet.CLASSES.items()}


def test_mini_imagenet_takes_the_published_classes_from_one_folder_a_wordnet_id(tmp_path: Path) -> None:
    everything = sorted(wnid for wnids in WNIDS.values() for wnid in wnids)
    parts = load_parts("mini-imagenet", write_folders(tmp_path, [*everything, "n01440764"]))
    assert [len(part.class_names) for part in parts] == [64, 16, 20]
    assert disjoint([part.class_names for part in parts])
    assert {name.split()[0] for part in parts for name in part.class_names} == set(everything)
    assert [part.class_names[0] for part in parts] == ["n01532829 house finch", "n01855672 goose", "n01930112 nematode"]
    assert [part.side for part in parts] == [84, 84, 84]
    for part in parts:
        expected = [everything.index(name.split()[0]) for name in part.class_names]
        assert part.images[:, 0, 40, 40].tolist() == expected
    assert load_images(f"mini-imagenet/val:{tmp_path}", side=16).side == 16


def test_the_lists_of_mini_imagenet_are_sound() -> None:
    wnids, names = ([value for part in PARTS for value in kind[part]] for kind in (WNIDS, NAMES))
    assert len(set(wnids)) == len(set(names)) == 100
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnid in wnids)
    assert all(WNIDS[part] == sorted(WNIDS[part]) for part in PARTS)


def test_mini_imagenet_may_be_split_into_folders(tmp_path: Path) -> None:
    write_folders(tmp_path / "train", [f"thing {index:02d}" for index in range(64)])
    write_folders(tmp_path / "val", WNIDS["val"])
    assert load_images(f"mini-imagenet/train:{tmp_path}", side=8).class_names[1] == "thing 01"
    assert load_images(f"mini-imagenet/val:{tmp_path}", side=8).class_names[0] == "n01855672 goose"
    with raises(UsageError, subject=str(tmp_path), problem="miniImageNet", remedy="train, val and test"):
        load_images(f"mini-imagenet/test:{tmp_path}")
    (tmp_path / "val" / WNIDS["val"][0]).rename(tmp_path / "val" / "thing 07")
    with raises(DataError, subject="'thing 07'"):
        load_images(f"mini-imagenet/val:{tmp_path}")
    (tmp_path / "val" / "thing 07").rename(tmp_path / "val" / WNIDS["test"][0])
    with raises(DataError, subject=WNIDS["test"][0], problem="test"):
        load_images(f"mini-imagenet/val:{tmp_path}")


def test_what_is_no_mini_imagenet_is_said(tmp_path: Path) -> None:
    write_folders(tmp_path, WNIDS["val"][:-2])
    with raises(DataError, subject=str(tmp_path), problem="2 of 16 classes, such as n03980874"):
        load_images(f"mini-imagenet/val:{tmp_path}")
    write_folders(tmp_path / "val", ["a", "b"])
    with raises(DataError, subject=str(tmp_path / "val"), problem="2 class folders, not the 16 of mini-imagenet/val"):
        load_images(f"mini-imagenet/val:{tmp_path}")


def test_cub_is_split_by_the_sorted_index(tmp_path: Path) -> None:
    names = [f"{number:03d}.Bird_of_{number}" for number in range(1, 201)]
    write_folders(tmp_path / "images", names)
    (tmp_path / "attributes").mkdir()
    parts = load_parts("cub", tmp_path, side=8)
    assert [len(part.class_names) for part in parts] == [100, 50, 50]
    assert disjoint([part.class_names for part in parts])
    for part, step, first in zip(parts, (2, 4, 4), (0, 1, 3), strict=True):
        indices = list(range(first, 200, step))
        assert part.class_names == tuple(f"Bird of {index + 1}" for index in indices)
        assert part.images[:, 0, 4, 4].tolist() == indices
    itself = load_images(f"cub/test:{tmp_path / 'images'}")
    assert (itself.side, itself.name, itself.class_names) == (84, "cub-test", parts[2].class_names)
    (tmp_path / "images" / names[0]).rename(tmp_path / "001")
    with raises(DataError, subject=str(tmp_path), problem="199 class folders, not the 200"):
        load_images(f"cub/test:{tmp_path}")


@pytest.mark.parametrize("name", ["cifar-fs", "mini-imagenet", "cub"])
def test_a_wrong_part_or_folder_is_named(tmp_path: Path, name: str) -> None:
    with raises(UsageError, subject=name, problem="train, val, test, not 'trian'", remedy=f"{name}/train:x"):
        load_images(f"{name}/trian:x")
    for root in ("", str(tmp_path / "none")):
        with raises(UsageError, problem=f"{root!r} is not a folder", remedy=f"{name}/val:FOLDER"):
            load_images(f"{name}/val:{root}")
    with raises(UsageError, subject=f"{name}/val", problem="does not exist", remedy=f"{name}/val:ROOT"):
        load_images(f"{name}/val")
    with raises(UsageError, subject="image side", problem="not 4"):
        load_images(f"{name}/val:{tmp_path}", side=4)


def test_a_path_of_such_a_name_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain(Path("cub/train:x/a/1.png"))
    assert load_images(Path("cub/train:x")).class_names == load_images("./cub/train:x").class_names == ("a",)


def test_which_sources_come_at_a_size_of_their_own() -> None:
    sources = ("a.NPZ", "cifar-fs/val:x", "cub/val:x", "mini-imagenet/val:x", "folder", "glyphs:lao")
    assert [has_own_side(source) for source in sources] == [True, True, False, False, False, False]
