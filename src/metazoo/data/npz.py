"""`.npz` packs: `images` uint8 [n, side, side, 3], `labels` [n], `class_names` [classes], optionally `groups` [n]."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from metazoo.data.images import ImageSet
from metazoo.errors import DataError

_REQUIRED = ("images", "labels", "class_names")
_SHAPE_OF_A_PACK = (
    "a pack holds images uint8 [n, side, side, 3], labels [n], class_names [classes] and perhaps groups [n]"
)


def load_npz(path: Path) -> ImageSet:
    """Read a pack, called after its file; pickled arrays are refused.

    Raises:
        DataError: not a pack, damaged, or an array is missing or of the wrong type, shape or range; the file is named.
    """
    arrays = _read_arrays(path)
    missing = [key for key in _REQUIRED if key not in arrays]
    if missing:
        raise DataError(f"{path} has no array {missing[0]!r}; {_SHAPE_OF_A_PACK}")
    images, labels, names = (arrays[key] for key in _REQUIRED)
    groups = arrays.get("groups")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or images.shape[1] != images.shape[2]:
        raise DataError(f"{path}: images are {_describe(images)}; {_SHAPE_OF_A_PACK}")
    if names.dtype.kind != "U" or names.ndim != 1:
        raise DataError(f"{path}: class_names are {_describe(names)}, they must be a list of strings")
    for key, values in (("labels", labels), ("groups", groups)):
        if values is not None and (values.dtype.kind not in "iu" or values.shape != (len(images),)):
            raise DataError(f"{path}: {key} are {_describe(values)}, they must be integers [{len(images)}]")
    try:
        return ImageSet(
            images=torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))),
            labels=torch.from_numpy(labels.astype(np.int64)),
            class_names=tuple(str(name) for name in names.tolist()),
            groups=None if groups is None else torch.from_numpy(groups.astype(np.int64)),
            name=path.stem,
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        # Opened here, because NumPy leaves a file open that turns out not to be an archive.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path} is a single array, not an .npz pack; {_SHAPE_OF_A_PACK}")
            with archive:
                return {key: archive[key] for key in (*_REQUIRED, "groups") if key in archive}
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        reason = "it holds pickled objects" if "pickle" in str(error) else str(error) or type(error).__name__
        raise DataError(f"{path} is not a readable .npz pack: {reason}; {_SHAPE_OF_A_PACK}") from error


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"
