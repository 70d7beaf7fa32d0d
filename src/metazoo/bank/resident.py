"""Bank of images at one size, from which learning draws: in memory, or on disk if there are many images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float32, Float64, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from metazoo.bank.bank import Bank
from metazoo.execution.compute import images_at_once
from metazoo.storage.matrices import keep_rows


@dataclass(frozen=True, eq=False)
class SharedImages:
    """Images that belong to all teachers alike, beside or instead of those of each teacher.

    Attributes:
        bank: bank with these images alone, n of them; its teachers are only parts, and its labels have no meaning.
        share: share of shared images among drawn ones, in (0, 1].
        chances: cumulative probability of the images for each teacher, by name; None if all are equal.
    """

    bank: Bank
    share: float
    chances: Mapping[str, Float64[Tensor, " n"]] | None = None


@dataclass(frozen=True, eq=False)
class ResidentBank:
    """Latest images of some teachers, teacher by teacher, and after them images that all teachers share.

    Attributes:
        names: names of the teachers.
        images: images on the device of `to`; grey images are repeated, other sizes resized
            (bilinear, antialiased). On the CPU, more than 128 MB are mapped from a file.
        labels: local classes of the teachers' images, on the CPU, where images are drawn.
        starts: index of the first image of each teacher, and the number of all their images: len(names) + 1 numbers.
        folder: folder for unnamed files with data too large for the memory; None keeps everything in memory.
        shared: images from index `starts[-1]` on; None if there are none.
    """

    names: tuple[str, ...]
    images: UInt8[Tensor, "n 3 side side"]
    labels: Int64[Tensor, " own"]
    starts: tuple[int, ...]
    folder: Path | None = None
    shared: SharedImages | None = None

    @classmethod
    def load(
        cls,
        bank: Bank,
        names: Sequence[str],
        side: int,
        shared: SharedImages | None = None,
        *,
        most_bytes: int = 128_000_000,
    ) -> "ResidentBank":
        """Read the latest generation of every teacher in `names`, unless only shared images are drawn.

        More than `most_bytes` of images are mapped from a file.

        Raises:
            UsageError: the bank has no images of a teacher.
            ArtefactError: a shard is missing or has changed, or the disk is full.
        """
        labels, starts = [torch.zeros(0, dtype=torch.int64)], [0]
        own = names if shared is None or shared.share < 1 else ()
        joint = () if shared is None else [(shared.bank, name) for name in shared.bank.teachers]

        def parts() -> Iterator[Tensor]:
            for name in own:
                images, own_labels = bank.images_of(name)
                labels.append(own_labels)
                starts.append(starts[-1] + len(images))
                yield fitted(images, side)
            for home, name in joint:
                yield fitted(home.images_of(name)[0], side)

        homes = [*((bank, name) for name in own), *joint]
        count = sum(part.images for home, name in homes for part in home.shards_of(name))
        few = count * 3 * side**2 <= most_bytes
        images = torch.cat([*parts()]) if few else keep_rows(bank.folder, parts())
        starts += [0] * (len(names) - len(own))
        return cls(tuple(names), images, torch.cat(labels), tuple(starts), bank.folder, shared)

    def to(self, device: str | torch.device) -> "ResidentBank":
        """Bank with the images on `device`."""
        return replace(self, images=self.images.to(device))

    def __len__(self) -> int:
        return len(self.images)

    def indices_of(self, teacher: int) -> slice:
        """Indices of the images of a teacher, given by its index."""
        return slice(self.starts[teacher], self.starts[teacher + 1])

    def draw(self, owners: Int64[Tensor, " n"], random: torch.Generator) -> Int64[Tensor, " n"]:
        """Draw an image of each owner, or a shared one: indices of images for indices of teachers."""
        starts = torch.tensor(self.starts)
        counts = (starts[1:] - starts[:-1])[owners]
        drawn = starts[owners] + (torch.rand(len(owners), generator=random, dtype=torch.float64) * counts).long()
        if self.shared is None:
            return drawn
        is_shared = torch.rand(len(owners), generator=random) < self.shared.share
        chance = torch.rand(len(owners), generator=random, dtype=torch.float64)
        return torch.where(is_shared, self._shared_at(chance, owners), drawn)

    def _shared_at(self, chance: Tensor, owners: Tensor) -> Tensor:
        """Indices of the shared images that numbers in [0, 1) stand for."""
        count = len(self.images) - self.starts[-1]
        positions = (chance * count).long()
        if self.shared is not None and self.shared.chances is not None:
            for owner in owners.unique().tolist():
                own, chances = owners == owner, self.shared.chances[self.names[owner]]
                positions[own] = torch.searchsorted(chances, chance[own], right=True)
        return self.starts[-1] + positions.clamp(max=count - 1)

    def pixels(self, indices: Int64[Tensor, " n"]) -> Float32[Tensor, "n 3 side side"]:
        """Images at `indices`, in [0, 1]."""
        return self.images[indices].float() / 255

    def in_parts(self, indices: Int64[Tensor, " n"]) -> tuple[Int64[Tensor, " _"], ...]:
        """Split `indices` into batches for inference."""
        return indices.split(images_at_once(self.images.device, self.images.shape[-1]))


class ResidentBanks:
    """Cache of one `ResidentBank`, which consecutive stages share.

    It is read and checked again only if a stage needs another size or other images than the stage before.

    Args:
        bank: bank of images by teacher.
        device: device of the images.
        shared: images of all teachers, from which the meta-model learns too; None if there are none.
    """

    def __init__(self, bank: Bank, device: str | torch.device = "cpu", shared: SharedImages | None = None) -> None:
        self.bank, self._device, self._shared = bank, device, shared
        self._held: tuple[int, ResidentBank] | None = None

    def at(self, side: int, names: Sequence[str]) -> ResidentBank:
        """Bank of the teachers `names` at `side` pixels, without shared images; see `ResidentBank.load`."""
        return self._with(side, names, None)

    def to_learn_from(self, side: int, names: Sequence[str]) -> ResidentBank:
        """Bank of the teachers `names` at `side` pixels, with shared images; see `ResidentBank.load`."""
        return self._with(side, names, self._shared)

    def _with(self, side: int, names: Sequence[str], shared: SharedImages | None) -> ResidentBank:
        wanted = side, tuple(names), shared
        if self._held is None or (self._held[0], self._held[1].names, self._held[1].shared) != wanted:
            self._held = None  # two of them must not be in memory at once
            self._held = side, ResidentBank.load(self.bank, names, side, shared).to(self._device)
        return self._held[1]


def fitted(images: UInt8[Tensor, "n channels s s"], side: int) -> UInt8[Tensor, "n 3 {side} {side}"]:
    """Resize grey or colour images to colour images of `side` pixels (bilinear, antialiased); grey is repeated."""
    images = images.expand(-1, 3, -1, -1)
    if images.shape[-1] == side:
        return images
    scaled = functional.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True)
    return scaled.round().clamp(0, 255).to(torch.uint8)
