"""Model inversion in pixels: images that a frozen teacher recognises, from nothing but the teacher.

Task Groupings Regularization (ICML 2024) inverts through a generator with cross-entropy and batch-norm terms. Here the
pixels themselves are optimised (DeepInversion, CVPR 2020): at 32 pixels the generator is 97 % of the arithmetic.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from metazoo.data.augment import shift_and_flip
from metazoo.errors import ZooError
from metazoo.recover.adam import PixelAdam
from metazoo.recover.canvas import Canvas, start_images
from metazoo.recover.objectives import batch_norm_distance, cross_entropy, l2, total_variation
from metazoo.recover.statistics import BatchNormReader, read_batch_norm
from metazoo.zoo.teacher import WhiteBoxTeacher

# 4 MB of activations stay in a core's cache, and blocks of that size serve one step after the other. A bucket of
# 150 images of 32 pixels through conv4 (20 MB) takes half as long again in one piece.
_VALUES_AT_ONCE = 2**20
_GUESSED_CHANNELS = 32


class RecoveryRecipe(BaseModel):
    """How one bucket of images is recovered from one teacher."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    iterations: int = Field(default=200, ge=1, description="steps of Adam on the pixels")
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


@dataclass(frozen=True)
class Health:
    """How well one bucket was recovered, judged by its own teacher on the stored 8-bit images.

    `agreement` is the share of images that the teacher gives the wanted class; the distances are
    `objectives.batch_norm_distance` of the result and of the start. Numbers near 1 and well below the start are sound.
    """

    agreement: float
    batch_norm_distance: float
    batch_norm_distance_at_start: float


@dataclass(frozen=True)
class RecoveredImages:
    """`images` uint8 [n, channels, side, side], `labels` int64 [n] (local classes), both on the CPU, and `health`."""

    images: Tensor
    labels: Tensor
    health: Health


def recover_images(
    teacher: WhiteBoxTeacher,
    labels: Tensor,
    recipe: RecoveryRecipe,
    generator: torch.Generator,
    *,
    stored_side: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> RecoveredImages:
    """Recover one image for every entry of `labels` (int64 [n], local classes of `teacher`) on the teacher's device.

    The iterate with the lowest loss is kept, as in the published code, but chosen on the device: no step waits for the
    host. Deterministic on a CPU given the generator and the number of threads.

    Args:
        teacher: a frozen model; it is as it was afterwards.
        labels: the wanted class of every image.
        recipe: weights of the loss and the optimiser.
        generator: on the CPU.
        stored_side: larger images are scaled down to this side (bilinear, antialiased) before they are judged; None
            keeps the teacher's own size.
        check: called before every step; what it raises ends the recovery, of which nothing is kept.

    Raises:
        ZooError: the teacher's outputs or gradients are not finite.
    """
    spec = teacher.contract.spec
    start = start_images(recipe.canvas, len(labels), spec.channels, spec.input_size, generator)
    device = next(teacher.parameters()).device
    pixels, wanted = start.to(device), labels.to(device)
    best_pixels, best_loss = pixels.clone(), torch.full((), torch.inf, device=device)
    pixels.requires_grad_(True)
    optimiser = PixelAdam(pixels, betas=(0.5, 0.99))
    padding = round(spec.input_size * recipe.shift)
    with read_batch_norm(teacher) as reader:
        with torch.no_grad():
            _, distance_at_start = _run(teacher, reader, pixels)
        for iteration in range(recipe.iterations):
            check()
            logits, distance = _run(teacher, reader, shift_and_flip(pixels, padding, generator))
            loss = recipe.cross_entropy * cross_entropy(logits, wanted) + recipe.batch_norm * distance
            if recipe.total_variation:
                loss = loss + recipe.total_variation * total_variation(pixels)
            if recipe.l2:
                loss = loss + recipe.l2 * l2(pixels)
            (gradient,) = torch.autograd.grad(loss, pixels)
            with torch.no_grad():
                improved = loss < best_loss
                best_pixels = torch.where(improved, pixels, best_pixels)
                best_loss = torch.where(improved, loss, best_loss)
                optimiser.step(gradient, recipe.learning_rate * cosine_decay(iteration / recipe.iterations))
                pixels.clamp_(0, 1)
        images = _stored(best_pixels, stored_side)
        with torch.no_grad():
            logits, distance = _run(teacher, reader, images.float() / 255)
    if not all(bool(torch.isfinite(values).all()) for values in (logits, distance, best_loss, pixels.detach())):
        raise ZooError(
            f"model {teacher.contract.name!r} gave outputs or gradients that are not finite during recovery; "
            "check it with `metazoo zoo verify` or remove it with `metazoo zoo remove`"
        )
    agreement = (logits.argmax(1) == wanted).double().mean().item()
    health = Health(agreement, distance.item(), distance_at_start.item())
    return RecoveredImages(images.cpu(), labels, health)


def cosine_decay(progress: float, floor: float = 0.05) -> float:
    """Factor on a learning rate at `progress` in [0, 1): from 1 down to `floor` along half a cosine."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def _run(teacher: WhiteBoxTeacher, reader: BatchNormReader, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [n, classes] and the batch-norm distance of one batch, which a CPU takes in parts."""
    count, _, height, width = images.shape
    largest = reader.largest_input or _GUESSED_CHANNELS * height * width
    parts = -(-count * largest // _VALUES_AT_ONCE) if images.device.type == "cpu" else 1
    reader.clear()
    logits = torch.cat(
        [teacher(part.contiguous(memory_format=torch.channels_last)) for part in images.tensor_split(min(parts, count))]
    )
    return logits, batch_norm_distance(reader.observed, reader.stored)


def _stored(pixels: Tensor, stored_side: int | None) -> Tensor:
    if stored_side is not None and pixels.shape[-1] > stored_side:
        pixels = functional.interpolate(pixels, size=(stored_side, stored_side), mode="bilinear", antialias=True)
    return (pixels * 255).round_().clamp_(0, 255).to(torch.uint8).contiguous()
