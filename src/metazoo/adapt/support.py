"""Support sets of users: reading files, checking tensors and labels."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from PIL import Image
from torch import Tensor

from metazoo.data import decoded_images, decoded_or_errors
from metazoo.data.image_files import class_folders, files_of_classes, upright_rgb
from metazoo.errors import DataError, MetazooError, UsageError
from metazoo.features.heads.head import in_batches
from metazoo.models import square_images
from metazoo.text import some_of

# Resized white images exceed 1 by rounding.
_ROUNDING = 1e-5


@dataclass(frozen=True, eq=False)
class SupportSet:
    """Labelled images of a new task.

    Attributes:
        images: square images in [0, 1]; see `square_images`.
        labels: indices into `class_names`.
        class_names: sorted names of the class folders.
        image_names: name of each image, such as `cat/3.png`.
        skipped: reason for each file that was left out, such as `cat/3.png: cannot be read (...)`.
    """

    images: Float[Tensor, "n channels side side"]
    labels: Int64[Tensor, " n"]
    class_names: tuple[str, ...]
    image_names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


def load_support_folder(path: Path | str, side: int, *, skip_bad: bool = False) -> SupportSet:
    """Read a support set from a folder with one folder of images per class.

    Args:
        path: folder of at least two class folders, each with at least one image. Class names are their sorted names.
        side: height and width of the result in pixels; see `FewShotClassifier.side`.
        skip_bad: whether images that cannot be read are left out, instead of being an error that names all of them.

    Raises:
        UsageError: the folder does not exist or holds fewer than two class folders.
        DataError: images cannot be read, or a class has no image that can.
    """
    support = load_labelled_folder(path, side, skip_bad=skip_bad)
    if len(support.class_names) < 2:
        name = some_of(support.class_names)
        raise UsageError(path, f"holds the one class {name!r}", "give at least two class folders")
    return support


def load_labelled_folder(path: Path | str, side: int, *, skip_bad: bool = False) -> SupportSet:
    """Read images like `load_support_folder`, also of a single class."""
    path = Path(path)
    if not path.is_dir():
        raise UsageError(path, "is not a folder", "give a folder with one folder of images per class")
    folders = class_folders(path)
    files, labels = files_of_classes(folders, unsupported=True)
    squares, kept, skipped = list[Tensor](), list[int](), list[str]()
    for number, found in enumerate(decoded_or_errors(files)):
        if isinstance(found, MetazooError):
            skipped.append(f"{files[number].relative_to(path)}: {found.problem}")
        else:
            squares.append(square_images(found.unsqueeze(0), side))
            kept.append(number)
    labels = labels[kept]
    if skipped and not skip_bad:
        problem = f"{len(skipped)} of {len(files)} images cannot be used: {some_of(skipped, 20)}"
        raise DataError(path, problem, "repair or remove them, or give --skip-bad (in Python, skip_bad=True)")
    for number, folder in enumerate(folders):
        if not bool((labels == number).any()):
            raise DataError(folder, "no image that can be read", "add images or remove the folder")
    names = tuple(f"{files[number].parent.name}/{files[number].name}" for number in kept)
    class_names = tuple(folder.name for folder in folders)
    return SupportSet(torch.cat(squares), labels, class_names, names, tuple(skipped))


def image_names_of(images: Any, count: int) -> tuple[str, ...]:
    """Names of `count` images: the last two parts of their paths, or `image 1` and so on."""
    if isinstance(images, Sequence) and all(isinstance(image, str | Path) for image in images):
        return tuple("/".join(Path(image).parts[-2:]) for image in images)
    return tuple(f"image {number}" for number in range(1, count + 1))


def checked_images(images: Any, side: int) -> Float[Tensor, "n channels {side} {side}"]:
    """Check images and convert them to squares of 1 or 3 channels in [0, 1] by `square_images`.

    Args:
        images: batch [n, 3, h, w], or [n, h, w, 3] if that is unambiguous (also of 1 channel), uint8 or float
            in [0, 1], a tensor or a NumPy array; or a sequence of n paths, PIL images, tensors or arrays, of any sizes;
            or a single PIL image.
        side: height and width of the result in pixels.

    Raises:
        UsageError: a file does not exist.
        DataError: no image, a wrong shape or type, NaN, values out of range, or a file that cannot be read.
    """
    if isinstance(images, str | Path):
        raise DataError("images", "one path instead of a list", "put it into a list")
    if isinstance(images, Image.Image):
        images = [images]
    if isinstance(images, Sequence):
        if not images:
            raise DataError("images", "none given", "give at least one")
        if all(isinstance(image, str | Path) for image in images):
            singles = decoded_images(images)
        else:
            singles = (_single(image, number) for number, image in enumerate(images))
        squares = [square_images(image.unsqueeze(0), side) for image in singles]
        # Grey and coloured images may be mixed.
        channels = max(one.shape[1] for one in squares)
        return torch.cat([one.expand(-1, channels, -1, -1) for one in squares])
    return torch.cat([square_images(part, side) for part in in_batches(_batch(images, "images"))])


def unique_names(names: Iterable[str], taken: Iterable[str] = ()) -> tuple[str, ...]:
    """Names of images that differ from each other and from those taken, such as `cat/1.jpg (2)`."""
    seen, found = set(taken), list[str]()
    for name in names:
        unique, number = name, 1
        while unique in seen:
            number += 1
            unique = f"{name} ({number})"
        seen.add(unique)
        found.append(unique)
    return tuple(found)


def pixels_of(squares: Float[Tensor, "n channels side side"]) -> UInt8[Tensor, "n 3 side side"]:
    """Square images as 8-bit RGB on the CPU."""
    return (squares.expand(-1, 3, -1, -1) * 255).round().to(torch.uint8).cpu()


def _single(image: Any, number: int) -> Shaped[Tensor, "channels height width"]:
    """Convert one element of a sequence to a tensor."""
    if isinstance(image, str | Path):
        return next(decoded_images([image]))
    if isinstance(image, Image.Image):
        return torch.from_numpy(np.array(upright_rgb(image))).permute(2, 0, 1)
    subject = f"images[{number}]"
    pixels = _tensor(image, subject, "give paths, PIL images, tensors or arrays")
    if pixels.dim() != 3:
        raise DataError(subject, f"shape {list(pixels.shape)}, not [3, height, width]", "give one image")
    return _batch(pixels.unsqueeze(0), subject)[0]


def _batch(images: Any, subject: str) -> Shaped[Tensor, "n channels height width"]:
    """Check a batch and convert it to [n, channels, h, w], uint8 or float32 in [0, 1]."""
    images = _tensor(images, subject, "give a tensor, a NumPy array, or a list of paths or PIL images")
    shape = list(images.shape)
    if images.dim() == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3):
        images = images.permute(0, 3, 1, 2)
    if images.numel() == 0:
        raise DataError(subject, f"empty, of shape {shape}", "give at least one image")
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        remedy = "put one image into a batch, by images[None]" if len(shape) == 3 else "give 1 or 3 channels"
        raise DataError(subject, f"shape {shape}, not [n, 3, height, width]", remedy)
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise DataError(subject, f"type {_name(images)}", "give uint8, or float in [0, 1]")
    if not bool(images.isfinite().all()):
        raise DataError(subject, "values that are NaN or infinite", "replace them")
    low, high = (float(edge) for edge in images.aminmax())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        remedy = "divide by 255" if low >= 0 and high <= 255 else "undo the normalisation"
        raise DataError(subject, f"float values from {low:g} to {high:g}, not in [0, 1]", remedy)
    return images.float()


def checked_labels(
    labels: Any, images: int, names: Sequence[str] | None
) -> tuple[Int64[Tensor, " {images}"], tuple[str, ...]]:
    """Check labels and convert them to class numbers and class names.

    Args:
        labels: labels of the images: whole numbers from 0, or class names.
        images: number of images.
        names: names of the classes. None stands for their numbers, or for the sorted names in `labels`.

    Raises:
        UsageError: labels that do not fit the images or the names, fewer than two classes, a class without an image, or
            a duplicate name.
    """
    if names is not None and len(set(names)) < len(names):
        duplicate = Counter(names).most_common(1)[0][0]
        raise UsageError("class names", f"duplicate {duplicate!r}", "give every class a different name")
    plain = labels.tolist() if hasattr(labels, "tolist") else labels
    if isinstance(plain, Sequence) and plain and all(isinstance(label, str) for label in plain):
        names = sorted(set(plain)) if names is None else names
        number_of = {name: number for number, name in enumerate(names)}
        unknown = next((label for label in plain if label not in number_of), None)
        if unknown is not None:
            raise UsageError("labels", f"{unknown!r} is not a class name", f"choose one of {some_of(names)}")
        labels = [number_of[label] for label in plain]
    labels = _tensor(labels, "labels", "give whole numbers or class names")
    if labels.shape != (images,):
        raise UsageError("labels", f"shape {list(labels.shape)} for {images} images", "give one label per image")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise UsageError("labels", f"type {_name(labels)}", "give whole numbers from 0, or class names")
    labels = labels.long().cpu()
    low, high = int(labels.min()), int(labels.max())
    ways = high + 1 if names is None else len(names)
    if low < 0 or high >= ways:
        wrong = low if low < 0 else high
        raise UsageError("labels", f"{wrong} is not a class", f"number the classes from 0 to {max(ways, 2) - 1}")
    absent = sorted(set(range(ways)) - set(labels.tolist()))
    if absent:
        name = absent[0] if names is None else names[absent[0]]
        raise UsageError("labels", f"class {name!r} has no image", "number the classes from 0 without gaps")
    if ways < 2:
        raise UsageError("labels", "all images are of one class", "give images of at least two classes")
    return labels, tuple(map(str, range(ways))) if names is None else tuple(names)


def _tensor(values: Any, subject: str, remedy: str) -> Tensor:
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(subject, f"type {type(values).__name__}", remedy) from error


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
