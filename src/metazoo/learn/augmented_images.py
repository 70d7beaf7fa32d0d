"""Augmented images with teacher outputs, from which the meta-model learns.

Teacher outputs are most of the cost of distillation, so they are computed once for a pool of augmented images, which is
used in many steps. Teachers and meta-model see the same pixels (Beyer et al. 2022, "a good teacher is patient and
consistent").
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import BFloat16, Float32, Int64, UInt8
from torch import Tensor

from metazoo.bank import ResidentBank
from metazoo.data.augment import ShiftAndFlip
from metazoo.execution.compute import images_at_once
from metazoo.storage.matrices import keep_rows

Targets = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Function from float images [n, 3, side, side] in [0, 1] to joint features [n, sum of sizes], which are the teachers'
features normalised to length 1 and side by side, and to the logits of all teachers side by side [n, sum of classes]."""

MOST_BYTES = 512_000_000
"""Largest size of the features of a pool in memory, by default."""


@dataclass(frozen=True, eq=False)
class AugmentedImages:
    """Pool of augmented images with teacher outputs.

    Attributes:
        images: images, channels last.
        owners: indices of the teachers from whose images they were made, on the CPU.
        features: joint features. More than 512 MB computed on the CPU are mapped from disk.
        logits: logits of all teachers side by side.
    """

    images: UInt8[Tensor, "n 3 side side"]
    owners: Int64[Tensor, " n"]
    features: BFloat16[Tensor, "n features"]
    logits: Float32[Tensor, "n classes"]

    def of(self, owner: int) -> Int64[Tensor, " own"]:
        """Indices of the images of one teacher."""
        return (self.owners == owner).nonzero().flatten()


def draw_augmented_images(
    bank: ResidentBank,
    groups: Sequence[Sequence[int]],
    count: int,
    random: torch.Generator,
    *,
    shift: int,
    mix: bool,
) -> tuple[UInt8[Tensor, "count 3 side side"], Int64[Tensor, " count"]]:
    """Draw `count` augmented images, from every teacher the same number up to one.

    An augmented image is a shifted and perhaps mirrored image. With `mix` it is mixed with an image of the owner's
    group, which has at most half of the weight (mix-up of different tasks, which covers the space between them).

    Args:
        bank: recovered images.
        groups: partition of the teachers, as groups of indices.
        count: number of augmented images, at least one per teacher.
        random: generator of all draws.
        shift: largest shift in pixels.
        mix: whether images are mixed.

    Returns:
        Images in channels-last format, and their owners.
    """
    teachers = len(bank.names)
    owners = torch.arange(count) % teachers
    moves = ShiftAndFlip(shift)
    shown = [(bank.draw(owners, random), moves.draw(count, random))]
    weights = torch.ones(count)
    if mix:
        chosen = torch.rand(count, generator=random, dtype=torch.float64)
        partners = torch.empty_like(owners)
        for owner in range(teachers):
            members = torch.tensor(next(list(group) for group in groups if owner in group))
            own = owners == owner
            partners[own] = members[(chosen[own] * len(members)).long()]
        shown.append((bank.draw(partners, random), moves.draw(count, random)))
        weights = 0.5 + 0.5 * torch.rand(count, generator=random)
    device, shape = bank.images.device, (count, *bank.images.shape[1:])
    augmented = torch.empty(shape, dtype=torch.uint8, device=device, memory_format=torch.channels_last)
    # In chunks, since intermediate float32 values need many times the memory of the result.
    for part in torch.arange(count).split(images_at_once(device, shape[-1])):
        images = [moves.apply(bank.pixels(indices[part]), draws[part].to(device)) for indices, draws in shown]
        weight = weights[part].view(-1, 1, 1, 1).to(device)
        mixed = weight * images[0] + (1 - weight) * images[1] if mix else images[0]
        # Rounded before the teachers see them, so that the meta-model sees the same pixels.
        augmented[part] = (mixed * 255).round().to(torch.uint8)
    return augmented, owners


def add_teacher_outputs(
    images: UInt8[Tensor, "n 3 side side"],
    owners: Int64[Tensor, " n"],
    targets: Targets,
    *,
    folder: Path | None = None,
    most_bytes: int = MOST_BYTES,
    check: Callable[[], None] = lambda: None,
) -> AugmentedImages:
    """Compute the teacher outputs of augmented images.

    Args:
        images: images from `draw_augmented_images`.
        owners: owners from `draw_augmented_images`.
        targets: function from images to teacher outputs.
        folder: folder for features that exceed `most_bytes`; None keeps them in memory.
        most_bytes: largest size of features in memory.
        check: function that is called between chunks and may raise.

    Raises:
        ArtefactError: the features cannot be written to `folder`.
    """
    logits: list[Tensor] = []

    def parts() -> Iterator[Tensor]:
        for part in images.split(images_at_once(images.device, images.shape[-1])):
            check()
            features, part_logits = targets(part.float() / 255)
            logits.append(part_logits.float())
            yield features.bfloat16()

    with torch.no_grad():
        rest = parts()
        first = next(rest)
        if folder is not None and first.device.type == "cpu" and 2 * len(images) * first.shape[1] > most_bytes:
            features = keep_rows(folder, itertools.chain([first], rest))
        else:
            joined = first.new_empty(len(images), first.shape[1])
            for number, part in enumerate(itertools.chain([first], rest)):
                joined[number * len(first) :][: len(part)] = part
            features = joined
    return AugmentedImages(images, owners, features, torch.cat(logits))


def bytes_of_pool(count: int, side: int, features: int) -> tuple[float, float]:
    """Upper bounds of the bytes of memory and disk that a pool needs while it is made on the CPU.

    Args:
        count: number of images in the pool.
        side: side of an image in pixels.
        features: number of joint features.
    """
    # All images, and seven copies of a chunk in float32.
    chunk = images_at_once(torch.device("cpu"), side)
    images = 3.0 * side**2 * (count + 28 * chunk)
    stored = 2.0 * count * features
    # Features of a chunk in float32, by teacher and joined, and in bfloat16.
    most = images + 10.0 * chunk * features
    return (most, stored) if stored > MOST_BYTES else (most + stored, 0.0)
