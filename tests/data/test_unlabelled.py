import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from error_checks import raises
from PIL import Image
from training_helpers import coloured_images

from metazoo.data import ImageSet, UnlabelledImages
from metazoo.errors import DataError, UsageError


def picture(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images of different sizes at three depths, beside files that are none."""
    folder = tmp_path / "photographs"
    for number, (name, height, width) in enumerate(
        [("b.png", 20, 30), ("a/2.bmp", 16, 16), ("a/1.PNG", 40, 12), ("z/y/x/deep.png", 9, 9), ("a/z.png", 16, 16)]
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(height, width, number)).save(path)
    (folder / "a" / "notes.txt").write_text("none")
    (folder / ".hidden").mkdir()
    Image.fromarray(picture(8, 8, 9)).save(folder / ".hidden" / "no.png")
    return folder


def test_a_folder_is_read_at_any_depth_and_each_image_has_the_hash_of_its_original(folder: Path) -> None:
    source = UnlabelledImages(folder)
    assert (source.count, source.has_labels, source.identity) == (5, False, str(folder.resolve()))
    images, hashes = source.read(torch.arange(5), 16)
    assert images.shape == (5, 3, 16, 16)
    # The files in the order of their folders and names.
    originals = [picture(20, 30, 0), picture(40, 12, 2), picture(16, 16, 1), picture(16, 16, 4), picture(9, 9, 3)]
    expected = [hashlib.sha256(f"{len(o)}x{len(o[0])}".encode() + o.tobytes()).hexdigest() for o in originals]
    assert hashes == expected
    assert torch.equal(images[2], torch.from_numpy(originals[2]).permute(2, 0, 1))  # no other size, so unchanged
    assert UnlabelledImages(str(folder)).read(torch.tensor([4]), 24)[1] == expected[4:]


def test_an_image_has_one_hash_in_a_folder_a_pack_and_an_image_set(tmp_path: Path) -> None:
    images = coloured_images(2, 16)
    arrays = images.images.permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "pack.npz", images=arrays, labels=images.labels.numpy(), class_names=["a", "b"])
    (tmp_path / "files").mkdir()
    for number in (3, 7, 11):
        Image.fromarray(arrays[number]).save(tmp_path / "files" / f"{number}.png")
    used = set(UnlabelledImages(tmp_path / "files").read(torch.arange(3), 8)[1])
    assert len(used) == 3
    assert UnlabelledImages(tmp_path / "pack.npz").count_among(used) == 3
    assert UnlabelledImages(images).count_among(used) == 3
    changed = images.images.clone()
    changed[7, 0, 0, 0] ^= 1
    assert UnlabelledImages(ImageSet(changed, images.labels, images.class_names)).count_among(used) == 2


def test_images_are_chosen_by_the_seed(folder: Path) -> None:
    source = UnlabelledImages(folder)
    assert source.choose(9, 0).tolist() == [0, 1, 2, 3, 4]
    drawn = {tuple(source.choose(2, seed).tolist()) for seed in range(40)}
    assert all(first < second for first, second in drawn)
    assert len(drawn) > 5
    assert source.choose(3, 5).tolist() == UnlabelledImages(folder).choose(3, 5).tolist()


def test_a_named_source_is_known_by_its_name() -> None:
    source = UnlabelledImages("glyphs:greek", images_per_class=2)
    assert source.identity == "glyphs:greek"
    assert source.has_labels
    assert source.read(torch.arange(3), 20)[0].shape == (3, 3, 20, 20)


def test_what_cannot_be_read_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "z" / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    source = UnlabelledImages(folder)
    with raises(DataError, subject="bad.jpg"):
        source.read(torch.arange(source.count), 16)
    (folder / "z" / "bad.jpg").rename(folder / "z" / "bad.ppm")
    with raises(DataError, subject="bad.ppm", problem="format"):
        _ = UnlabelledImages(folder).count
    (tmp_path / "empty").mkdir()
    with raises(UsageError, subject="empty", problem="no images"):
        _ = UnlabelledImages(tmp_path / "empty").count
    with raises(UsageError, subject="absent"):
        _ = UnlabelledImages(tmp_path / "absent").count
