from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metazoo.bank.contact_sheet import contact_sheet
from metazoo.errors import ArtefactError, DataError


def pictures(classes: int, each: int, side: int, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (classes * each, channels, side, side), generator=random, dtype=torch.uint8)
    return images, torch.arange(classes).repeat(each)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def holds(sheet: np.ndarray, block: np.ndarray) -> bool:
    """Whether `block` stands somewhere in the sheet."""
    height, width, _ = block.shape
    starts = np.argwhere((sheet == block[0, 0]).all(2))
    return any(np.array_equal(sheet[y : y + height, x : x + width], block) for y, x in starts)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_stand_on_it_enlarged_pixel_by_pixel(tmp_path: Path, channels: int) -> None:
    images, labels = pictures(3, 12, 16, channels)
    contact_sheet(tmp_path / "sheet.png", images, labels, ("a", "b", "c"), title="one", note="two")
    sheet = read(tmp_path / "sheet.png")
    for position in (0, 1, 2, 3, 29, 30, 35):  # of each class the first ten: places 0 to 29
        large = images[position].repeat_interleave(5, 1).repeat_interleave(5, 2).expand(3, -1, -1).permute(1, 2, 0)
        assert holds(sheet, large.numpy()) == (position < 30)


@pytest.mark.parametrize("side", [1, 32, 84, 300])
def test_its_size_is_bounded_whatever_is_put_on_it(tmp_path: Path, side: int) -> None:
    images, labels = pictures(60, 12, side)
    contact_sheet(tmp_path / "sheet.png", images, labels, [f"class {index}" for index in range(60)], title="x" * 500)
    height, width, _ = read(tmp_path / "sheet.png").shape
    assert 800 < width < 1300
    assert 1500 < height < 2700


@pytest.mark.parametrize(
    "name",
    ["", "plain", "\x1b[31mred\x07", "狗", "a" * 400, "a b " * 300, "/" * 99, "-_ /", "\ud800", "\n\n", "<b>&amp;"],
)
def test_any_text_can_be_a_name(tmp_path: Path, name: str) -> None:
    images, labels = pictures(2, 2, 8)
    contact_sheet(tmp_path / "sheet.png", images, labels, (name, "other"), title=name, note=name)
    sheet = read(tmp_path / "sheet.png")
    assert sheet.shape[1] < 700
    assert (sheet[:, :20] == sheet[0, 0]).all()  # nothing in the margin
    first, gap = sheet[:, 24 + 174 : 24 + 190], sheet[0, 0]
    below_title = first[70:]
    assert (below_title == gap).all()  # no name reaches its images


def test_classes_without_images_have_no_row_and_the_rest_is_counted(tmp_path: Path) -> None:
    images, _ = pictures(1, 4, 8)
    names = [f"class {index}" for index in range(50)]
    contact_sheet(tmp_path / "two.png", images, torch.tensor([3, 3, 40, 40]), names, title="t")
    contact_sheet(tmp_path / "one.png", images, torch.tensor([3, 3, 40, 40]), names, title="t", most_classes=1)
    contact_sheet(tmp_path / "same.png", images[:2], torch.tensor([3, 3]), names, title="t")
    two, one, same = (read(tmp_path / f"{name}.png").shape[0] for name in ("two", "one", "same"))
    assert same < one < two


def test_the_same_images_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first.png", "second.png"):
        contact_sheet(tmp_path / name, *pictures(2, 3, 8), ("a", "b"), title="t")
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def test_what_cannot_be_drawn_or_written_is_refused(tmp_path: Path) -> None:
    images, labels = pictures(2, 2, 8)
    for wrong, wrong_labels in ((images[:0], labels[:0]), (images[:, :2], labels), (images, labels[:3])):
        with pytest.raises(DataError, match="a contact sheet needs images"):
            contact_sheet(tmp_path / "sheet.png", wrong, wrong_labels, ("a", "b"), title="t")
    with pytest.raises(DataError, match="labels run from 0 to 1, but there are 1 class names"):
        contact_sheet(tmp_path / "sheet.png", images, labels, ("a",), title="t")
    (tmp_path / "sheet.png").mkdir()
    with pytest.raises(ArtefactError, match=r"sheet\.png: cannot be written"):
        contact_sheet(tmp_path / "sheet.png", images, labels, ("a", "b"), title="t")
    assert list(tmp_path.glob("*")) == [tmp_path / "sheet.png"]


def test_an_emoji_is_shown_by_its_name(tmp_path: Path) -> None:
    for file, name in (("emoji.png", "🦊 👩\u200d🔬"), ("words.png", "[fox face] [woman][microscope]")):
        contact_sheet(tmp_path / file, *pictures(1, 2, 8), (name,), title=name)
    assert (tmp_path / "emoji.png").read_bytes() == (tmp_path / "words.png").read_bytes()
