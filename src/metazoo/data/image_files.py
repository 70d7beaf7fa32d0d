"""Image folders (one folder a class) and plain image files."""

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from metazoo.data.images import ImageSet
from metazoo.errors import DataError, UsageError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp"})
# Only these decoders are ever given a file, whatever its name says.
_DECODERS = ("PNG", "JPEG", "WEBP", "BMP")
# Pictures that are not read; passing over them in silence would quietly shrink a class.
_FOREIGN_SUFFIXES = frozenset({".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".ppm", ".pgm", ".tga"})
_MOST_MEGAPIXELS = 64
_READERS = 4


def load_folder(path: Path, side: int) -> ImageSet:
    """Read a folder with one folder a class; class names are those folders', sorted.

    The set is called after the folder. Hidden files and folders are passed over, and so are files that are no pictures.

    Raises:
        UsageError: there are no class folders.
        DataError: a class folder holds no picture, or a picture cannot be read; it is named.
    """
    folders = class_folders(path)
    return load_class_folders(folders, [folder.name for folder in folders], side, path.resolve().name or "images")


def class_folders(path: Path) -> list[Path]:
    """The folders in a folder, sorted by name; hidden ones are passed over.

    Raises:
        UsageError: there are none.
    """
    folders = [entry for entry in _entries(path) if entry.is_dir()]
    if not folders:
        raise UsageError(
            f"{path} has no class folders; expected one folder a class with its images inside, such as "
            f"{path / 'cat' / '1.png'} and {path / 'dog' / '1.png'}"
        )
    return folders


def load_class_folders(folders: Sequence[Path], class_names: Sequence[str], side: int, name: str) -> ImageSet:
    """The pictures directly in each of `folders`, as one set called `name`.

    Raises:
        DataError: a class folder holds no picture, or a picture cannot be read; it is named.
    """
    files, labels = files_of_classes(folders)
    return ImageSet(images=load_image_files(files, side), labels=labels, class_names=tuple(class_names), name=name)


def files_of_classes(folders: Sequence[Path]) -> tuple[list[Path], Tensor]:
    """The pictures directly in each of `folders`, and the index of the folder of each, int64.

    Raises:
        DataError: a folder holds no picture, or one of a format that is not read; it is named.
    """
    files = [image_files(folder) for folder in folders]
    for folder, members in zip(folders, files, strict=True):
        if not members:
            inner = next((entry for entry in _entries(folder) if entry.is_dir() and image_files(entry)), None)
            if inner is not None:
                raise DataError(
                    folder,
                    f"class folder with images in folders below it, such as {inner.name}",
                    f"move all images of a class into its folder, or give {folder} if its folders are the classes",
                )
            raise DataError(folder, "class folder without images", f"add {_accepted()} images or remove the folder")
    counts = torch.tensor([len(members) for members in files])
    return [file for members in files for file in members], torch.arange(len(folders)).repeat_interleave(counts)


def image_files(folder: Path) -> list[Path]:
    """The pictures directly in a folder, sorted by name; hidden files and files that are no pictures are passed over.

    Raises:
        DataError: a picture is of a format that is not read; it is named.
    """
    files = [entry for entry in _entries(folder) if entry.is_file()]
    for file in files:
        if file.suffix.lower() in _FOREIGN_SUFFIXES:
            raise DataError(f"{file} is of a format that is not read; convert it to {_accepted()} or remove it")
    return [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]


def load_image_files(paths: Sequence[Path | str], side: int) -> Tensor:
    """Read pictures as uint8 RGB [n, 3, side, side]: the shorter side resized to `side`, then cropped at the centre.

    This is how data sets are read, quickly and rounded to 8 bits; a few-shot classifier reads `decoded_images`.
    Orientation marks of cameras are obeyed; grey, palette, 16-bit and CMYK pictures become RGB; transparency is laid on
    white.

    Raises:
        UsageError: a file does not exist.
        DataError: a file is damaged, no picture, of another format or larger than 64 megapixels; it is named.
    """
    images = torch.empty(len(paths), 3, side, side, dtype=torch.uint8)
    with warnings.catch_warnings(), ThreadPoolExecutor(_READERS) as pool:
        # Pillow warns of large or oddly marked files; what matters of that is checked here and raised.
        warnings.simplefilter("ignore")
        for position, array in enumerate(pool.map(lambda path: _pixels(Path(path), side), paths)):
            images[position] = torch.from_numpy(array).permute(2, 0, 1)
    return images


def decoded_images(paths: Sequence[Path | str]) -> Iterator[Tensor]:
    """Yield pictures whole, as uint8 RGB [3, h, w], in the order of `paths`; at most 4 are in memory.

    Raises:
        UsageError, DataError: as `load_image_files`.
    """
    for start in range(0, len(paths), _READERS):
        with warnings.catch_warnings(), ThreadPoolExecutor(_READERS) as pool:
            warnings.simplefilter("ignore")
            arrays = list(pool.map(lambda path: _pixels(Path(path)), paths[start : start + _READERS]))
        while arrays:
            yield torch.from_numpy(arrays.pop(0)).permute(2, 0, 1).contiguous()


def _pixels(path: Path, side: int | None = None) -> np.ndarray:
    """RGB [h, w, 3] of a whole picture, or of its centre resized to `side`."""
    try:
        with Image.open(path, formats=_DECODERS) as picture:
            if picture.width * picture.height > _MOST_MEGAPIXELS * 10**6:
                raise DataError(
                    f"{path} has {picture.width} x {picture.height} pixels; "
                    f"shrink it below {_MOST_MEGAPIXELS} megapixels"
                )
            if side is not None:
                # Lets the JPEG decoder shrink a large photograph while it reads; other formats ignore it.
                picture.draft(None, (4 * side, 4 * side))
            upright = upright_rgb(picture)
            return np.array(upright if side is None else ImageOps.fit(upright, (side, side), Image.Resampling.BILINEAR))
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist; give the path of an image") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is not a {_accepted()} image; convert or remove it") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} is far too large; shrink it below {_MOST_MEGAPIXELS} megapixels") from error
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
        raise DataError(f"{path} cannot be read ({error}); repair or remove it") from error


def upright_rgb(picture: Image.Image) -> Image.Image:
    """A picture turned as its EXIF data ask, in RGB, on white where it is transparent."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion cuts off at 255 instead of scaling.
        return Image.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise UsageError(
            f"cannot list {folder} ({error.strerror or error}); check that it is a readable folder"
        ) from error


def _accepted() -> str:
    return "PNG, JPEG, WebP or BMP"
