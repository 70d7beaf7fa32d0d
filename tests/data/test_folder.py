import importlib.util
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from error_checks import raises
from PIL import Image
from torch import Tensor

from metazoo.data import decoded_or_errors, image_files, load_image_files, load_images
from metazoo.errors import DataError, UsageError

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def plain(path: Path, colour: tuple[int, ...] = RED, size: tuple[int, int] = (20, 20), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def pixel(path: Path, row: int = 4, column: int = 4) -> list[int]:
    return load_image_files([path], 8)[0, :, row, column].tolist()


def test_one_folder_a_class_in_the_order_of_the_names(tmp_path: Path) -> None:
    plain(tmp_path / "zebra" / "1.png", RED)
    plain(tmp_path / "ant" / "2.bmp", GREEN)
    plain(tmp_path / "ant" / "10.PNG", WHITE)
    plain(tmp_path / ".cache" / "1.png")
    plain(tmp_path / "ant" / ".hidden.png")
    (tmp_path / "ant" / "notes.txt").write_text("no picture")
    (tmp_path / "README").write_text("no class")
    read = load_images(tmp_path)
    assert read.class_names == ("ant", "zebra")
    assert read.labels.tolist() == [0, 0, 1]
    assert read.name == tmp_path.name
    assert read.images.shape == (3, 3, 32, 32)
    assert read.images[:, :, 5, 5].tolist() == [list(WHITE), list(GREEN), list(RED)]
    assert load_images(tmp_path, side=12).side == 12


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_every_format_gives_the_same_colours(tmp_path: Path, suffix: str) -> None:
    gradient = np.linspace(0, 255, 64).astype(np.uint8)
    picture = Image.fromarray(np.broadcast_to(gradient[:, None, None], (64, 64, 3)).copy())
    picture.save(tmp_path / f"a.{suffix}", quality=95)
    read = load_image_files([tmp_path / f"a.{suffix}"], 8)[0]
    oracle = np.array(picture.resize((8, 8), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.abs(read.numpy().astype(int) - oracle.astype(int)).max() <= 4


def test_the_shorter_side_is_resized_and_the_centre_kept(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = RED
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide.transpose(1, 0, 2).copy()).save(tmp_path / "tall.png")
    for image in load_image_files([tmp_path / "wide.png", tmp_path / "tall.png"], 10):
        assert (image[0] == 255).all()
        assert (image[1:] == 0).all()


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    assert pixel(plain(tmp_path / "clear.png", (255, 0, 0, 0), mode="RGBA")) == list(WHITE)
    assert pixel(plain(tmp_path / "half.png", (255, 0, 0, 128), mode="RGBA")) == pytest.approx([255, 127, 127], abs=1)
    palette = Image.new("P", (20, 20), 1)
    palette.putpalette([9, 9, 9, 0, 255, 0])
    palette.save(tmp_path / "palette.png")
    assert pixel(tmp_path / "palette.png") == list(GREEN)
    palette.save(tmp_path / "clear-palette.png", transparency=1)
    assert pixel(tmp_path / "clear-palette.png") == list(WHITE)


def test_grey_sixteen_bit_and_cmyk_become_rgb(tmp_path: Path) -> None:
    assert pixel(plain(tmp_path / "grey.png", (77,), mode="L")) == [77, 77, 77]
    Image.fromarray(np.full((20, 20), 77 * 257, np.uint16)).save(tmp_path / "deep.png")
    assert pixel(tmp_path / "deep.png") == [77, 77, 77]
    assert pixel(plain(tmp_path / "black.png", (0,), mode="1")) == [0, 0, 0]
    assert pixel(plain(tmp_path / "print.jpg", (0, 255, 255, 0), mode="CMYK")) == pytest.approx(RED, abs=3)


def test_the_orientation_mark_of_a_camera_is_obeyed(tmp_path: Path) -> None:
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:8] = RED
    mark = Image.Exif()
    mark[0x0112] = 3
    Image.fromarray(picture).save(tmp_path / "upside-down.jpg", exif=mark, quality=95, subsampling=0)
    assert pixel(tmp_path / "upside-down.jpg", row=1) == pytest.approx([0, 0, 0], abs=8)
    assert pixel(tmp_path / "upside-down.jpg", row=6) == pytest.approx(RED, abs=8)


@pytest.mark.parametrize("name", ["a.tiff", "a.tif", "a.gif", "a.avif", "a.webp", "a.bmp", "a.jfif", "a.PNG"])
def test_pictures_of_many_formats_are_read(tmp_path: Path, name: str) -> None:
    path = plain(tmp_path / name, (200, 40, 40))
    assert image_files(tmp_path) == [path]
    assert load_image_files([path], 8)[0].float().mean((1, 2)).tolist() == pytest.approx([200, 40, 40], abs=6)


@pytest.mark.parametrize(("mode", "kind"), [("F", "float32"), ("I", "int32")])
def test_pixels_of_unknown_range_are_refused(tmp_path: Path, mode: str, kind: str) -> None:
    picture = Image.fromarray(np.full((9, 9), 0.8 if mode == "F" else 200, dtype=kind))
    assert picture.mode == mode
    picture.save(tmp_path / "a.tiff")
    with raises(DataError, subject="a.tiff", problem="float or 32-bit pixels"):
        load_image_files([tmp_path / "a.tiff"], 8)


def test_16_bit_pixels_are_scaled(tmp_path: Path) -> None:
    for name in ("a.tiff", "a.png"):
        Image.fromarray(np.full((9, 9), 200 * 257, dtype=np.uint16)).save(tmp_path / name)
        assert load_image_files([tmp_path / name], 8)[0, :, 4, 4].tolist() == [200] * 3


@pytest.mark.parametrize("suffix", ["avif", "webp", "tiff", "jpg", "png", "gif"])
def test_damaged_files_have_an_error_of_their_own(tmp_path: Path, suffix: str) -> None:
    random = np.random.default_rng(0)
    path = tmp_path / f"a.{suffix}"
    mark = Image.Exif()
    mark[0x0112] = 6
    more: dict[str, Any] = {} if suffix == "gif" else {"exif": mark}
    Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(path, **more)
    content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    for _ in range(150):
        damaged = content.copy()
        places = random.integers(0, min(len(damaged), 400), 3)
        damaged[places] = random.integers(0, 256, 3)
        (found,) = decoded_or_errors([io.BytesIO(damaged.tobytes())])
        assert isinstance(found, Tensor | DataError)


def test_the_first_of_several_pictures_counts(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (9, 9), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    for name in ("moving.gif", "pages.tiff"):
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:])
        assert load_image_files([tmp_path / name], 8)[0, :, 4, 4].tolist() == [255, 0, 0]


def test_without_its_plugin_a_heic_photograph_is_refused_with_the_remedy(tmp_path: Path) -> None:
    if importlib.util.find_spec("pillow_heif") is not None:
        pytest.skip("the plug-in is installed")
    (tmp_path / "photo.heic").write_bytes(b"ftypheic")
    with raises(DataError, subject="photo.heic", remedy="pip install pillow-heif"):
        image_files(tmp_path)


def test_errors_take_the_place_of_their_pictures(tmp_path: Path) -> None:
    good = plain(tmp_path / "a.png", (1, 2, 3))
    (tmp_path / "b.png").write_bytes(b"")
    sources = [good, tmp_path / "b.png", io.BytesIO(good.read_bytes()), tmp_path / "c.png", io.BytesIO(b""), good]
    first, *found = decoded_or_errors(sources)
    assert isinstance(first, Tensor)
    assert first[:, 0, 0].tolist() == [1, 2, 3]
    kinds = [type(own) for own in found]
    assert kinds == [DataError, Tensor, UsageError, DataError, Tensor]
    assert isinstance(found[3], DataError)
    assert found[3].subject == "standard input"
    assert all(torch.equal(first, own) for own in found if isinstance(own, Tensor))


def test_a_bad_picture_is_named(tmp_path: Path) -> None:
    random = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for name in ("cut.png", "cut.jpg", "cut.webp", "cut.bmp"):
        Image.fromarray(random).save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    plain(tmp_path / "fax.pcx").rename(tmp_path / "disguised.png")
    for path in sorted(tmp_path.iterdir()):
        with raises(DataError, subject=path.name):
            load_image_files([path], 8)
    with raises(UsageError, subject="gone.png", problem="does not exist"):
        load_image_files([tmp_path / "gone.png"], 8)


def test_a_corrupt_picture_in_a_class_folder_is_named(tmp_path: Path) -> None:
    plain(tmp_path / "a" / "1.png")
    plain(tmp_path / "b" / "1.png")
    (tmp_path / "b" / "2.png").write_bytes((tmp_path / "b" / "1.png").read_bytes()[:40])
    with raises(DataError, subject="2.png"):
        load_images(tmp_path)


@pytest.mark.parametrize(("width", "height"), [(12000, 12000), (60000, 60000)])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, width: int, height: int) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )
    (tmp_path / "bomb.png").write_bytes(bomb)
    with raises(DataError, subject="bomb.png", remedy="128 megapixels"):
        load_image_files([tmp_path / "bomb.png"], 8)


def test_what_is_no_class_folder_is_said(tmp_path: Path) -> None:
    with raises(UsageError, subject=str(tmp_path), remedy="one folder per class"):
        load_images(tmp_path)
    plain(tmp_path / "1.png")
    with raises(UsageError, subject=str(tmp_path), remedy="one folder per class"):
        load_images(tmp_path)
    (tmp_path / "empty").mkdir()
    with raises(DataError, subject="empty", problem="without images"):
        load_images(tmp_path)
    with raises(UsageError, subject="1.png", problem="neither"):
        load_images(tmp_path / "1.png")
    with raises(UsageError, subject="nowhere", problem="does not exist"):
        load_images(tmp_path / "nowhere")
    with raises(UsageError, subject="image side", problem="from 8 to 1024 pixels, not 4"):
        load_images(tmp_path, side=4)


def test_a_picture_of_another_format_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    plain(tmp_path / "a" / "1.png")
    plain(tmp_path / "a" / "2.ppm")
    with raises(DataError, subject="2.ppm", remedy="convert it"):
        load_images(tmp_path)


def test_plain_files_come_in_the_order_given(tmp_path: Path) -> None:
    files = [plain(tmp_path / f"{number}.png", (number, 0, 0)) for number in range(30)]
    assert load_image_files(files[::-1], 8)[:, 0, 0, 0].tolist() == list(range(29, -1, -1))
    assert image_files(tmp_path) == sorted(files)
    assert load_image_files([], 8).shape == (0, 3, 8, 8)


def test_folders_in_a_class_folder_are_named_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / "cat" / "1.png")
    with raises(DataError, subject=str(tmp_path / "train"), problem="cat", remedy=f"give {tmp_path / 'train'}"):
        load_images(tmp_path)


def test_a_url_is_refused_as_such() -> None:
    with raises(UsageError, subject="https://example.org/pets.npz", problem="URLs are not read"):
        load_images("https://example.org/pets.npz")
