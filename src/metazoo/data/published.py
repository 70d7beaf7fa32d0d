"""Published data sets with their published parts, by the names that users type: `cifar-fs/train:ROOT`."""

import re
from collections.abc import Callable
from pathlib import Path

from metazoo.data.cifar_fs import load_cifar_fs
from metazoo.data.cub import load_cub
from metazoo.data.images import ImageSet
from metazoo.data.mini_imagenet import load_mini_imagenet
from metazoo.errors import UsageError

PARTS = ("train", "val", "test")
_LOADERS: dict[str, Callable[[Path, str, int | None], ImageSet]] = {
    "cifar-fs": load_cifar_fs,
    "cub": load_cub,
    "mini-imagenet": load_mini_imagenet,
}
_FORM = re.compile(rf"({'|'.join(_LOADERS)})/([^/:]*):(.*)", re.DOTALL)


def is_published(source: str) -> bool:
    """Whether `source` is of the form NAME/PART:ROOT with the name of a published data set."""
    return _FORM.fullmatch(source) is not None


def load_published(source: str, side: int | None = None) -> ImageSet:
    """Load one part of a published data set that is on disk, called NAME-PART.

    The three parts of a data set share no class. Nothing is downloaded.

    Args:
        source: NAME/PART:ROOT with a name of `cifar-fs`, `mini-imagenet`, `cub` and a part of `train`, `val`, `test`;
            what ROOT must hold is said by `load_cifar_fs`, `load_mini_imagenet` and `load_cub`.
        side: of the images in pixels; the data set's own, 32 or 84, if None.

    Raises:
        UsageError: there is no such part or folder, or it holds something else.
        DataError: the content cannot be used; the file is named.
    """
    match = _FORM.fullmatch(source)
    if match is None:
        raise UsageError(f"{source!r} is no published data set; write NAME/PART:ROOT with one of {', '.join(_LOADERS)}")
    name, part, root = match.groups()
    if part not in PARTS:
        raise UsageError(f"{name} has the parts {', '.join(PARTS)}, not {part!r}; write {name}/train:{root or 'ROOT'}")
    path = Path(root).expanduser()
    if not root or not path.is_dir():
        raise UsageError(f"{root!r} is not a folder; give the one that holds {name}, as {name}/{part}:FOLDER")
    return _LOADERS[name](path, part, side)
