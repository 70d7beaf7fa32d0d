"""Model inversion: optimisation of images until a frozen teacher recognises them."""

import functools
import operator
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from metazoo.data.augment import Augmentation
from metazoo.errors import UsageError, ZooError
from metazoo.execution.repeat import Repeated
from metazoo.recover.adam import PlainAdam
from metazoo.recover.objectives import Objective, TeacherOutputs, batch_norm_distance
from metazoo.recover.teacher_pass import TeacherPass
from metazoo.recover.tokens import PatchSelection
from metazoo.zoo.teachers import WhiteBoxTeacher

GUIDE_REJECTED = "guide_let_go"
"""Name of `Health.guide_rejected` in a bank, kept from version 0.1."""


class GuideError(ZooError):
    """A guide makes the images of a teacher not finite."""


@dataclass(frozen=True)
class Health:
    """Quality of one recovered bucket, measured by its teacher on the stored 8-bit images.

    Attributes:
        agreement: share of images with the target class as prediction, in [0, 1]. Low values are a bad sign; high
            values do not show that the images are informative.
        batch_norm_distance: `objectives.batch_norm_distance` of the images; None for a teacher without batch norm. It
            should be well below the distance at the start.
        batch_norm_distance_at_start: the same distance of the starting images.
        guide_distance: batch-norm distance of the images from the guide's statistics; None without a guide.
        guide_distance_at_start: the same distance of the starting images.
        guide_rejected: whether a guide failed, so that the images were recovered without it.
    """

    agreement: float
    batch_norm_distance: float | None
    batch_norm_distance_at_start: float | None
    guide_distance: float | None = None
    guide_distance_at_start: float | None = None
    guide_rejected: bool = False

    @property
    def is_worse_than_start(self) -> bool:
        """Whether the distance from teacher or guide is not below that at the start; False without batch norm."""
        own = self.batch_norm_distance, self.batch_norm_distance_at_start
        pairs = own, (self.guide_distance, self.guide_distance_at_start)
        return any(end is not None and start is not None and end >= start for end, start in pairs)

    def figures(self) -> dict[str, float]:
        """Known values by their names in a bank, with 1 for a rejected guide."""
        stored = {GUIDE_REJECTED if name == "guide_rejected" else name: value for name, value in vars(self).items()}
        return {name: float(value) for name, value in stored.items() if value is not None and value is not False}


@dataclass(frozen=True)
class RecoveredImages:
    """Recovered images of one bucket, on the CPU.

    Attributes:
        images: images as stored.
        labels: indices of the teacher's classes.
        health: quality of the images.
    """

    images: UInt8[Tensor, "n channels side side"]
    labels: Int64[Tensor, " n"]
    health: Health


class Canvas(ABC):
    """Parametrisation of the images that are optimised.

    Attributes:
        parameters: tensors to optimise, on one device.
        selection: patches of a vision transformer that are still optimised; None for all.
    """

    parameters: Sequence[Tensor]
    selection: PatchSelection | None = None

    @abstractmethod
    def images(self) -> Float[Tensor, "n channels side side"]:
        """Images in [0, 1], differentiable with respect to the parameters."""

    def confine(self) -> None:  # noqa: B027 - most canvases need none
        """Project the parameters onto their range after a step."""


@final
class Inversion:
    """Inversion of one teacher into the images of a canvas, step by step.

    `step` is one step of Adam on the canvas. With another optimiser, such as that of a generator which several teachers
    share, use the gradient of `loss` instead. The iterate of the lowest loss is kept, as in the published code of TGR,
    but chosen on the device: no step waits for the host, and a GPU can play back a recorded step. The result of the
    last step is evaluated too, without a gradient. The teacher is not changed.

    Args:
        teacher: frozen model.
        canvas: images to optimise, on the teacher's device. Its parameters are set to require gradients.
        labels: target class of every image.
        objectives: terms of the loss, added in this order; see `Objective` for recordable ones.
        augmentation: augmentation of the images before each forward pass.
        generator: CPU generator of the augmentation. The random numbers of all steps are drawn at once.
        learning_rates: learning rates of the steps; none if only `loss` is used.
        betas: decay rates of Adam.
        guide: another model on the same device, whose batch-norm statistics are passed to the objectives.
        stored_side: largest stored side in pixels, to which larger images are scaled down (bilinear, antialiased);
            None for no limit. Images are evaluated as stored.

    Attributes:
        steps_left: number of remaining learning rates.

    Raises:
        UsageError: there are no objectives.
    """

    def __init__(
        self,
        teacher: WhiteBoxTeacher,
        canvas: Canvas,
        labels: Int64[Tensor, " n"],
        objectives: Sequence[Objective],
        augmentation: Augmentation,
        generator: torch.Generator,
        *,
        learning_rates: Sequence[float] = (),
        betas: tuple[float, float] = (0.5, 0.99),
        guide: WhiteBoxTeacher | None = None,
        stored_side: int | None = None,
    ) -> None:
        if not objectives:
            raise UsageError(f"inversion of model {teacher.name!r}", "no objective", "pass one, such as CrossEntropy()")
        self.teacher, self.canvas, self.steps_left = teacher, canvas, len(learning_rates)
        self._objectives, self._augmentation, self._generator = tuple(objectives), augmentation, generator
        self._with_features = any(getattr(objective, "uses_features", False) for objective in objectives)
        self._stored_side = stored_side
        self._pass = TeacherPass(teacher)
        self._guide = None if guide is None else TeacherPass(guide)
        with torch.no_grad():
            self._best_images = canvas.images().clone()
        device = self._best_images.device
        self._best_loss = torch.full((), torch.inf, device=device)
        self._evaluated = torch.zeros(1, dtype=torch.int64, device=device)
        self._labels = labels.to(device)
        for parameter in canvas.parameters:
            parameter.requires_grad_(True)
        _, self._distance_at_start, self._has_batch_norm = self._judge(self._best_images)
        self._guide_distance_at_start = self._guide_distance(self._best_images)
        own, of_guide = self._distance_at_start, self._guide_distance_at_start
        self._guide_scale = torch.where((own > 0) & (of_guide > 0), own / of_guide, 1.0)
        self._repeated: Repeated[None] | None = None
        if learning_rates:
            drawn = [augmentation.draw(len(labels), generator) for _ in range(len(learning_rates) + 1)]
            draws = torch.stack(drawn).to(device)
            self._last_draws = draws[-1]
            optimiser = PlainAdam(canvas.parameters, betas, learning_rates)
            # A reference cycle would keep images, moments and recordings until garbage collection.
            move = functools.partial(Inversion._move, weakref.proxy(self), optimiser, draws)
            recordable = canvas.selection is None and all(getattr(own, "recordable", False) for own in objectives)
            self._repeated = Repeated(move, device, recordable=recordable)

    def step(self) -> None:
        """Do one optimisation step.

        Raises:
            UsageError: no learning rate is left.
        """
        if self._repeated is None or not self.steps_left:
            raise UsageError(
                f"inversion of model {self.teacher.name!r}", "no learning rate is left", "pass more learning_rates"
            )
        self._repeated()
        self.steps_left -= 1
        if not self.steps_left:
            with torch.no_grad():
                self._keep_best(*self._evaluate(self._last_draws, self._evaluated - 1))

    def run(self, check: Callable[[], None] = lambda: None) -> "Inversion":
        """Do all remaining steps and return this inversion.

        Args:
            check: function that is called before every step and may raise to stop.
        """
        for _ in range(self.steps_left):
            check()
            self.step()
        return self

    def loss(self) -> Float[Tensor, ""]:
        """Loss of the current iterate with a new augmentation, differentiable with respect to the canvas."""
        draws = self._augmentation.draw(len(self._labels), self._generator).to(self._labels.device)
        images, loss = self._evaluate(draws)
        self._keep_best(images, loss)
        return loss

    def best(self) -> RecoveredImages:
        """Iterate of the lowest loss in `step` and `loss`, in stored form, with its health.

        Before the first loss, it is the starting image, labelled with the teacher's predictions.

        Raises:
            GuideError: the loss or the gradients are not finite, but those of the teacher alone are.
            ZooError: the teacher's outputs or gradients are not finite.
        """
        stored = _stored(self._best_images, self._stored_side)
        logits, distance, _ = self._judge(stored.float() / 255)
        evaluated = bool(self._evaluated)
        parameters = [parameter.detach() for parameter in self.canvas.parameters]
        finite = (logits, distance, *parameters, *([self._best_loss] if evaluated else []))
        if not all(bool(torch.isfinite(values).all()) for values in finite):
            error, failed = ZooError, self.teacher.name
            if self._guide is not None and self._teacher_is_finite():
                error, failed = GuideError, self._guide.name
            raise error(
                f"model {failed!r}",
                "outputs or gradients are not finite during recovery",
                "check it with `metazoo zoo verify` or remove it with `metazoo zoo remove`",
            )
        labels = self._labels if evaluated else logits.argmax(1)
        guided = self._guide is not None
        health = Health(
            (logits.argmax(1) == labels).double().mean().item(),
            distance.item() if self._has_batch_norm else None,
            self._distance_at_start.item() if self._has_batch_norm else None,
            self._guide_distance(stored.float() / 255).item() if guided else None,
            self._guide_distance_at_start.item() if guided else None,
        )
        return RecoveredImages(stored.cpu(), labels.cpu(), health)

    def _move(self, optimiser: PlainAdam, draws: Tensor) -> None:
        images, loss = self._evaluate(draws.index_select(0, optimiser.steps_done).squeeze(0))
        gradients = torch.autograd.grad(loss, self.canvas.parameters)
        self._keep_best(images, loss)
        with torch.no_grad():
            optimiser.step(gradients)
            self.canvas.confine()
        if self.canvas.selection is not None:
            self.canvas.selection.step(self.canvas.images().detach())

    def _evaluate(self, draws: Tensor, step: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Images of the canvas, and their loss with the augmentation of the random numbers `draws`."""
        images, selection = self.canvas.images(), self.canvas.selection
        if selection is None:
            tokens, kept, shown = None, None, self._augmentation.apply(images, draws)
        else:
            tokens = selection.tokens
            shown, kept = selection.detached(self._augmentation.apply(selection.attached(images), draws))
        logits, features, statistics = self._pass(shown, tokens, kept, with_features=self._with_features)
        of_guide = None if self._guide is None else self._guide(shown)[2]
        outputs = TeacherOutputs(shown, self._labels, logits, statistics, of_guide, features, self._guide_scale)
        step = self._evaluated.clone() if step is None else step
        return images, functools.reduce(operator.add, (own(images, outputs, step) for own in self._objectives))

    @torch.no_grad()
    def _keep_best(self, images: Tensor, loss: Tensor) -> None:
        improved = loss < self._best_loss
        torch.where(improved, images, self._best_images, out=self._best_images)
        torch.where(improved, loss, self._best_loss, out=self._best_loss)
        self._evaluated.add_(1)

    @torch.no_grad()
    def _judge(
        self, images: Float[Tensor, "n channels side side"]
    ) -> tuple[Float[Tensor, "n classes"], Float[Tensor, ""], bool]:
        """Logits and batch-norm distance of images without augmentation, and whether the teacher has batch norm."""
        logits, _, statistics = self._pass(images)
        return logits, batch_norm_distance(*statistics), bool(statistics.observed)

    @torch.no_grad()
    def _guide_distance(self, images: Tensor) -> Tensor:
        """Batch-norm distance of images without augmentation from the guide's statistics; 0 without a guide."""
        return batch_norm_distance(*self._guide(images)[2]) if self._guide else images.new_zeros(())

    def _teacher_is_finite(self) -> bool:
        """Whether outputs and gradients of the teacher alone are finite on the best images."""
        images = self._best_images.clone().requires_grad_(True)
        logits, _, statistics = self._pass(images)
        loss = functional.cross_entropy(logits, self._labels) + batch_norm_distance(*statistics)
        return all(bool(values.isfinite().all()) for values in (loss, *torch.autograd.grad(loss, images)))


def _stored(pixels: Tensor, stored_side: int | None) -> Tensor:
    if stored_side is not None and pixels.shape[-1] > stored_side:
        pixels = functional.interpolate(pixels, size=(stored_side, stored_side), mode="bilinear", antialias=True)
    return (pixels * 255).round_().clamp_(0, 255).to(torch.uint8).contiguous()
