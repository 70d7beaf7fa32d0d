"""Images without labels: any folder of images, or any labelled source whose labels are ignored."""

import os
from collections.abc import Set
from functools import cached_property
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from metazoo.data.image_files import image_files, load_hashed_files, pixel_hash
from metazoo.data.images import ImageSet
from metazoo.data.load import load_images
from metazoo.data.published import find_published
from metazoo.errors import UsageError
from metazoo.execution.randomness import generator
from metazoo.text import expanded_path

_IMAGES_AT_ONCE, _SMALL_SIDE = 512, 8


@final
class UnlabelledImages:
    """Images whose labels, if there are any, are ignored. Nothing is read before it is needed.

    Args:
        source: image set; or a folder with images at any depth, a pack, or any other source of `load_images`.
        images_per_class: number of images rendered of each glyph; ignored by other sources.
    """

    def __init__(self, source: ImageSet | Path | str, images_per_class: int = 100) -> None:
        self._source, self._images_per_class = source, images_per_class

    @cached_property
    def identity(self) -> str:
        """Text by which a resumed run recognises the source: its path or name, or the hash of an image set."""
        if isinstance(self._source, ImageSet):
            return f"{self._source.name}, SHA-256 {self._source.sha256}"
        return str(self._source) if self._folder is None and self._is_named else str(self._path.resolve())

    @property
    def has_labels(self) -> bool:
        """Whether the source has labels, which are ignored."""
        return self._folder is None

    @cached_property
    def count(self) -> int:
        """Number of images.

        Raises:
            UsageError: the source does not exist, or a folder has no images.
            DataError: the source cannot be used.
        """
        return len(self._images if self._folder is None else self._files)

    def choose(self, most: int, seed: int) -> Tensor:
        """Indices of at most `most` images, drawn by `seed`, int64 and ascending."""
        order = torch.randperm(self.count, generator=generator(seed, "unlabelled", "choice"))
        return order[:most].sort().values

    def read(self, indices: Tensor, side: int) -> tuple[Tensor, list[str]]:
        """Read images.

        The shorter side of a file's image is resized to `side`, then the centre is cropped.

        Args:
            indices: indices of images, int64 [n].
            side: side of the result in pixels.

        Returns:
            Images, uint8 [n, 3, side, side]; and the SHA-256 of the size and the pixels of each original.

        Raises:
            DataError: an image cannot be read; the file is named.
        """
        if self._folder is not None:
            return load_hashed_files([self._files[index] for index in indices.tolist()], side)
        chosen = self._images.take(indices)
        hashes = [pixel_hash(image.permute(1, 2, 0).contiguous().numpy()) for image in chosen.images]
        return chosen.resized(side).images, hashes

    def count_among(self, hashes: Set[str]) -> int:
        """Number of images whose hash is among `hashes`; see `read`."""
        parts = torch.arange(self.count).split(_IMAGES_AT_ONCE)
        return sum(own in hashes for part in parts for own in self.read(part, _SMALL_SIDE)[1])

    @property
    def _path(self) -> Path:
        return expanded_path(str(self._source))

    @property
    def _is_named(self) -> bool:
        name = self._source
        return isinstance(name, str) and (name == "glyphs" or name.startswith("glyphs:") or bool(find_published(name)))

    @cached_property
    def _folder(self) -> Path | None:
        """Folder of image files; None for a source with labels."""
        if isinstance(self._source, ImageSet) or self._is_named or not self._path.is_dir():
            return None
        return self._path

    @cached_property
    def _images(self) -> ImageSet:
        if isinstance(self._source, ImageSet):
            return self._source
        if not self._is_named and not self._path.exists():
            raise UsageError(self._path, "does not exist", "give a folder with images at any depth, or a pack")
        return load_images(self._source, images_per_class=self._images_per_class)

    @cached_property
    def _files(self) -> list[Path]:
        files = []
        for path, folders, _ in os.walk(self._path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            files += image_files(Path(path))
        if not files:
            raise UsageError(self._path, "has no images", "give a folder with images")
        return files


def label_free(images: int) -> str:
    """Words for a run that learned from `images` unlabelled images, where others are data-free."""
    return f"label-free ({images:,} unlabelled images)"


def use_of_data(unlabelled: int | None, validated: bool) -> str:
    """Words for the real images that a run has seen; empty if it is data-free.

    Args:
        unlabelled: number of unlabelled images that it learned from; None or 0 for none.
        validated: whether labelled validation images directed it.
    """
    parts = [label_free(unlabelled)] if unlabelled else []
    return " and ".join([*parts, *(["uses labelled validation images"] if validated else [])])
