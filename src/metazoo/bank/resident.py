"""Bank of images at one size, from which learning draws: in memory, or on disk if there are many images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from metazoo.bank.bank import Bank
from metazoo.execution.compute import images_at_once
from metazoo.storage.matrices import keep_rows

_MOST_BYTES = 128_000_000


@dataclass(frozen=True, eq=False)
class ResidentBank:
    """Latest images of some teachers, teacher by teacher.

    Attributes:
        names: names of the teachers.
        images: images, uint8 [n, 3, side, side], on the device of `to`; grey images are repeated, other sizes resized
            (bilinear, antialiased). On the CPU, more than 128 MB are mapped from a file.
        labels: local classes of the images, int64 [n], on the CPU, where images are drawn.
        starts: index of the first image of each teacher, and the number of images: len(names) + 1 numbers.
        folder: folder for unnamed files with data too large for the memory; None keeps everything in memory.
    """

    names: tuple[str, ...]
    images: Tensor
    labels: Tensor
    starts: tuple[int, ...]
    folder: Path | None = None

    @classmethod
    def load(cls, bank: Bank, names: Sequence[str], side: int) -> "ResidentBank":
        """Read the latest generation of every teacher in `names`.

        Raises:
            UsageError: the bank has no images of a teacher.
            ArtefactError: a shard is missing or has changed, or the disk is full.
        """
        labels, starts = [], [0]

        def parts() -> Iterator[Tensor]:
            for name in names:
                images, own_labels = bank.images_of(name)
                labels.append(own_labels)
                starts.append(starts[-1] + len(images))
                yield fitted(images, side)

        count = sum(shard.images for name in names for shard in bank.shards_of(name))
        few = count * 3 * side**2 <= _MOST_BYTES
        images = torch.cat([*parts()]) if few else keep_rows(bank.folder, parts())
        return cls(tuple(names), images, torch.cat(labels), tuple(starts), bank.folder)

    def to(self, device: str | torch.device) -> "ResidentBank":
        """Bank with the images on `device`."""
        return replace(self, images=self.images.to(device))

    def __len__(self) -> int:
        return len(self.images)

    def indices_of(self, teacher: int) -> slice:
        """Indices of the images of a teacher, given by its index."""
        return slice(self.starts[teacher], self.starts[teacher + 1])

    def draw(self, owners: Tensor, random: torch.Generator) -> Tensor:
        """Draw an image of each owner uniformly: indices, int64 [n], for indices of teachers, int64 [n]."""
        starts = torch.tensor(self.starts)
        counts = (starts[1:] - starts[:-1])[owners]
        return starts[owners] + (torch.rand(len(owners), generator=random, dtype=torch.float64) * counts).long()

    def pixels(self, indices: Tensor) -> Tensor:
        """Images at `indices` as float [n, 3, side, side] in [0, 1]."""
        return self.images[indices].float() / 255

    def in_parts(self, indices: Tensor) -> tuple[Tensor, ...]:
        """Split `indices` (int64 [n]) into batches for inference."""
        return indices.split(images_at_once(self.images.device, self.images.shape[-1]))


class ResidentBanks:
    """Cache of one `ResidentBank`, which consecutive stages share.

    It is read and checked again only if a stage needs another size or other teachers than the stage before.

    Args:
        bank: bank of recovered images.
        device: device of the images.
    """

    def __init__(self, bank: Bank, device: str | torch.device = "cpu") -> None:
        self.bank, self._device = bank, device
        self._held: tuple[int, ResidentBank] | None = None

    def at(self, side: int, names: Sequence[str]) -> ResidentBank:
        """Bank of the teachers `names` at `side` pixels; see `ResidentBank.load`."""
        if self._held is None or (self._held[0], self._held[1].names) != (side, tuple(names)):
            self._held = None  # two of them must not be in memory at once
            self._held = side, ResidentBank.load(self.bank, names, side).to(self._device)
        return self._held[1]


def fitted(images: Tensor, side: int) -> Tensor:
    """Resize uint8 images [n, 1 or 3, s, s] to [n, 3, side, side] (bilinear, antialiased); grey is repeated."""
    images = images.expand(-1, 3, -1, -1)
    if images.shape[-1] == side:
        return images
    scaled = functional.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True)
    return scaled.round().clamp(0, 255).to(torch.uint8)
