"""Model inversion into images that all teachers share, as in episode curriculum inversion (PURER, CVPR 2023).

Every class of a zoo has some images, and all images together are one set of parameters with one optimiser. The loss of
a step is the sum of the inversion losses of its teachers; each teacher is shown the images of its own classes. So a
class that several teachers know has one set of images, which must suit all of them.

Pixels are in [0, 1] here, while the published ones are normalised by mean and standard deviation, about 0.5 and 0.25.
The published values mean the same with a learning rate times 0.25, and with weights of the two norms divided by 0.25.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float, Int64, UInt8
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from metazoo.data.augment import Augmentation, RollAlike, ShiftAndFlip
from metazoo.data.images import evenly_of_each
from metazoo.errors import DataError, ZooError
from metazoo.execution.compute import CPU, Compute
from metazoo.execution.optimisers import Adam
from metazoo.execution.randomness import generator
from metazoo.execution.threads import CALLING_THREAD, WorkerThreads
from metazoo.recover.budget import RecoveryBudget
from metazoo.recover.inversion import Health
from metazoo.recover.objectives import (
    L2,
    BatchNormDistance,
    CrossEntropy,
    NeighbourNorms,
    Objective,
    PixelNorm,
    TeacherOutputs,
    TotalVariation,
    batch_norm_distance,
)
from metazoo.recover.start_images import StartImages
from metazoo.recover.teacher_pass import TeacherPass
from metazoo.zoo.teachers import WhiteBoxTeacher


class SharedPixelsConfig(BaseModel):
    """Options of inversion into shared images."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    canvas: StartImages = Field(default="leaves", description="type of starting images if none are recovered before")
    learning_rate: float = Field(default=0.01, gt=0, description="learning rate of Adam; pixels are in [0, 1]")
    teachers_per_step: int | None = Field(
        default=None, ge=1, description="teachers of a step, drawn at random; null: all"
    )
    cross_entropy: float = Field(default=1.0, ge=0, description="weight of the cross-entropy with the target class")
    batch_norm: float = Field(default=1.0, ge=0, description="weight of the batch-norm statistics")
    prior: Literal["mean-squares", "norms"] = Field(
        default="mean-squares",
        description="form of total variation and l2; norms: as published, growing with the number of pixels",
    )
    total_variation: float = Field(default=20.0, ge=0, description="weight of the total variation")
    l2: float = Field(default=0.0, ge=0, description="weight of the distance from mid-grey")
    shift: float = Field(
        default=0.125, ge=0, lt=0.5, description="largest shift of the augmentation, as a fraction of the side"
    )
    circular: bool = Field(
        default=False, description="one circular shift of all images, as published; otherwise shift and flip of each"
    )

    def objectives(self) -> list[Objective]:
        """Terms of the loss of one teacher."""
        variation, distance = (TotalVariation, L2) if self.prior == "mean-squares" else (NeighbourNorms, PixelNorm)
        smooth = (variation(self.total_variation), distance(self.l2))
        terms: list[Objective] = [CrossEntropy(self.cross_entropy), BatchNormDistance(self.batch_norm)]
        return [*terms, *(term for term in smooth if term.weight)]

    def augmentation(self, side: int) -> Augmentation:
        """Augmentation of images of `side` pixels."""
        return (RollAlike if self.circular else ShiftAndFlip)(round(side * self.shift))


def rows_of_classes(
    classes: Int64[Tensor, " n"], own: Int64[Tensor, " _"]
) -> tuple[Int64[Tensor, " m"], Int64[Tensor, " m"]]:
    """Images of the classes of one teacher.

    Args:
        classes: class of each image.
        own: class of the zoo that each class of the teacher is. Classes of the teacher that are one class of the zoo
            share its images, each getting a part of them.

    Returns:
        Different indices of images, and the teacher's class of each, in the order of the teacher's classes.
    """
    rows, labels = [], []
    for label, identity in enumerate(own.tolist()):
        equal = (own == identity).nonzero().flatten().tolist()
        found = (classes == identity).nonzero().flatten()[equal.index(label) :: len(equal)]
        rows.append(found)
        labels.append(torch.full_like(found, label))
    return torch.cat(rows), torch.cat(labels)


@dataclass(frozen=True)
class _Share:
    """One teacher's part of a step: the images that it is shown, their labels, and the draws of the augmentation."""

    teacher: WhiteBoxTeacher
    rows: Tensor
    labels: Tensor
    draws: Tensor


@final
class SharedPixels:
    """Images of all classes of a zoo, with one optimiser.

    Every step has a generator of its own, so the state is pixels and moments; see `state` and `restore`.

    Args:
        start: starting images in [0, 1] on the device of the teachers; they are not changed.
        classes: class of each image, on the CPU.
        teachers: frozen models, each loaded when it is used.
        own_classes: class of the zoo that each class of a teacher is, for every teacher; see `rows_of_classes`.
        config: options of the inversion.
        budget: budget, whose `bucket_size_at` is the largest number of images that a teacher is shown in a step. A
            teacher with more images is shown others in every step, of all its classes alike.
        seed: seed of the run.
        compute: precision of the teachers.
        threads: worker threads that share the teachers of a step.

    Attributes:
        pixels: images in [0, 1].
        classes: class of each image.
    """

    def __init__(
        self,
        start: Float[Tensor, "n 3 side side"],
        classes: Int64[Tensor, " n"],
        teachers: Sequence[WhiteBoxTeacher],
        own_classes: Sequence[Int64[Tensor, " _"]],
        config: SharedPixelsConfig,
        budget: RecoveryBudget,
        seed: int,
        *,
        compute: Compute = CPU,
        threads: WorkerThreads = CALLING_THREAD,
    ) -> None:
        self.pixels, self.classes = start.clone(), classes
        self._teachers, self._config, self._budget, self._seed = teachers, config, budget, seed
        self._compute, self._threads = compute, threads
        self._shown = [rows_of_classes(classes, own) for own in own_classes]
        self._objectives = config.objectives()
        self._augmentation = config.augmentation(start.shape[-1])
        self._adam = Adam([self.pixels])

    def step(
        self,
        number: int,
        added: tuple[Int64[Tensor, " m"], Float[Tensor, "m 3 side side"]] | None = None,
    ) -> Float[Tensor, ""]:
        """Do step `number` of the inversion, and return the summed loss of its teachers before it.

        Args:
            number: number of the step, which determines its random numbers.
            added: different indices of images, and gradients of a further loss with respect to these images.

        Raises:
            ZooError: a loss or gradient is not finite; the model is named.
            ArtefactError: a model is missing or damaged.
        """
        gradient, loss = self.gradient(number)
        if added is not None:
            gradient.index_add_(0, added[0].to(gradient.device), added[1])
        self._adam.step([gradient], self._config.learning_rate)
        self.pixels.clamp_(0, 1)
        return loss

    def gradient(self, number: int) -> tuple[Float[Tensor, "n 3 side side"], Float[Tensor, ""]]:
        """Gradient of the summed loss of the teachers of step `number`, and that loss; see `step`."""
        total, loss = torch.zeros_like(self.pixels), self.pixels.new_zeros(())
        for rows, part, own in self._threads.map(self._of_teacher, self._shares(number)):
            total.index_add_(0, rows, part)
            loss += own
        return total, loss

    def _shares(self, number: int) -> Iterator[_Share]:
        count = len(self._teachers)
        random = generator(self._seed, "shared pixels", "teachers", number)
        chosen = torch.randperm(count, generator=random)[: self._config.teachers_per_step or count]
        for index in chosen.sort().values.tolist():
            rows, labels = self._shown[index]
            if not len(rows):
                continue
            teacher = self._teachers[index]
            random = generator(self._seed, "shared pixels", teacher.name, number)
            most = self._budget.bucket_size_at(teacher.input_size)
            if len(rows) > most:
                order = torch.randperm(len(rows), generator=random)
                kept = order[evenly_of_each(labels[order], most)]
                rows, labels = rows[kept], labels[kept]
            draws = self._augmentation.draw(len(rows), random)
            device = self.pixels.device
            yield _Share(teacher, rows.to(device), labels.to(device), draws.to(device))

    def _of_teacher(self, share: _Share) -> tuple[Tensor, Tensor, Tensor]:
        """Images of one teacher, the gradient of its loss with respect to them, and the loss."""
        images = self.pixels[share.rows].requires_grad_(True)
        with torch.enable_grad(), self._compute.mixed():
            shown = self._augmentation.apply(images, share.draws)
            logits, _, statistics = TeacherPass(share.teacher)(shown)
            outputs = TeacherOutputs(shown, share.labels, logits, statistics)
            step = torch.zeros(1, dtype=torch.int64, device=images.device)
            loss = torch.stack([own(images, outputs, step).to(images) for own in self._objectives]).sum()
        (gradient,) = torch.autograd.grad(loss, images)
        if not bool(loss.isfinite() & gradient.isfinite().all()):
            raise ZooError(
                f"model {share.teacher.name!r}",
                "outputs or gradients are not finite during recovery",
                "check it with `metazoo zoo verify`, or remove it with `metazoo zoo remove`",
            )
        return share.rows, gradient, loss.detach()

    @torch.no_grad()
    def health(
        self, teacher: int, start: UInt8[Tensor, "n 3 side side"], images: UInt8[Tensor, "n 3 side side"]
    ) -> Health | None:
        """Health of stored images by the teacher with index `teacher`; None if no image is of its classes.

        Args:
            teacher: index of the teacher.
            start: all starting images as stored.
            images: all images as stored.
        """
        rows, labels = self._shown[teacher]
        if not len(rows):
            return None
        model, device = self._teachers[teacher], self.pixels.device
        distances, agreement = [], 0.0
        size = self._budget.bucket_size_at(model.input_size)
        for stored in (start, images):
            found, agreed = list[float](), 0
            # All classes in each part, since a part's statistics are compared with those of all training images.
            for part in range(parts := -(-len(rows) // size)):
                shown, own = rows[part::parts], labels[part::parts]
                with self._compute.mixed():
                    logits, _, statistics = TeacherPass(model)(stored[shown].to(device).float() / 255)
                agreed += int((logits.argmax(1).cpu() == own).sum())
                if statistics.observed:
                    found.append(batch_norm_distance(*statistics).item() * len(shown) / len(rows))
            distances.append(sum(found) if found else None)
            agreement = agreed / len(rows)
        return Health(agreement, distances[1], distances[0])

    def shown_to(self, teacher: int) -> tuple[Int64[Tensor, " m"], Int64[Tensor, " m"]]:
        """Images of the teacher with index `teacher`, and its class of each; see `rows_of_classes`."""
        return self._shown[teacher]

    def state(self) -> dict[str, Tensor]:
        """Pixels and moments by name, for a checkpoint."""
        return {"pixels": self.pixels, **{f"optimiser.{key}": value for key, value in self._adam.state()[0].items()}}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Resume from `state`.

        Raises:
            DataError: the tensors are not a state of these images.
        """
        try:
            if tensors["pixels"].shape != self.pixels.shape:
                raise KeyError("pixels")
            self.pixels.copy_(tensors["pixels"])
            self._adam.restore([{key: tensors[f"optimiser.{key}"] for key in self._adam.state()[0]}])
        except (KeyError, RuntimeError) as error:
            raise DataError("checkpoint", "does not fit the shared images", "start the run again") from error
