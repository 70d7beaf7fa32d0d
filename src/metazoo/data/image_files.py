"""Image files, and folders of them with one folder per class."""

import contextlib
import hashlib
import importlib
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from metazoo.data.images import ImageSet
from metazoo.errors import DataError, MetazooError, UsageError

# Only these decoders are used, whatever the suffix of a file. Pillow may lack AVIF; HEIF is a plug-in.
_SUFFIXES = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jfif"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif"),
}
# Unsupported formats, which are errors because ignoring them would shrink a class unnoticed.
_FOREIGN_SUFFIXES = frozenset({".jp2", ".ppm", ".pgm", ".tga"})
_MOST_MEGAPIXELS = 128
_SHRINK = f"shrink it below {_MOST_MEGAPIXELS} megapixels"
_READERS = 4
_ACCEPTED = "PNG, JPEG, WebP, BMP, GIF, TIFF or AVIF"
_CONVERT = f"convert it to {_ACCEPTED}, or remove it"


@cache
def _decoders() -> tuple[str, ...]:
    """Decoders that this installation has."""
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    Image.init()
    return tuple(name for name in _SUFFIXES if name in Image.OPEN)


def load_folder(path: Path, side: int) -> ImageSet:
    """Read a folder with one folder per class; the sorted names of these folders are the class names.

    The set is named after the folder. Hidden files, hidden folders and files other than images are ignored.

    Raises:
        UsageError: there are no class folders.
        DataError: a class folder has no image, or an image cannot be read.
    """
    folders = class_folders(path)
    return load_class_folders(folders, [folder.name for folder in folders], side, path.resolve().name or "images")


def class_folders(path: Path) -> list[Path]:
    """List the folders in a folder, sorted by name, without hidden ones.

    Raises:
        UsageError: there are none.
    """
    folders = [entry for entry in _entries(path) if entry.is_dir()]
    if not folders:
        example = f"{path / 'cat' / '1.png'} and {path / 'dog' / '1.png'}"
        raise UsageError(path, "no class folders", f"put images in one folder per class, such as {example}")
    return folders


def load_class_folders(folders: Sequence[Path], class_names: Sequence[str], side: int, name: str) -> ImageSet:
    """Read the images directly in each of `folders` as one set called `name`.

    Raises:
        DataError: a class folder has no image, or an image cannot be read.
    """
    files, labels = files_of_classes(folders)
    return ImageSet(images=load_image_files(files, side), labels=labels, class_names=tuple(class_names), name=name)


def files_of_classes(folders: Sequence[Path], *, unsupported: bool = False) -> tuple[list[Path], Tensor]:
    """List the images directly in each of `folders`, with the index of the folder of each, int64.

    Args:
        folders: folders of the classes.
        unsupported: see `image_files`.

    Raises:
        DataError: a folder has no image, or an image of an unsupported format.
    """
    files = [image_files(folder, unsupported=unsupported) for folder in folders]
    for folder, members in zip(folders, files, strict=True):
        if not members:
            inner = next((entry for entry in _entries(folder) if entry.is_dir() and image_files(entry)), None)
            if inner is not None:
                raise DataError(
                    folder,
                    f"class folder with images in folders below it, such as {inner.name}",
                    f"move all images of a class into its folder, or give {folder} if its folders are the classes",
                )
            raise DataError(folder, "class folder without images", f"add {_ACCEPTED} images or remove the folder")
    counts = torch.tensor([len(members) for members in files])
    return [file for members in files for file in members], torch.arange(len(folders)).repeat_interleave(counts)


def image_files(folder: Path, *, unsupported: bool = False) -> list[Path]:
    """List the images directly in a folder, sorted by name; hidden files and other files are ignored.

    Args:
        folder: folder of the images.
        unsupported: whether images of unsupported formats are listed, for a caller that states the error of each file.

    Raises:
        DataError: an image has an unsupported format, unless `unsupported`.
    """
    files = [entry for entry in _entries(folder) if entry.is_file()]
    accepted = {suffix for name in _decoders() for suffix in _SUFFIXES[name]}
    foreign = _FOREIGN_SUFFIXES.union(*_SUFFIXES.values()) - accepted
    for file in () if unsupported else files:
        if file.suffix.lower() in foreign:
            raise DataError(file, "unsupported image format", _conversion_of(file))
    listed = accepted | foreign if unsupported else accepted
    return [file for file in files if file.suffix.lower() in listed]


def _conversion_of(file: Path | str) -> str:
    is_heif = Path(file).suffix.lower() in _SUFFIXES["HEIF"]
    return "run `pip install pillow-heif`, or convert or remove it" if is_heif else _CONVERT


def load_image_files(paths: Sequence[Path | str], side: int) -> Tensor:
    """Read images as uint8 RGB [n, 3, side, side]: the shorter side is resized to `side`, then the centre is cropped.

    Data sets are read by this function, quickly and rounded to 8 bits; few-shot classifiers use `decoded_images`. EXIF
    orientation is applied, transparency is replaced by white, and grey, palette, 16-bit and CMYK images become RGB. The
    first of several pictures in a file counts.

    Raises:
        UsageError: a file does not exist.
        DataError: a file is damaged, not an image, of an unsupported format or larger than 128 megapixels.
    """
    images = torch.empty(len(paths), 3, side, side, dtype=torch.uint8)
    with warnings.catch_warnings(), ThreadPoolExecutor(_READERS) as pool:
        # Pillow warns of large or unusual files; the relevant problems are raised as errors here.
        warnings.simplefilter("ignore")
        for position, array in enumerate(pool.map(lambda path: _pixels(Path(path), side), paths)):
            images[position] = torch.from_numpy(array).permute(2, 0, 1)
    return images


def load_hashed_files(paths: Sequence[Path], side: int) -> tuple[Tensor, list[str]]:
    """Read images as `load_image_files` does, each decoded whole; returns them and their hashes, see `pixel_hash`.

    Raises:
        UsageError, DataError: see `load_image_files`.
    """

    def read(path: Path) -> tuple[np.ndarray, str]:
        whole = _pixels(path)
        small = ImageOps.fit(Image.fromarray(whole), (side, side), Image.Resampling.BILINEAR)
        return np.array(small), pixel_hash(whole)

    images, hashes = torch.empty(len(paths), 3, side, side, dtype=torch.uint8), []
    with warnings.catch_warnings(), ThreadPoolExecutor(_READERS) as pool:
        warnings.simplefilter("ignore")
        for position, (array, own) in enumerate(pool.map(read, paths)):
            images[position] = torch.from_numpy(array).permute(2, 0, 1)
            hashes.append(own)
    return images, hashes


def pixel_hash(pixels: np.ndarray) -> str:
    """SHA-256 of an image's size and pixels, in hexadecimal; `pixels` are uint8 [h, w, 3]."""
    head = "x".join(map(str, pixels.shape[:2]))
    return hashlib.sha256(head.encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def decoded_images(paths: Sequence[Path | str]) -> Iterator[Tensor]:
    """Yield uncropped images as uint8 RGB [3, h, w], in the order of `paths`; at most 4 are in memory.

    Raises:
        UsageError, DataError: see `load_image_files`.
    """
    for found in decoded_or_errors([Path(path) for path in paths]):
        if isinstance(found, MetazooError):
            raise found
        yield found


def decoded_or_errors(sources: Sequence[Path | BinaryIO]) -> Iterator[Tensor | MetazooError]:
    """Yield images as `decoded_images` does, and the error of each that cannot be read.

    Args:
        sources: paths, or open files.
    """
    for start in range(0, len(sources), _READERS):
        with warnings.catch_warnings(), ThreadPoolExecutor(_READERS) as pool:
            warnings.simplefilter("ignore")
            found = list(pool.map(_pixels_or_error, sources[start : start + _READERS]))
        while found:
            own = found.pop(0)
            yield own if isinstance(own, MetazooError) else torch.from_numpy(own).permute(2, 0, 1).contiguous()


def _pixels_or_error(source: Path | BinaryIO) -> np.ndarray | MetazooError:
    try:
        return _pixels(source)
    except MetazooError as error:
        return error


def _pixels(source: Path | BinaryIO, side: int | None = None) -> np.ndarray:
    """Read an image as RGB [h, w, 3], whole or as its centre resized to `side`."""
    path = source if isinstance(source, Path) else "standard input"
    try:
        with Image.open(source, formats=_decoders()) as picture:
            if picture.width * picture.height > _MOST_MEGAPIXELS * 10**6:
                raise DataError(path, f"has {picture.width} x {picture.height} pixels", _SHRINK)
            if side is not None:
                # The JPEG decoder shrinks a large photograph while reading; other formats ignore this.
                picture.draft(None, (4 * side, 4 * side))
            upright = upright_rgb(picture)
            return np.array(upright if side is None else ImageOps.fit(upright, (side, side), Image.Resampling.BILINEAR))
    except FileNotFoundError as error:
        raise UsageError(path, "does not exist", "give the path of an image") from error
    except UnidentifiedImageError as error:
        raise DataError(path, f"not a {_ACCEPTED} image", _conversion_of(path)) from error
    except Image.DecompressionBombError as error:
        raise DataError(path, "far too large", _SHRINK) from error
    except MetazooError:
        raise
    except Exception as error:  # decoders raise errors of many types on damaged files
        raise DataError(path, f"cannot be read ({error})", "repair or remove it") from error


def upright_rgb(picture: Image.Image) -> Image.Image:
    """Convert a picture to RGB, with its EXIF orientation applied and transparency replaced by white.

    Raises:
        DataError: the pixels are floats, or 32-bit integers of a TIFF, whose range is unknown.
    """
    if picture.mode == "F" or (picture.mode == "I" and picture.format == "TIFF"):
        raise DataError(
            getattr(picture, "filename", "") or "image", "float or 32-bit pixels", "convert it to 8 or 16 bits"
        )
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling.
        return Image.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        problem = f"cannot be listed ({error.strerror or error})"
        raise UsageError(folder, problem, "check that it is a readable folder") from error
