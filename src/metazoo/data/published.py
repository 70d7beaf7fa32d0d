"""Published data sets with their published parts, by the names that users type: `cifar-fs/train:ROOT`."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from metazoo.data.cifar_fs import load_cifar_fs
from metazoo.data.image_files import class_folders, load_class_folders
from metazoo.data.images import ImageSet
from metazoo.data.mini_imagenet import load_mini_imagenet
from metazoo.errors import DataError, UsageError

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class PublishedData:
    """A published data set.

    Attributes:
        load: function that reads a part of it from a folder, at a side in pixels or its usual one.
        has_one_side: whether all its images are of one size, so that they are best read at that.
    """

    load: Callable[[Path, str, int | None], ImageSet]
    has_one_side: bool


_CUB_CLASSES, _CUB_SIDE = 200, 84
# Chen et al. (ICLR 2019): every second class to learn from, of the rest every second one to validate.
_CUB_PART_OF_INDEX = ("train", "val", "train", "test")


def load_cub(root: Path, part: str, side: int | None = None) -> ImageSet:
    """Read one part; `001.Black_footed_Albatross` is named `Black footed Albatross`.

    The class at place i of the sorted 200 (from 0) is in `train` if i % 2 = 0, in `val` if i % 4 = 1, in `test` if
    i % 4 = 3.

    Args:
        root: `CUB_200_2011`, or the folder `images` in it.
        part: `train`, `val` or `test`.
        side: side of the images in pixels; 84 if None.

    Raises:
        UsageError: there are no class folders.
        DataError: they are not 200, one has no image, or an image cannot be read; it is named.
    """
    path = root / "images" if (root / "images").is_dir() else root
    folders = class_folders(path)
    if len(folders) != _CUB_CLASSES:
        raise DataError(f"{path} has {len(folders)} class folders, not the {_CUB_CLASSES} of CUB-200-2011; complete it")
    chosen = [folder for index, folder in enumerate(folders) if _CUB_PART_OF_INDEX[index % 4] == part]
    names = [re.sub(r"^\d+\.", "", folder.name).replace("_", " ") for folder in chosen]
    return load_class_folders(chosen, names, _CUB_SIDE if side is None else side, f"cub-{part}")


_PUBLISHED = {
    "cifar-fs": PublishedData(load_cifar_fs, has_one_side=True),
    "cub": PublishedData(load_cub, has_one_side=False),
    "mini-imagenet": PublishedData(load_mini_imagenet, has_one_side=False),
}
_FORM = re.compile(rf"({'|'.join(_PUBLISHED)})/([^/:]*):(.*)", re.DOTALL)


def find_published(source: str) -> PublishedData | None:
    """The data set of a `source` of the form NAME/PART:ROOT; None if it is of another form or there is none."""
    match = _FORM.fullmatch(source)
    return None if match is None else _PUBLISHED[match[1]]


def load_published(source: str, side: int | None = None) -> ImageSet:
    """Load one part of a published data set that is on disk, called NAME-PART.

    The three parts of a data set share no class. Nothing is downloaded.

    Args:
        source: NAME/PART:ROOT with a name of `cifar-fs`, `mini-imagenet`, `cub` and a part of `train`, `val`, `test`;
            what ROOT must hold is said by `load_cifar_fs`, `load_mini_imagenet` and `load_cub`.
        side: side of the images in pixels; the data set's own, 32 or 84, if None.

    Raises:
        UsageError: there is no such part or folder, or it holds something else.
        DataError: the content cannot be used; the file is named.
    """
    match = _FORM.fullmatch(source)
    if match is None:
        known = ", ".join(_PUBLISHED)
        raise UsageError(f"{source!r} is no published data set; write NAME/PART:ROOT with one of {known}")
    name, part, root = match.groups()
    if part not in PARTS:
        raise UsageError(f"{name} has the parts {', '.join(PARTS)}, not {part!r}; write {name}/train:{root or 'ROOT'}")
    path = Path(root).expanduser()
    if not root or not path.is_dir():
        raise UsageError(f"{root!r} is not a folder; give the one that holds {name}, as {name}/{part}:FOLDER")
    return _PUBLISHED[name].load(path, part, side)
