"""CIFAR-FS (Bertinetto et al. 2019, arXiv:1805.08136): CIFAR-100 with its classes split 64/16/20."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from metazoo.data.images import ImageSet
from metazoo.errors import DataError, UsageError

_LISTS = {
    "train": """
        apple aquarium_fish bear bee bottle bowl boy bridge bus can castle caterpillar chair clock cloud cockroach
        couch cup dinosaur dolphin elephant forest girl hamster house kangaroo keyboard lawn_mower lion lizard
        lobster mountain mouse mushroom oak_tree orange orchid palm_tree pear pine_tree plate porcupine possum
        rabbit raccoon ray road seal shrew skunk skyscraper snake spider squirrel streetcar sunflower tank tiger
        train trout tulip turtle willow_tree wolf
        """,
    "val": """
        beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree motorcycle otter sea shark
        television tractor
        """,
    "test": """
        baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose snail sweet_pepper table
        telephone wardrobe whale woman worm
        """,
}
CLASSES: dict[str, tuple[str, ...]] = {part: tuple(names.split()) for part, names in _LISTS.items()}
"""Names of the classes of each part, as CIFAR-100 spells them."""

_SIDE = 32
# One byte for the coarse label, one for the fine label, then the image by channel, row and column.
_RECORD = 2 + 3 * _SIDE**2
_BINARY, _PICKLED = "cifar-100-binary", "cifar-100-python"
_REMEDY = "download CIFAR-100 again"
_Part = tuple[np.ndarray, np.ndarray, list[str]]


def load_cifar_fs(root: Path, part: str, side: int | None = None) -> ImageSet:
    """Read one part; each class has its images of CIFAR-100's training set, followed by those of its test set.

    Args:
        root: folder that contains `cifar-100-binary`, which is preferred, or `cifar-100-python`, which is checked and
            read by `torchvision.datasets.CIFAR100`.
        part: `train`, `val` or `test`.
        side: side of the images in pixels; None for 32.

    Raises:
        UsageError: neither folder exists, or torchvision is needed and missing.
        DataError: a file is missing or damaged, or is not CIFAR-100.
    """
    names = CLASSES[part]
    images, labels = [], []
    for pixels, fine, all_names in _read(root):
        missing = [name for name in names if name not in all_names]
        if missing or fine.max() >= len(all_names):
            reason = f"no class {missing[0]!r}" if missing else f"label {fine.max()} but {len(all_names)} classes"
            raise DataError(root, f"not CIFAR-100: {reason}", _REMEDY)
        own_label = np.full(len(all_names), -1, np.int64)
        own_label[[all_names.index(name) for name in names]] = np.arange(len(names))
        own = own_label[fine]
        images.append(pixels[own >= 0])
        labels.append(own[own >= 0])
    joined = np.concatenate(labels)
    counts = np.bincount(joined, minlength=len(names))
    if counts.min() == 0:
        raise DataError(root, f"no image of class {names[counts.argmin()]!r}", _REMEDY)
    order = joined.argsort(kind="stable")
    image_set = ImageSet(
        images=torch.from_numpy(np.concatenate(images)[order]),
        labels=torch.from_numpy(joined[order]),
        class_names=names,
        name=f"cifar-fs-{part}",
    )
    return image_set if side is None else image_set.resized(side)


def _read(root: Path) -> Iterator[_Part]:
    """Read images uint8 [n, 3, 32, 32], fine labels [n] and label names of the training set, then of the test set."""
    if (root / _BINARY).is_dir():
        return _read_binary(root / _BINARY)
    if (root / _PICKLED).is_dir():
        return _read_with_torchvision(root)
    remedy = f"give the folder with the unpacked {_BINARY}.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html"
    raise UsageError(root, f"contains neither {_BINARY} nor {_PICKLED}", remedy)


def _read_binary(folder: Path) -> Iterator[_Part]:
    try:
        names = (folder / "fine_label_names.txt").read_text(encoding="ascii").split()
        for file in ("train.bin", "test.bin"):
            content = np.fromfile(folder / file, np.uint8)
            if len(content) == 0 or len(content) % _RECORD:
                problem = f"has {len(content):,} bytes, not a multiple of {_RECORD}"
                raise DataError(folder / file, problem, _REMEDY)
            records = content.reshape(-1, _RECORD)
            yield records[:, 2:].reshape(-1, 3, _SIDE, _SIDE), records[:, 1], names
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(folder, f"cannot be read ({error})", _REMEDY) from error


def _read_with_torchvision(root: Path) -> Iterator[_Part]:
    try:
        from torchvision.datasets import CIFAR100
    except ImportError as error:
        remedy = f'run `pip install "metazoo[torchvision]"`, or unpack {_BINARY}.tar.gz in {root}'
        raise UsageError(root / _PICKLED, "cannot be read without torchvision", remedy) from error
    for train in (True, False):
        try:
            content = CIFAR100(root, train=train, download=False)
        except (RuntimeError, OSError) as error:
            raise DataError(root / _PICKLED, f"cannot be read ({error})", _REMEDY) from error
        yield content.data.transpose(0, 3, 1, 2), np.asarray(content.targets), list(content.classes)
