"""Terms of the inversion loss: what a recovered image is asked to be.

Any objective can be one. Those of a teacher are by default `cross_entropy + batch_norm + total_variation + l2`, each
with its weight. The first two are those of Task Groupings Regularization (ICML 2024, inversion loss); total variation
and L2 come from DeepInversion (Yin et al., CVPR 2020), because pixels, unlike a generator, have no smoothness of their
own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from metazoo.recover.statistics import BatchNormStatistics


@dataclass(frozen=True, eq=False)
class TeacherOutputs:
    """What one forward pass of a batch through a teacher, and through its guide, gives.

    Tensors are on the teacher's device and differentiable in the images, except the labels.

    Attributes:
        images: augmented images that were shown, [n, channels, side, side], mostly in [0, 1].
        labels: wanted local classes, int64 [n].
        logits: [n, classes].
        batch_norm: statistics of the teacher's batch-norm layers; empty if it has none.
        guide_batch_norm: statistics of the guide's layers; None without a guide.
        guide_scale: factor that makes the guide's batch-norm distance as large as the teacher's at the start; 1 where
            one of them is unknown or 0.
        features: [n, feature_size] if an objective uses them, else None.
    """

    images: Tensor
    labels: Tensor
    logits: Tensor
    batch_norm: BatchNormStatistics
    guide_batch_norm: BatchNormStatistics | None = None
    features: Tensor | None = None
    guide_scale: Tensor | float = 1.0


class Objective(Protocol):
    """One term of an inversion loss: a function, or an object with parameters or state of its own.

    Two attributes may be set; without them they count as False. `uses_features` asks for `TeacherOutputs.features`.
    `recordable` promises that every call is the same operations on the same tensors, whatever Python counts meanwhile,
    so that a GPU may play them back instead of calling again (`metazoo.execution.repeat`).
    """

    def __call__(self, images: Tensor, outputs: TeacherOutputs, step: Tensor, /) -> Tensor:
        """Compute the term, a scalar to be minimised.

        Args:
            images: images of the canvas before augmentation, [n, channels, side, side] in [0, 1], differentiable.
            outputs: what teacher and guide make of the augmented images.
            step: number of losses that the inversion has evaluated before, int64 [1] on the device, because a number
                that Python counts would not change in a played-back step. The result of the last step is judged under
                the number of that step.
        """
        ...


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of `logits` [n, classes] against the wanted local classes `labels` [n] (int64)."""
    return functional.cross_entropy(logits, labels)


def batch_norm_distance(observed: Iterable[tuple[Tensor, Tensor]], stored: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Distance of a batch from the running statistics of the teacher's batch-norm layers.

    Args:
        observed: mean and biased variance [channels] of each layer's input over images and space.
        stored: running mean and running variance [channels] of each layer.

    Returns:
        The sum over layers of the plain (not squared) L2 norms of both differences; 0 without batch norm.
    """
    terms = [
        (mean - running_mean).norm() + (variance - running_variance).norm()
        for (mean, variance), (running_mean, running_variance) in zip(observed, stored, strict=True)
    ]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def total_variation(images: Tensor) -> Tensor:
    """Mean squared difference of horizontal and of vertical neighbours of `images` [n, c, h, w] in [0, 1].

    Squared and averaged, so that the weight does not depend on the number or the size of the images (DeepInversion
    sums unsquared norms over the whole batch).
    """
    height, width = images.shape[-2:]
    vertical = functional.mse_loss(images.narrow(2, 1, height - 1), images.narrow(2, 0, height - 1))
    horizontal = functional.mse_loss(images.narrow(3, 1, width - 1), images.narrow(3, 0, width - 1))
    return vertical + horizontal


def l2(images: Tensor) -> Tensor:
    """Mean squared distance of `images` [n, c, h, w] in [0, 1] from mid-grey."""
    return (images - 0.5).square().mean()


@dataclass(frozen=True)
class _Weighted:
    weight: float = 1.0
    recordable: ClassVar[bool] = True


class CrossEntropy(_Weighted):
    """Weighted `cross_entropy` of the teacher's logits."""

    def __call__(self, images: Tensor, outputs: TeacherOutputs, step: Tensor) -> Tensor:  # noqa: D102
        return self.weight * cross_entropy(outputs.logits, outputs.labels)


class BatchNormDistance(_Weighted):
    """Weighted `batch_norm_distance`: the teacher's, the guide's, or the mean of both where both have batch norm.

    Distances of networks differ by two orders of magnitude, so the guide's is scaled first, see `guide_scale`.
    """

    def __call__(self, images: Tensor, outputs: TeacherOutputs, step: Tensor) -> Tensor:  # noqa: D102
        distance = batch_norm_distance(*outputs.batch_norm)
        if outputs.guide_batch_norm is not None:
            of_guide = batch_norm_distance(*outputs.guide_batch_norm)
            distance = (distance + outputs.guide_scale * of_guide) / 2 if outputs.batch_norm.observed else of_guide
        return self.weight * distance


class TotalVariation(_Weighted):
    """Weighted `total_variation` of the images before augmentation."""

    def __call__(self, images: Tensor, outputs: TeacherOutputs, step: Tensor) -> Tensor:  # noqa: D102
        return self.weight * total_variation(images)


class L2(_Weighted):
    """Weighted `l2` of the images before augmentation."""

    def __call__(self, images: Tensor, outputs: TeacherOutputs, step: Tensor) -> Tensor:  # noqa: D102
        return self.weight * l2(images)
