"""The few images a user has: reading a support folder, checking tensors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metazoo.data import ImageSet, load_images
from metazoo.errors import DataError, UsageError


def load_support_folder(path: Path | str, side: int) -> ImageSet:
    """Read a folder with one folder a class, each with at least one image; classes may differ in their counts.

    Args:
        path: of the folder; class names are the names of the folders in it, sorted.
        side: height and width in pixels that images are fitted to; `FewShotClassifier.side` of the same model.

    Raises:
        UsageError: the folder does not exist or holds fewer than two class folders.
        DataError: an image cannot be read or a class has none; it is named.
    """
    path = Path(path)
    if not path.is_dir():
        raise UsageError(f"{path} is not a folder; give a folder with one folder of images a class")
    support = load_images(path, side=side)
    if len(support.class_names) < 2:
        only = ", ".join(support.class_names)
        raise UsageError(f"{path} holds the one class {only!r}; give at least two class folders")
    return support


def checked_images(images: Any) -> Tensor:
    """Float images [n, 1 or 3, h, w] in [0, 1], from the same or from uint8; arrays of NumPy are taken too.

    Raises:
        DataError: another shape or type, no image, or values outside the range.
    """
    if isinstance(images, str | Path) or (
        isinstance(images, Sequence) and all(isinstance(i, str | Path) for i in images)
    ):
        raise DataError(
            "images are a tensor, not paths; read files by metazoo.data.load_image_files, a folder with one folder a "
            "class by metazoo.adapt.load_support_folder"
        )
    images = _tensor(images, "images")
    if images.dim() != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise DataError(
            f"images must be [n, 3, height, width] (or 1 channel), not {list(images.shape)}{_remedy(images.shape)}"
        )
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise DataError(f"images must be uint8, or float from 0 to 1, not {str(images.dtype).removeprefix('torch.')}")
    low, high = (float(edge) for edge in images.aminmax())
    if not (low >= 0 and high <= 1):
        raise DataError(f"float images must lie between 0 and 1, not between {low:g} and {high:g}; scale them")
    return images.float()


def checked_labels(labels: Any, images: int, names: Sequence[str] | None) -> tuple[Tensor, tuple[str, ...]]:
    """The label of each of `images` images, int64 [images] from 0 on, and a name for every class.

    Raises:
        UsageError: labels that do not fit the images or the names, fewer than two classes, one without an image, or a
            name that stands twice.
    """
    labels = _tensor(labels, "labels")
    if labels.shape != (images,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise UsageError(
            f"{images} images need {images} labels, whole numbers from 0 on, not {list(labels.shape)} of "
            f"{str(labels.dtype).removeprefix('torch.')}"
        )
    labels = labels.long()
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high < 1:
        found = f"the one class {low}" if low == high else f"labels from {low} on"
        raise UsageError(f"a classifier needs two classes or more, labelled from 0 on, not {found}")
    ways = high + 1 if names is None else len(names)
    absent = sorted(set(range(max(ways, high + 1))) - set(labels.tolist()))
    if high >= ways:
        raise UsageError(f"there are {ways} class names, but a label {high}; labels are from 0 to {ways - 1}")
    if absent:
        raise UsageError(
            f"the class {absent[0] if names is None else names[absent[0]]!r} has no image; labels are the numbers of "
            "classes, from 0 on and none left out"
        )
    chosen = tuple(map(str, range(ways))) if names is None else tuple(names)
    if len(set(chosen)) < ways:
        raise UsageError("every class needs a name of its own; rename one")
    return labels, chosen


def _tensor(values: Any, what: str) -> Tensor:
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{what} must be a tensor or an array, not {type(values).__name__}; torch.stack makes one of many"
        ) from error


def _remedy(shape: torch.Size) -> str:
    if len(shape) == 4 and shape[-1] in (1, 3):
        return "; put channels second, by permute(0, 3, 1, 2)"
    return "; put one image into a batch by unsqueeze(0)" if len(shape) == 3 else ""
