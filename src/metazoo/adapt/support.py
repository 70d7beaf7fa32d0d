"""The few images a user has: reading a support folder, checking tensors."""

from pathlib import Path

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


def checked_images(images: Tensor) -> Tensor:
    """Float images [n, 1 or 3, h, w] in [0, 1], from the same or from uint8.

    Raises:
        DataError: another shape or type, no image, or values outside the range.
    """
    if images.dim() != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise DataError(f"images must be [n, 3, height, width] (or 1 channel), not {list(images.shape)}")
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise DataError(f"images must be uint8, or float from 0 to 1, not {str(images.dtype).removeprefix('torch.')}")
    low, high = (float(edge) for edge in images.aminmax())
    if not (low >= 0 and high <= 1):
        raise DataError(f"float images must lie between 0 and 1, not between {low:g} and {high:g}; scale them")
    return images.float()
