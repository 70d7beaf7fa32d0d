from pathlib import Path

import pytest
import torch
from adapt_helpers import network, write_picture
from error_checks import raises
from PIL import Image

from metazoo.adapt import adapt, load_support_folder
from metazoo.errors import DataError, UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures of a cat and one of a dog."""
    for seed, name in enumerate(("cat/1.png", "cat/2.jpg", "dog/1.webp")):
        write_picture(tmp_path / "support" / name, seed)
    return tmp_path / "support"


def test_classes_are_sorted_folders_and_may_differ_in_size(folder: Path) -> None:
    write_picture(folder / "ant" / "1.bmp")
    support = load_support_folder(folder, 24)
    assert support.class_names == ("ant", "cat", "dog")
    assert support.labels.tolist() == [0, 1, 1, 2]
    assert support.images.shape == (4, 3, 24, 24)
    assert support.images.dtype == torch.float32


def test_a_support_folder_makes_a_classifier(folder: Path) -> None:
    (folder / "cat" / "2.jpg").unlink()
    support = load_support_folder(folder, 16)
    classifier = adapt(network(), support.images, support.labels, support.class_names)
    assert classifier.predict(support.images).names == ["cat", "dog"]


def test_a_missing_folder_is_named(folder: Path) -> None:
    for path in (folder / "none", folder / "cat" / "1.png"):
        with raises(UsageError, subject=str(path), problem="not a folder", remedy="one folder of images per class"):
            load_support_folder(path, 16)


def test_pictures_without_class_folders_are_not_enough(folder: Path) -> None:
    with raises(UsageError, subject=str(folder / "cat")):
        load_support_folder(folder / "cat", 16)


def test_one_class_is_not_enough(folder: Path) -> None:
    (folder / "dog" / "1.webp").unlink()
    (folder / "dog").rmdir()
    with raises(UsageError, subject=str(folder), problem="'cat'", remedy="two class folders"):
        load_support_folder(folder, 16)


def test_a_class_without_images_is_named(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "empty" / "notes.txt").write_text("x")
    with raises(DataError, subject=str(folder / "empty")):
        load_support_folder(folder, 16)


@pytest.mark.parametrize("rubbish", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"\x80\x05pickle"])
def test_a_corrupt_image_is_named(folder: Path, rubbish: bytes) -> None:
    (folder / "dog" / "2.png").write_bytes(rubbish)
    with raises(DataError, subject=str(folder), problem=f"1 of 4 images cannot be used: {Path('dog', '2.png')}: "):
        load_support_folder(folder, 16)


def test_half_an_image_is_named(folder: Path) -> None:
    path = folder / "cat" / "1.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with raises(DataError, subject=str(folder), problem=str(Path("cat", "1.png"))):
        load_support_folder(folder, 16)


def test_white_images_are_in_range_after_resizing(tmp_path: Path) -> None:
    for number, size in enumerate(((37, 51), (100, 75), (333, 500), (1201, 1600))):
        folder = tmp_path / str(number % 2)
        folder.mkdir(exist_ok=True)
        Image.new("RGB", size, "white").save(folder / f"{number}.png")
    support = load_support_folder(tmp_path, 84)
    assert support.images.max() > 1
    classifier = adapt(network(size=84), support.images, support.labels)
    assert classifier.predict(support.images).probabilities.isfinite().all()


def test_unsupported_formats_are_bad_images_too(folder: Path) -> None:
    (folder / "cat" / "3.heic").write_bytes(b"ftyp")
    (folder / "dog" / "3.jp2").write_bytes(b"ftyp")
    with raises(DataError, subject=str(folder), problem="2 of 5 images"):
        load_support_folder(folder, 16)
    assert len(load_support_folder(folder, 16, skip_bad=True).skipped) == 2


def test_all_bad_images_are_named_or_skipped(folder: Path) -> None:
    whole = load_support_folder(folder, 16)
    write_picture(folder / "dog" / "2.tiff")
    (folder / "cat" / "3.gif").write_bytes(b"GIF89a")
    (folder / "dog" / "9.jpg").write_bytes(b"no image")
    with raises(DataError, subject=str(folder), problem="2 of 6", remedy="--skip-bad") as caught:
        load_support_folder(folder, 16)
    names = str(Path("cat", "3.gif")), str(Path("dog", "9.jpg"))
    assert all(name in caught.value.problem for name in names)
    kept = load_support_folder(folder, 16, skip_bad=True)
    assert [reason.split(": ")[0] for reason in kept.skipped] == [*names]
    assert kept.labels.tolist() == [*whole.labels.tolist(), 1]
    torch.testing.assert_close(kept.images[: len(whole.images)], whole.images, rtol=0, atol=0)
    for file in (folder / "cat").iterdir():
        file.write_bytes(b"")
    with raises(DataError, subject=str(folder / "cat"), problem="no image that can be read"):
        load_support_folder(folder, 16, skip_bad=True)


def test_a_picture_of_a_foreign_format_is_named(folder: Path) -> None:
    (folder / "cat" / "3.jp2").write_bytes(b"")
    with raises(DataError, subject=str(folder), problem=str(Path("cat", "3.jp2"))):
        load_support_folder(folder, 16)


def test_a_file_that_cannot_be_opened_is_named(folder: Path) -> None:
    (folder / "cat" / "0.png").symlink_to(folder / "nowhere.png")
    (folder / "dog" / "0.png").mkdir()
    support = load_support_folder(folder, 16)  # neither is a file
    assert len(support.images) == 3


def test_hidden_files_are_ignored(folder: Path) -> None:
    write_picture(folder / ".thumbnails" / "1.png")
    (folder / "cat" / ".DS_Store").write_bytes(b"x")
    assert load_support_folder(folder, 16).class_names == ("cat", "dog")


def test_a_support_folder_may_be_called_glyphs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.rename(folder.with_name("glyphs"))
    monkeypatch.chdir(folder.parent)
    assert load_support_folder("glyphs", 16).class_names == ("cat", "dog")
