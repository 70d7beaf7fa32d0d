"""What a recovered image is asked to be: pure functions on tensors, one for each term of the inversion loss.

The loss of one teacher is `cross_entropy + batch_norm + total_variation + l2`, each with a weight of its own. The first
two terms are those of Task Groupings Regularization (ICML 2024, inversion loss); total variation and L2 come from
DeepInversion (Yin et al., CVPR 2020), because pixels, unlike a generator, have no smoothness of their own.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of `logits` [n, classes] against the wanted local classes `labels` [n] (int64)."""
    return functional.cross_entropy(logits, labels)


def batch_norm_distance(observed: Iterable[tuple[Tensor, Tensor]], stored: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Distance of a batch from the statistics that the teacher's batch-norm layers remember of its training data.

    Args:
        observed: per layer, mean and biased variance [channels] of the layer's input over batch and space.
        stored: per layer, running mean and running variance [channels].

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
