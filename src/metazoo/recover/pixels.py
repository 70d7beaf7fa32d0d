"""Model inversion in pixels: images that a frozen teacher recognises, made without any data.

Task Groupings Regularization (ICML 2024) inverts through a generator with cross-entropy and batch-norm terms. Here, the
pixels are optimised directly (DeepInversion, CVPR 2020): at 32 pixels, the generator is 97 % of the arithmetic.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import final

import torch
from jaxtyping import Float, Int64
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from metazoo.data.augment import ShiftAndFlip
from metazoo.recover.inversion import Canvas, Inversion
from metazoo.recover.objectives import L2, BatchNormDistance, CrossEntropy, Objective, TotalVariation
from metazoo.recover.start_images import StartImages, start_images
from metazoo.recover.statistics import batch_norm_layers
from metazoo.recover.tokens import PatchSelection, patch_tokens
from metazoo.zoo.teachers import WhiteBoxTeacher


@final
class PixelCanvas(Canvas):
    """Images whose pixels are optimised.

    Args:
        start: starting images in [0, 1]; updated in-place.
        selection: patches that are still optimised; None for all.
    """

    def __init__(self, start: Float[Tensor, "n channels side side"], selection: PatchSelection | None = None) -> None:
        self.parameters, self.selection = (start,), selection

    def images(self) -> Float[Tensor, "n channels side side"]:
        """Pixels of the images, without a gradient to dropped patches."""
        pixels = self.parameters[0]
        return pixels if self.selection is None else self.selection.frozen(pixels)

    @torch.no_grad()
    def confine(self) -> None:
        """Clamp the pixels to [0, 1] and restore dropped patches."""
        self.parameters[0].clamp_(0, 1)
        if self.selection is not None:
            self.selection.restore(self.parameters[0])


class RecoveryConfig(BaseModel):
    """Options of recovery in pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    iterations: int = Field(
        default=200, ge=0, description="number of Adam steps on the pixels; 0 stores the starting images"
    )
    learning_rate: float = Field(
        default=0.05, gt=0, description="learning rate of Adam at the start, with cosine decay; pixels are in [0, 1]"
    )
    canvas: StartImages = Field(default="leaves", description="type of starting images")
    cross_entropy: float = Field(default=1.0, ge=0, description="weight of the cross-entropy with the target class")
    batch_norm: float = Field(default=1.0, ge=0, description="weight of the batch-norm statistics")
    total_variation: float = Field(default=20.0, ge=0, description="weight of the total variation")
    l2: float = Field(default=0.0, ge=0, description="weight of the distance from mid-grey")
    shift: float = Field(
        default=0.125, ge=0, lt=0.5, description="largest shift of the augmentation, as a fraction of the side"
    )
    guided: bool = Field(default=True, description="guides with batch norm for models without it")
    guide_all: bool = Field(
        default=False,
        description="guides of the same domain also for models with batch norm, with half of the iterations, which "
        "take as long",
    )
    dropped_tokens: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of patches that inversion of a vision transformer drops; other models ignore it",
    )

    def inversions(
        self,
        teacher: WhiteBoxTeacher,
        buckets: Iterable[Int64[Tensor, " _"]],
        random: torch.Generator,
        *,
        guide: WhiteBoxTeacher | None = None,
        stored_side: int | None = None,
        objectives: Sequence[Objective] = (),
    ) -> Iterator[Inversion]:
        """Yield the inversion of each bucket; run it before the next one.

        On a CPU, results are deterministic given `random` and the number of threads.

        Args:
            teacher: frozen model.
            buckets: target classes of the images of each bucket.
            random: CPU generator of all random numbers.
            guide: guide on the teacher's device, see `metazoo.recover.guides`. If the teacher also has batch norm, the
                number of iterations is halved.
            stored_side: largest stored side in pixels, see `Inversion`.
            objectives: further terms of the loss.
        """
        halved = guide is not None and bool(batch_norm_layers(teacher))
        iterations = -(-self.iterations // 2) if halved else self.iterations
        rates = [self.learning_rate * cosine_decay(step / iterations) for step in range(iterations)]
        terms: list[Objective] = [CrossEntropy(self.cross_entropy), BatchNormDistance(self.batch_norm)]
        smooth = (TotalVariation(self.total_variation), L2(self.l2))
        terms += [term for term in smooth if term.weight]
        tokens = patch_tokens(teacher.classifier.network) if self.dropped_tokens else None
        for labels in buckets:
            start = start_images(self.canvas, len(labels), teacher.channels, teacher.input_size, random)
            start = start.to(teacher.device)
            selection = None if tokens is None else PatchSelection(tokens, start, self.dropped_tokens, iterations)
            yield Inversion(
                teacher,
                PixelCanvas(start, selection),
                labels,
                [*terms, *objectives],
                ShiftAndFlip(round(teacher.input_size * self.shift)),
                random,
                learning_rates=rates,
                betas=(0.5, 0.99),
                guide=guide,
                stored_side=stored_side,
            )


def cosine_decay(progress: float, floor: float = 0.05) -> float:
    """Factor of the learning rate at `progress` in [0, 1): half a cosine from 1 to `floor`."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
