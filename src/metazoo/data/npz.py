"""`.npz` packs: `images` uint8 [n, side, side, 3], `labels` [n], `class_names` [classes], optionally `groups` [n]."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from metazoo.data.images import ImageSet
from metazoo.errors import DataError

_REQUIRED = ("images", "labels", "class_names")
_REMEDY = "store images uint8 [n, side, side, 3], labels [n], class_names [classes] and optionally groups [n]"


def load_npz(path: Path) -> ImageSet:
    """Read a pack, which is named after its file; pickled arrays are refused.

    Raises:
        DataError: the file is not a pack or damaged, or an array is missing or of the wrong type, shape or range.
    """
    arrays = _read_arrays(path)
    missing = [key for key in _REQUIRED if key not in arrays]
    if missing:
        raise DataError(path, f"no array {missing[0]!r}", _REMEDY)
    images, labels, names = (arrays[key] for key in _REQUIRED)
    groups = arrays.get("groups")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or images.shape[1] != images.shape[2]:
        raise DataError(path, f"images are {_describe(images)}", _REMEDY)
    if names.dtype.kind != "U" or names.ndim != 1:
        raise DataError(path, f"class_names must be a list of strings, not {_describe(names)}")
    for key, values in (("labels", labels), ("groups", groups)):
        if values is not None and (values.dtype.kind not in "iu" or values.shape != (len(images),)):
            raise DataError(path, f"{key} must be integers [{len(images)}], not {_describe(values)}")
    try:
        return ImageSet(
            images=torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))),
            labels=torch.from_numpy(labels.astype(np.int64)),
            class_names=tuple(str(name) for name in names.tolist()),
            groups=None if groups is None else torch.from_numpy(groups.astype(np.int64)),
            name=path.stem,
        )
    except DataError as error:
        raise DataError(path, error.problem, error.remedy) from error


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        # NumPy would leave a file open that is not an archive.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(path, "a single array, not an .npz pack", _REMEDY)
            with archive:
                return {key: archive[key] for key in (*_REQUIRED, "groups") if key in archive}
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        reason = "pickled objects" if "pickle" in str(error) else str(error) or type(error).__name__
        raise DataError(path, f"not a readable .npz pack: {reason}", _REMEDY) from error


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"
