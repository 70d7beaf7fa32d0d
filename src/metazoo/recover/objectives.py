"""Terms of the inversion loss.

The default loss is the weighted sum `cross_entropy + batch_norm + total_variation + l2`; any other `Objective` can be
added. The first two terms are those of Task Groupings Regularization (ICML 2024, inversion loss). Total variation and
L2 come from DeepInversion (Yin et al., CVPR 2020), since pixels, unlike the outputs of a generator, are not smooth by
themselves. `NeighbourNorms` and `PixelNorm` are their forms in PURER (CVPR 2023).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from metazoo.recover.statistics import BatchNormStatistics, Moments


@dataclass(frozen=True, eq=False)
class TeacherOutputs:
    """Results of one forward pass of a batch through a teacher and its guide.

    Tensors are on the teacher's device and differentiable with respect to the images, except the labels.

    Attributes:
        images: augmented images, mostly in [0, 1].
        labels: target classes.
        logits: logits of the teacher.
        batch_norm: statistics of the teacher's batch-norm layers; empty if it has none.
        guide_batch_norm: statistics of the guide's layers; None without a guide.
        guide_scale: ratio of the batch-norm distances of teacher and guide at the start; 1 if one is unknown or 0.
        features: features of the teacher if an objective uses them, else None.
    """

    images: Float[Tensor, "n channels h w"]
    labels: Int64[Tensor, " n"]
    logits: Float[Tensor, "n classes"]
    batch_norm: BatchNormStatistics
    guide_batch_norm: BatchNormStatistics | None = None
    features: Float[Tensor, "n feature_size"] | None = None
    guide_scale: Float[Tensor, ""] | float = 1.0


@runtime_checkable
class Objective(Protocol):
    """Term of an inversion loss: a function, or an object with parameters or state.

    Two optional attributes are False by default. `uses_features` requests `TeacherOutputs.features`. `recordable`
    promises that every call does the same operations on the same tensors, independent of Python state, so that a GPU
    can play them back instead of calling again (`metazoo.execution.repeat`).
    """

    def __call__(
        self, images: Float[Tensor, "n channels h w"], outputs: TeacherOutputs, step: Int64[Tensor, " 1"], /
    ) -> Float[Tensor, ""]:
        """Compute the term, a scalar to minimise.

        Args:
            images: images of the canvas before augmentation, in [0, 1], differentiable.
            outputs: results of teacher and guide for the augmented images.
            step: number of earlier evaluations of the loss, on the device, since a Python number would not
                change in a played-back step. The evaluation after the last step has the number of that step.
        """
        ...


def cross_entropy(logits: Float[Tensor, "n classes"], labels: Int64[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean cross-entropy of `logits` with the target classes `labels`."""
    return functional.cross_entropy(logits, labels)


def batch_norm_distance(observed: Iterable[Moments], stored: Iterable[Moments]) -> Float[Tensor, ""]:
    """Distance of a batch from the running statistics of the teacher's batch-norm layers.

    Args:
        observed: mean and biased variance of each layer's input over images and positions.
        stored: running mean and running variance of each layer.

    Returns:
        Sum over layers of the L2 norms (not squared) of both differences; 0 without batch norm.
    """
    terms = [
        (mean - running_mean).norm() + (variance - running_variance).norm()
        for (mean, variance), (running_mean, running_variance) in zip(observed, stored, strict=True)
    ]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def total_variation(images: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
    """Mean squared difference of horizontal and vertical neighbours of `images` in [0, 1].

    With the mean of squares, the weight does not depend on the number and size of the images. DeepInversion sums
    unsquared norms over the whole batch.
    """
    height, width = images.shape[-2:]
    vertical = functional.mse_loss(images.narrow(2, 1, height - 1), images.narrow(2, 0, height - 1))
    horizontal = functional.mse_loss(images.narrow(3, 1, width - 1), images.narrow(3, 0, width - 1))
    return vertical + horizontal


def l2(images: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
    """Mean squared distance of `images` in [0, 1] from mid-grey."""
    return (images - 0.5).square().mean()


def neighbour_norms(images: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
    """Sum of the L2 norms (not squared) of four maps of neighbour differences: across, down, and both diagonals.

    Each norm is that of a whole map, over all images and channels. Where all neighbours are equal, the gradient is 0.
    """
    across = images[..., :, 1:] - images[..., :, :-1]
    down = images[..., 1:, :] - images[..., :-1, :]
    falling = images[..., 1:, 1:] - images[..., :-1, :-1]
    rising = images[..., :-1, 1:] - images[..., 1:, :-1]
    return torch.stack([differences.norm() for differences in (across, down, falling, rising)]).sum()


def pixel_norm(images: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
    """L2 norm (not squared) of the distance of all `images` in [0, 1] from mid-grey."""
    return (images - 0.5).norm()


@dataclass(frozen=True)
class _Weighted:
    weight: float = 1.0
    recordable: ClassVar[bool] = True


class CrossEntropy(_Weighted):
    """Weighted `cross_entropy` of the teacher's logits."""

    def __call__(  # noqa: D102
        self, images: Float[Tensor, "n channels h w"], outputs: TeacherOutputs, step: Int64[Tensor, " 1"]
    ) -> Float[Tensor, ""]:
        return self.weight * cross_entropy(outputs.logits, outputs.labels)


class BatchNormDistance(_Weighted):
    """Weighted `batch_norm_distance` of teacher or guide; its mean if both have batch norm.

    Distances of different networks can differ by two orders of magnitude, so the guide's is scaled by `guide_scale`.
    """

    def __call__(  # noqa: D102
        self, images: Float[Tensor, "n channels h w"], outputs: TeacherOutputs, step: Int64[Tensor, " 1"]
    ) -> Float[Tensor, ""]:
        distance = batch_norm_distance(*outputs.batch_norm)
        if outputs.guide_batch_norm is not None:
            of_guide = batch_norm_distance(*outputs.guide_batch_norm)
            distance = (distance + outputs.guide_scale * of_guide) / 2 if outputs.batch_norm.observed else of_guide
        return self.weight * distance


class TotalVariation(_Weighted):
    """Weighted `total_variation` of the images before augmentation."""

    def __call__(  # noqa: D102
        self, images: Float[Tensor, "n channels h w"], outputs: TeacherOutputs, step: Int64[Tensor, " 1"]
    ) -> Float[Tensor, ""]:
        return self.weight * total_variation(images)


class L2(_Weighted):
    """Weighted `l2` of the images before augmentation."""

    def __call__(  # noqa: D102
        self, images: Float[Tensor, "n channels h w"], outputs: TeacherOutputs, step: Int64[Tensor, " 1"]
    ) -> Float[Tensor, ""]:
        return self.weight * l2(images)


class NeighbourNorms(_Weighted):
    """Weighted `neighbour_norms` of the images before augmentation."""

    def __call__(  # noqa: D102
        self, images: Float[Tensor, "n channels h w"], outputs: TeacherOutputs, step: Int64[Tensor, " 1"]
    ) -> Float[Tensor, ""]:
        return self.weight * neighbour_norms(images)


class PixelNorm(_Weighted):
    """Weighted `pixel_norm` of the images before augmentation."""

    def __call__(  # noqa: D102
        self, images: Float[Tensor, "n channels h w"], outputs: TeacherOutputs, step: Int64[Tensor, " 1"]
    ) -> Float[Tensor, ""]:
        return self.weight * pixel_norm(images)
