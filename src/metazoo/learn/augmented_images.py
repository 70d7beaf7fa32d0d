"""AugmentedImages: augmented images that teachers and meta-model both see, with the teachers' outputs.

Teacher outputs are most of the cost of distillation, so they are computed once for a pool of views, which then serves
many steps. Both sides see the very same pixels (Beyer et al. 2022, "a good teacher is patient and consistent").
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from metazoo.bank import ResidentBank
from metazoo.data.augment import ShiftAndFlip
from metazoo.execution.compute import images_at_once
from metazoo.storage.matrices import keep_rows

Targets = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Teacher outputs of float images [n, 3, side, side] in [0, 1]: joint features [n, sum of sizes] (each teacher's
normalised to length 1) and the logits of all teachers side by side [n, sum of classes]."""

_MOST_BYTES = 512_000_000


@dataclass(frozen=True, eq=False)
class AugmentedImages:
    """A pool of views.

    Attributes:
        images: uint8 [n, 3, side, side], channels last.
        owners: index of the teacher from whose images each view was made, int64 [n], on the CPU.
        features: joint features, bfloat16 [n, sum of sizes]. More than 512 MB, as of hundreds of teachers, are on the
            disk as long as they are computed on the CPU, and are indexed in the same way.
        logits: float32 [n, sum of classes].
    """

    images: Tensor
    owners: Tensor
    features: Tensor
    logits: Tensor

    def of(self, owner: int) -> Tensor:
        """Indices (int64) of the views of one teacher."""
        return (self.owners == owner).nonzero().flatten()


def draw_augmented_images(
    bank: ResidentBank,
    groups: Sequence[Sequence[int]],
    count: int,
    random: torch.Generator,
    *,
    shift: int,
    mix: bool,
) -> tuple[Tensor, Tensor]:
    """Draw `count` views, the same number of every teacher up to one.

    A view is a shifted and perhaps mirrored image; with `mix` it is mixed with another one of the owner's group, which
    has at most half of the weight (mix-up between unlike tasks, which covers the space between them too).

    Args:
        bank: recovered images.
        groups: groups of teachers' indices, a partition.
        count: number of views, at least one a teacher.
        random: source of all draws.
        shift: largest shift in pixels.
        mix: whether to mix.

    Returns:
        Images, uint8 [count, 3, side, side] in channels-last format, and their owners, int64 [count].
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
    views = torch.empty(shape, dtype=torch.uint8, device=device, memory_format=torch.channels_last)
    # A chunk at a time, as numbers in float32 take many times the room of a view.
    for part in torch.arange(count).split(images_at_once(device, shape[-1])):
        images = [moves.apply(bank.pixels(indices[part]), draws[part].to(device)) for indices, draws in shown]
        weight = weights[part].view(-1, 1, 1, 1).to(device)
        mixed = weight * images[0] + (1 - weight) * images[1] if mix else images[0]
        # Rounded as they are stored, so that the teachers judge exactly what the meta-model will see.
        views[part] = (mixed * 255).round().to(torch.uint8)
    return views, owners


def add_teacher_outputs(
    images: Tensor,
    owners: Tensor,
    targets: Targets,
    *,
    folder: Path | None = None,
    check: Callable[[], None] = lambda: None,
) -> AugmentedImages:
    """Compute the teachers' outputs for views as `draw_augmented_images` returns them.

    Args:
        images: images of the views.
        owners: owners of the views.
        targets: teacher outputs of images.
        folder: folder for features that are too many for the memory; None: they stay in memory.
        check: function that is called now and then, and may raise.

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
        if folder is not None and first.device.type == "cpu" and _too_many(len(images), first.shape[1]):
            features = keep_rows(folder, itertools.chain([first], rest))
        else:
            joined = first.new_empty(len(images), first.shape[1])
            for number, part in enumerate(itertools.chain([first], rest)):
                joined[number * len(first) :][: len(part)] = part
            features = joined
    return AugmentedImages(images, owners, features, torch.cat(logits))


def bytes_of_pool(views: int, side: int, features: int) -> tuple[float, float]:
    """Upper bounds of the bytes of memory and disk that a pool takes while it is made on the CPU.

    Args:
        views: number of views in the pool.
        side: side of a view in pixels.
        features: number of joint features of a view.
    """
    # The views themselves, and seven copies of a chunk of them in float32.
    chunk = images_at_once(torch.device("cpu"), side)
    images = 3.0 * side**2 * (views + 28 * chunk)
    stored = 2.0 * views * features
    # Each teacher's own and all together in float32, and what is stored.
    most = images + 10.0 * chunk * features
    return (most, stored) if _too_many(views, features) else (most + stored, 0.0)


def _too_many(views: int, features: int) -> bool:
    return 2 * views * features > _MOST_BYTES
