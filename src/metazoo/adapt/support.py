"""The few images a user has: reading files, checking tensors and labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metazoo.data import decoded_images
from metazoo.data.image_files import class_folders, files_of_classes
from metazoo.errors import DataError, UsageError
from metazoo.features.heads.head import in_batches
from metazoo.models import square_images


@dataclass(frozen=True, eq=False)
class SupportSet:
    """Labelled images of a user.

    Attributes:
        images: float [n, 3, side, side] in [0, 1], as `square_images` makes them.
        labels: int64 [n], indices into `class_names`.
        class_names: names of the class folders, sorted.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]


def load_support_folder(path: Path | str, side: int) -> SupportSet:
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
    folders = class_folders(path)
    if len(folders) < 2:
        raise UsageError(f"{path} holds the one class {folders[0].name!r}; give at least two class folders")
    files, labels = files_of_classes(folders)
    return SupportSet(checked_images(files, side), labels, tuple(folder.name for folder in folders))


def checked_images(images: Any, side: int) -> Tensor:
    """Images of any size as the float squares [n, 1 or 3, side, side] in [0, 1] that `square_images` makes.

    Args:
        images: uint8, or float in [0, 1], [n, 1 or 3, h, w], a tensor or an array of NumPy; or the paths of n files.
        side: height and width of the result in pixels.

    Raises:
        UsageError: a file does not exist.
        DataError: another shape or type, no image, values outside the range, or a file that cannot be read.
    """
    if isinstance(images, str | Path):
        raise DataError("images are a tensor or a list of paths, not one path; put it into a list")
    if isinstance(images, Sequence) and len(images) > 0 and all(isinstance(image, str | Path) for image in images):
        return torch.cat([square_images(image.unsqueeze(0), side) for image in decoded_images(images)])
    images = _tensor(images, "images")
    if images.dim() != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise DataError(
            f"images must be [n, 3, height, width] (or 1 channel), not {list(images.shape)}{_remedy(images.shape)}"
        )
    if images.dtype != torch.uint8:
        if not images.is_floating_point():
            name = str(images.dtype).removeprefix("torch.")
            raise DataError(f"images must be uint8, or float from 0 to 1, not {name}")
        low, high = (float(edge) for edge in images.aminmax())
        if not (low >= 0 and high <= 1):
            raise DataError(f"float images must lie between 0 and 1, not between {low:g} and {high:g}; scale them")
        images = images.float()
    return torch.cat([square_images(part, side) for part in in_batches(images)])


def checked_labels(labels: Any, images: int, names: Sequence[str] | None) -> tuple[Tensor, tuple[str, ...]]:
    """The label of each of `images` images, int64 [images] from 0 on, and a name for every class.

    Raises:
        UsageError: labels that do not fit the images or the names, fewer than two classes, one without an image, or a
            duplicate name.
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
