"""Published data sets with their published splits, by names such as `cifar-fs/train:ROOT`."""

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
    """Published data set.

    Attributes:
        load: function from a folder, a part and a side in pixels (None for the usual one) to the images.
        has_one_side: whether all its images have one size, which is then the best size to read them at.
    """

    load: Callable[[Path, str, int | None], ImageSet]
    has_one_side: bool


_CUB_CLASSES, _CUB_SIDE = 200, 84
# Chen et al. (ICLR 2019): every second class for training, every second of the others for validation.
_CUB_PART_OF_INDEX = ("train", "val", "train", "test")


def load_cub(root: Path, part: str, side: int | None = None) -> ImageSet:
    """Read one part; `001.Black_footed_Albatross` is named `Black footed Albatross`.

    Class i of the sorted 200 (from 0) is in `train` if i % 2 = 0, in `val` if i % 4 = 1, in `test` if i % 4 = 3.

    Args:
        root: folder `CUB_200_2011`, or the folder `images` in it.
        part: `train`, `val` or `test`.
        side: side of the images in pixels; None for 84.

    Raises:
        UsageError: there are no class folders.
        DataError: there are not 200 class folders, one has no image, or an image cannot be read.
    """
    path = root / "images" if (root / "images").is_dir() else root
    folders = class_folders(path)
    if len(folders) != _CUB_CLASSES:
        problem = f"has {len(folders)} class folders, not the {_CUB_CLASSES} of CUB-200-2011"
        raise DataError(path, problem, "complete it")
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
    """Find the data set of a `source` NAME/PART:ROOT; None if it has another form or an unknown name."""
    match = _FORM.fullmatch(source)
    return None if match is None else _PUBLISHED[match[1]]


def is_published_part(*names: str) -> bool:
    """Whether these are the name of a published data set and of one of its parts."""
    return len(names) == 2 and names[0] in _PUBLISHED and names[1] in PARTS


def load_published(source: str, side: int | None = None) -> ImageSet:
    """Load one part of a published data set from disk, without downloading it; the set is named NAME-PART.

    The three parts of a data set share no class.

    Args:
        source: NAME/PART:ROOT with a name of `cifar-fs`, `mini-imagenet`, `cub` and a part of `train`, `val`, `test`;
            for the content of ROOT see `load_cifar_fs`, `load_mini_imagenet` and `load_cub`.
        side: side of the images in pixels; None for 32 or 84, as usual for the data set.

    Raises:
        UsageError: the part or folder does not exist, or the folder has other content.
        DataError: the content cannot be used.
    """
    match = _FORM.fullmatch(source)
    if match is None:
        remedy = f"write NAME/PART:ROOT with one of {', '.join(_PUBLISHED)}"
        raise UsageError(source, "not a published data set", remedy)
    name, part, root = match.groups()
    if part not in PARTS:
        problem = f"has the parts {', '.join(PARTS)}, not {part!r}"
        raise UsageError(name, problem, f"write {name}/train:{root or 'ROOT'}")
    path = Path(root).expanduser()
    if not root or not path.is_dir():
        raise UsageError(source, f"{root!r} is not a folder", f"give {name}/{part}:FOLDER")
    return _PUBLISHED[name].load(path, part, side)
