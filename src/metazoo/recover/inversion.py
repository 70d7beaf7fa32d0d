"""The loop of model inversion: whatever images are made of is moved until a frozen teacher recognises them."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from metazoo.data.augment import Augmentation
from metazoo.errors import ZooError
from metazoo.execution.repeat import Repeated
from metazoo.recover.adam import PlainAdam
from metazoo.recover.objectives import batch_norm_distance, cross_entropy, l2, total_variation
from metazoo.recover.statistics import BatchNormReader, read_batch_norm
from metazoo.recover.tokens import PatchSelection, PatchTokens
from metazoo.zoo.teachers import WhiteBoxTeacher

# 4 MB of activations stay in a core's cache, and blocks of that size serve one step after the other. A bucket of
# 150 images of 32 pixels through conv4 (20 MB) takes half as long again in one piece.
_VALUES_AT_ONCE = 2**20
_GUESSED_CHANNELS = 32


@dataclass(frozen=True)
class Health:
    """How well one bucket was recovered, judged by its own teacher on the stored 8-bit images.

    `agreement` is the share of images that the teacher gives the wanted class; a low one is a bad sign, but a high one
    does not say that the images teach much. The distances are `objectives.batch_norm_distance` of the result and of the
    start, None for a teacher without batch norm; one well below that of the start is sound. `guide_let_go` says that a
    guide was there, but led astray, so that the images were recovered without it.
    """

    agreement: float
    batch_norm_distance: float | None
    batch_norm_distance_at_start: float | None
    guide_let_go: bool = False

    @property
    def went_astray(self) -> bool:
        """Whether the teacher's own statistics are no nearer than at the start; False for one without batch norm."""
        distance, at_start = self.batch_norm_distance, self.batch_norm_distance_at_start
        return distance is not None and at_start is not None and distance >= at_start

    def figures(self) -> dict[str, float]:
        """Those that there are, by name; 1 for a guide that was let go."""
        return {name: float(value) for name, value in vars(self).items() if value is not None and value is not False}


@dataclass(frozen=True)
class RecoveredImages:
    """`images` uint8 [n, channels, side, side], `labels` int64 [n] (local classes), both on the CPU, and `health`."""

    images: Tensor
    labels: Tensor
    health: Health


class InversionCanvas(ABC):
    """What images are made of. `parameters` are the tensors that inversion moves."""

    parameters: Sequence[Tensor]

    @abstractmethod
    def images(self) -> Tensor:
        """Images [n, channels, side, side] in [0, 1], differentiable in the parameters."""

    def confine(self) -> None:  # noqa: B027 - most canvases cannot leave their range
        """Bring the parameters back into their range after a step."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms in `metazoo.recover.objectives`."""

    cross_entropy: float
    batch_norm: float
    total_variation: float = 0.0
    l2: float = 0.0


def invert(
    teacher: WhiteBoxTeacher,
    canvas: InversionCanvas,
    labels: Tensor,
    weights: LossWeights,
    augmentation: Augmentation,
    generator: torch.Generator,
    learning_rates: Sequence[float],
    *,
    betas: tuple[float, float],
    selection: PatchSelection | None = None,
    guide: WhiteBoxTeacher | None = None,
    stored_side: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> RecoveredImages:
    """Move `canvas` by Adam, one step for each of `learning_rates`, so that `teacher` sees `labels` in its images.

    The iterate with the lowest loss is kept, as in the published code, but chosen on the device: no step waits for the
    host, and a GPU plays back what it recorded of one. Without any step the images are those that the canvas starts as,
    and their labels what the teacher says.

    Args:
        teacher: a frozen model; it is as it was afterwards.
        canvas: on the teacher's device; moved.
        labels: int64 [n], the wanted local class of every image.
        weights: of the terms of the loss.
        augmentation: of the images [n, channels, side, side] before the teacher sees them.
        generator: source of its draws, on the CPU.
        learning_rates: of the steps.
        betas: of Adam.
        selection: leaves out patches as it goes; None keeps them all.
        guide: another model; in place of the teacher's own batch-norm distance, if it has one, the mean of both counts.
        stored_side: larger images are scaled down to this side (bilinear, antialiased) before they are judged; None
            keeps their own size.
        check: called before every step; what it raises ends the recovery, of which nothing is kept.

    Raises:
        ZooError: the teacher's outputs or gradients are not finite.
    """
    with torch.no_grad():
        best_images = canvas.images().clone()
    best_loss = torch.full((), torch.inf if learning_rates else 0.0, device=best_images.device)
    device = best_images.device
    wanted = labels.to(device)
    for parameter in canvas.parameters:
        parameter.requires_grad_(True)
    with read_batch_norm(teacher) as reader, _reading(guide) as judge:
        with torch.no_grad():
            _, distance_at_start = _run(teacher, reader, best_images)
        has_batch_norm = bool(reader.observed)
        steps = range(max(1, len(learning_rates)))
        draws = torch.stack([augmentation.draw(len(labels), generator) for _ in steps]).to(device)
        optimiser = PlainAdam(canvas.parameters, betas, learning_rates)

        def step() -> None:
            images = canvas.images()
            drawn = draws.index_select(0, optimiser.steps_done).squeeze(0)
            if selection is None:
                seen = augmentation.apply(images, drawn)
                logits, distance = _run(teacher, reader, seen)
            else:
                seen, kept = selection.detached(augmentation.apply(selection.attached(images), drawn))
                logits, distance = _run(teacher, reader, seen, selection.tokens, kept)
            if judge is not None:
                distance = (distance + judge(seen)) / (2 if has_batch_norm else 1)
            loss = weights.cross_entropy * cross_entropy(logits, wanted) + weights.batch_norm * distance
            if weights.total_variation:
                loss = loss + weights.total_variation * total_variation(images)
            if weights.l2:
                loss = loss + weights.l2 * l2(images)
            gradients = torch.autograd.grad(loss, canvas.parameters)
            with torch.no_grad():
                improved = loss < best_loss
                torch.where(improved, images, best_images, out=best_images)
                torch.where(improved, loss, best_loss, out=best_loss)
                optimiser.step(gradients)
                canvas.confine()
            if selection is not None:
                selection.step()

        repeated = Repeated(step, device, recordable=selection is None)
        for _ in learning_rates:
            check()
            repeated()
        stored = _stored(best_images, stored_side)
        with torch.no_grad():
            logits, distance = _run(teacher, reader, stored.float() / 255)
    finite = (logits, distance, best_loss, *(parameter.detach() for parameter in canvas.parameters))
    if not all(bool(torch.isfinite(values).all()) for values in finite):
        raise ZooError(
            f"model {teacher.contract.name!r} gave outputs or gradients that are not finite during recovery; "
            "check it with `metazoo zoo verify` or remove it with `metazoo zoo remove`"
        )
    if not learning_rates:
        wanted = logits.argmax(1)
    health = Health(
        (logits.argmax(1) == wanted).double().mean().item(),
        distance.item() if has_batch_norm else None,
        distance_at_start.item() if has_batch_norm else None,
    )
    return RecoveredImages(stored.cpu(), wanted.cpu(), health)


@contextlib.contextmanager
def _reading(guide: WhiteBoxTeacher | None) -> Iterator[Callable[[Tensor], Tensor] | None]:
    if guide is None:
        yield None
        return
    with read_batch_norm(guide) as reader:
        yield lambda images: _run(guide, reader, images)[1]


def _run(
    teacher: WhiteBoxTeacher,
    reader: BatchNormReader,
    images: Tensor,
    tokens: PatchTokens | None = None,
    kept: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits [n, classes] and the batch-norm distance of one batch, which a CPU takes in parts.

    With `kept` (int64 [n, k]) the teacher goes on with these patches of `tokens` alone.
    """
    count, _, height, width = images.shape
    largest = reader.largest_input or _GUESSED_CHANNELS * height * width
    parts = -(-count * largest // _VALUES_AT_ONCE) if images.device.type == "cpu" else 1
    parts = min(parts, count)
    reader.clear()
    logits = []
    chosen = [None] * parts if kept is None else kept.tensor_split(parts)
    for part, patches in zip(images.tensor_split(parts), chosen, strict=True):
        with contextlib.nullcontext() if tokens is None else tokens.only(patches):
            logits.append(teacher(part.contiguous(memory_format=torch.channels_last)))
    return torch.cat(logits), batch_norm_distance(reader.observed, reader.stored)


def _stored(pixels: Tensor, stored_side: int | None) -> Tensor:
    if stored_side is not None and pixels.shape[-1] > stored_side:
        pixels = functional.interpolate(pixels, size=(stored_side, stored_side), mode="bilinear", antialias=True)
    return (pixels * 255).round_().clamp_(0, 255).to(torch.uint8).contiguous()
