"""Model inversion in pixels: images that a frozen teacher recognises, from nothing but the teacher.

Task Groupings Regularization (ICML 2024) inverts through a generator with cross-entropy and batch-norm terms. Here the
pixels themselves are optimised (DeepInversion, CVPR 2020): at 32 pixels the generator is 97 % of the arithmetic.
"""

import math
from collections.abc import Callable
from typing import final

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from metazoo.data.augment import ShiftAndFlip
from metazoo.recover.inversion import InversionCanvas, LossWeights, RecoveredImages, invert
from metazoo.recover.start_images import Canvas, start_images
from metazoo.recover.statistics import batch_norm_layers
from metazoo.recover.tokens import PatchSelection, patch_tokens
from metazoo.zoo.teachers import WhiteBoxTeacher


class RecoveryConfig(BaseModel):
    """How one bucket of images is recovered from one teacher."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    iterations: int = Field(
        default=200, ge=0, description="steps of Adam on the pixels; with 0 the canvas itself is what is stored"
    )
    learning_rate: float = Field(
        default=0.05, gt=0, description="largest step in units of the [0, 1] range; falls as a cosine"
    )
    canvas: Canvas = Field(default="leaves", description="what the images start as")
    cross_entropy: float = Field(default=1.0, ge=0, description="weight of the wanted class")
    batch_norm: float = Field(default=1.0, ge=0, description="weight of the batch-norm statistics")
    total_variation: float = Field(default=20.0, ge=0, description="weight of smoothness")
    l2: float = Field(default=0.0, ge=0, description="weight of the distance from mid-grey")
    shift: float = Field(
        default=0.125, ge=0, lt=0.5, description="largest shift of the augmentation, as a share of the side"
    )
    guided: bool = Field(
        default=True, description="whether models without batch norm are recovered with the help of one that has it"
    )
    guide_all: bool = Field(
        default=False,
        description="whether models with batch norm are guided as well, each by another one of its domain, in half of "
        "the iterations, which take as long",
    )
    dropped_tokens: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of its patches that a vision transformer is inverted without in the end; others ignore it",
    )


@final
class _Pixels(InversionCanvas):
    def __init__(self, start: Tensor, selection: PatchSelection | None) -> None:
        self.parameters = (start,)
        self._selection = selection

    def images(self) -> Tensor:
        pixels = self.parameters[0]
        return pixels if self._selection is None else self._selection.frozen(pixels)

    def confine(self) -> None:
        self.parameters[0].clamp_(0, 1)


def recover_images(
    teacher: WhiteBoxTeacher,
    labels: Tensor,
    config: RecoveryConfig,
    generator: torch.Generator,
    *,
    guide: WhiteBoxTeacher | None = None,
    stored_side: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> RecoveredImages:
    """Recover one image for every entry of `labels` (int64 [n], local classes of `teacher`) on the teacher's device.

    Deterministic on a CPU given the generator and the number of threads.

    Args:
        teacher: a frozen model; it is as it was afterwards.
        labels: the wanted class of every image.
        config: weights of the loss and the optimiser.
        generator: on the CPU.
        guide: see `metazoo.recover.guides`; on the teacher's device. If the teacher has batch norm too, half of the
            iterations are done.
        stored_side: see `invert`.
        check: see `invert`.

    Raises:
        ZooError: the teacher's outputs or gradients are not finite.
    """
    spec = teacher.contract.spec
    start = start_images(config.canvas, len(labels), spec.channels, spec.input_size, generator)
    start = start.to(next(teacher.parameters()).device)
    halved = guide is not None and bool(batch_norm_layers(teacher))
    iterations = -(-config.iterations // 2) if halved else config.iterations
    tokens = patch_tokens(teacher.classifier.network) if config.dropped_tokens else None
    selection = None if tokens is None else PatchSelection(tokens, start, config.dropped_tokens, iterations)
    padding = round(spec.input_size * config.shift)
    return invert(
        teacher,
        _Pixels(start, selection),
        labels,
        LossWeights(config.cross_entropy, config.batch_norm, config.total_variation, config.l2),
        ShiftAndFlip(padding),
        generator,
        [config.learning_rate * cosine_decay(step / iterations) for step in range(iterations)],
        betas=(0.5, 0.99),
        selection=selection,
        guide=guide,
        stored_side=stored_side,
        check=check,
    )


def cosine_decay(progress: float, floor: float = 0.05) -> float:
    """Factor on a learning rate at `progress` in [0, 1): from 1 down to `floor` along half a cosine."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
