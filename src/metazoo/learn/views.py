"""Views: the pictures that teachers and meta-model both see, with what the teachers say of them.

Teacher outputs are most of the cost of distillation, so they are computed once for a pool of views, which then serves
many steps. Both sides see the very same pixels (Beyer et al. 2022, "a good teacher is patient and consistent").
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metazoo.bank import ResidentBank
from metazoo.data.augment import shift_and_flip

Targets = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Teacher outputs of float images [n, 3, side, side] in [0, 1]: joint features [n, sum of sizes] (each teacher's
normalised to length 1) and the logits of all teachers side by side [n, sum of classes]."""

# A GPU is kept busy by more small images at once than a core's cache holds.
_CHUNK, _PIXELS_ON_A_GPU = 256, 2**22


@dataclass(frozen=True, eq=False)
class Views:
    """A pool of views.

    Attributes:
        images: uint8 [n, 3, side, side], channels last.
        owners: index of the teacher from whose images each view was made, int64 [n], on the CPU.
        features: joint features, bfloat16 [n, sum of sizes].
        logits: float32 [n, sum of classes].
    """

    images: Tensor
    owners: Tensor
    features: Tensor
    logits: Tensor

    def of(self, owner: int) -> Tensor:
        """Places (int64) of the views of one teacher."""
        return (self.owners == owner).nonzero().flatten()


def draw_views(
    bank: ResidentBank,
    groups: Sequence[Sequence[int]],
    count: int,
    random: torch.Generator,
    *,
    shift: int,
    mix: bool,
) -> tuple[Tensor, Tensor]:
    """Draw `count` views, the same number of every teacher up to one.

    A view is a shifted and perhaps mirrored image; with `mix` it is laid over another one of the owner's group, which
    takes at most half of the weight (mix-up between unlike tasks, so that the space between them is covered too).

    Args:
        bank: recovered images.
        groups: partition of the teachers' indices.
        count: at least one a teacher.
        random: source of all draws.
        shift: largest shift in pixels.
        mix: whether to mix.

    Returns:
        Images, uint8 [count, 3, side, side] in channels-last format, and their owners, int64 [count].
    """
    teachers = len(bank.names)
    owners = torch.arange(count) % teachers
    images = shift_and_flip(bank.pixels(bank.draw(owners, random)), shift, random)
    if mix:
        chosen = torch.rand(count, generator=random, dtype=torch.float64)
        partners = torch.empty_like(owners)
        for owner in range(teachers):
            members = torch.tensor(next(list(group) for group in groups if owner in group))
            own = owners == owner
            partners[own] = members[(chosen[own] * len(members)).long()]
        others = shift_and_flip(bank.pixels(bank.draw(partners, random)), shift, random)
        weight = (0.5 + 0.5 * torch.rand(count, 1, 1, 1, generator=random)).to(images.device)
        images = weight * images + (1 - weight) * others
    # Rounded as they are stored, so that the teachers judge exactly what the meta-model will see.
    return (images * 255).round().to(torch.uint8).contiguous(memory_format=torch.channels_last), owners


def judge_views(images: Tensor, owners: Tensor, targets: Targets, *, check: Callable[[], None] = lambda: None) -> Views:
    """Ask the teachers of views as `draw_views` returns them; `check` is called now and then."""
    features, logits, side = [], [], images.shape[-1]
    with torch.no_grad():
        for part in images.split(_CHUNK if images.device.type == "cpu" else max(_CHUNK, _PIXELS_ON_A_GPU // side**2)):
            check()
            part_features, part_logits = targets(part.float() / 255)
            features.append(part_features.bfloat16())
            logits.append(part_logits.float())
    return Views(images, owners, torch.cat(features), torch.cat(logits))
