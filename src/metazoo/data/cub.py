"""Caltech-UCSD Birds 200 (2011) with the split of few-shot learning by class index: 100/50/50."""

import re
from pathlib import Path

from metazoo.data.folder import class_folders, load_class_folders
from metazoo.data.images import ImageSet
from metazoo.errors import DataError

_CLASSES, _SIDE = 200, 84
# Chen et al. (ICLR 2019): every second class to learn from, of the rest every second one to validate.
_PART_OF_INDEX = ("train", "val", "train", "test")


def load_cub(root: Path, part: str, side: int | None = None) -> ImageSet:
    """Read one part; `001.Black_footed_Albatross` is named `Black footed Albatross`.

    The class at place i of the sorted 200 (from 0) is in `train` if i % 2 = 0, in `val` if i % 4 = 1, in `test` if
    i % 4 = 3.

    Args:
        root: `CUB_200_2011`, or the folder `images` in it.
        part: `train`, `val` or `test`.
        side: of the images in pixels; 84 if None.

    Raises:
        UsageError: there are no class folders.
        DataError: they are not 200, one has no image, or an image cannot be read; it is named.
    """
    path = root / "images" if (root / "images").is_dir() else root
    folders = class_folders(path)
    if len(folders) != _CLASSES:
        raise DataError(f"{path} has {len(folders)} class folders, not the {_CLASSES} of CUB-200-2011; complete it")
    chosen = [folder for index, folder in enumerate(folders) if _PART_OF_INDEX[index % 4] == part]
    names = [re.sub(r"^\d+\.", "", folder.name).replace("_", " ") for folder in chosen]
    return load_class_folders(chosen, names, _SIDE if side is None else side, f"cub-{part}")
