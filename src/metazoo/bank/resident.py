"""A bank at one size, as learning draws from it: in memory, or on the disk if there are too many images."""

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
    """The latest images of some teachers, one teacher after the other.

    Attributes:
        names: of the teachers.
        images: uint8 [n, 3, side, side], on the device of `to`; grey images are repeated, other sizes resized
            (bilinear, antialiased). More than 128 MB are mapped from a file as long as they are on the CPU.
        labels: int64 [n], local classes of each image's teacher; on the CPU, where images are drawn.
        starts: where each teacher's images begin, and the end: len(names) + 1 numbers.
        folder: where what is too large for the memory may wait, in files without a name; None: in memory.
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
            UsageError: the bank has no images of one.
            ArtefactError: a shard is missing or has changed; it is named. Or the disk is full.
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
        """The same bank with its images on `device`."""
        return replace(self, images=self.images.to(device))

    def __len__(self) -> int:
        return len(self.images)

    def indices_of(self, teacher: int) -> slice:
        """Where the images of the teacher with this index lie."""
        return slice(self.starts[teacher], self.starts[teacher + 1])

    def draw(self, owners: Tensor, random: torch.Generator) -> Tensor:
        """A uniform place (int64 [n]) among the images of each owner (indices of teachers, int64 [n])."""
        starts = torch.tensor(self.starts)
        counts = (starts[1:] - starts[:-1])[owners]
        return starts[owners] + (torch.rand(len(owners), generator=random, dtype=torch.float64) * counts).long()

    def pixels(self, places: Tensor) -> Tensor:
        """The images at `places` as float [n, 3, side, side] in [0, 1]."""
        return self.images[places].float() / 255

    def in_parts(self, places: Tensor) -> tuple[Tensor, ...]:
        """`places` (int64 [n]) by as many as a network that does not learn is shown together."""
        return places.split(images_at_once(self.images.device, self.images.shape[-1]))


class ResidentBanks:
    """A bank at the sizes that stages ask for, one after the other.

    It is read and checked anew where one asks for another size or other teachers than the one before, so that stages
    in a row share what is in memory, and there is never more than one of them there, on `device`.
    """

    def __init__(self, bank: Bank, device: str | torch.device = "cpu") -> None:
        self.bank, self._device = bank, device
        self._held: tuple[int, ResidentBank] | None = None

    def at(self, side: int, names: Sequence[str]) -> ResidentBank:
        """As `ResidentBank.load`."""
        if self._held is None or (self._held[0], self._held[1].names) != (side, tuple(names)):
            self._held = None  # the former one must not be held while the next one is read
            self._held = side, ResidentBank.load(self.bank, names, side).to(self._device)
        return self._held[1]


def fitted(images: Tensor, side: int) -> Tensor:
    """uint8 images [n, 1 or 3, s, s] as [n, 3, side, side]: grey repeated, resized (bilinear, antialiased)."""
    images = images.expand(-1, 3, -1, -1)
    if images.shape[-1] == side:
        return images
    scaled = functional.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True)
    return scaled.round().clamp(0, 255).to(torch.uint8)
