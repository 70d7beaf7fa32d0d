"""What the meta-model is asked to reproduce of its teachers: pure functions on tensors."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def joint_feature_loss(
    predicted: Tensor, targets: Tensor, sizes: Sequence[int], weights: Tensor | None = None
) -> Tensor:
    """Mean over images and teachers of 1 minus the cosine of predicted and true features, in [0, 2].

    The joint features of a zoo are all teachers' features side by side; every teacher counts alike, whatever the size
    and the length of its features.

    Args:
        predicted: [n, sum of sizes].
        targets: [n, sum of sizes].
        sizes: of the teachers' features, in their order.
        weights: of the teachers in the mean, [teachers]; None if all count alike.
    """
    similarities = [
        functional.cosine_similarity(own, target, dim=2).mean(0)
        for own, target in zip(_by_teacher(predicted, sizes), _by_teacher(targets, sizes), strict=True)
    ]
    return 1 - _mean(torch.cat(similarities), weights)


def zoo_cosines(targets: Tensor, sizes: Sequence[int], weights: Tensor | None = None) -> Tensor:
    """How alike the zoo sees images, [n, n]: the mean of the teachers' cosines.

    Args:
        targets: joint features [n, sum of sizes], those of each teacher normalised to length 1.
        sizes: of the teachers' features, in their order.
        weights: of the teachers in the mean, [teachers]; None if all count alike.
    """
    if weights is None:
        return targets @ targets.T / len(sizes)
    shares = torch.cat([share.expand(size) for share, size in zip(weights / weights.sum(), sizes, strict=True)])
    return (targets * shares) @ targets.T


def relational_loss(features: Tensor, cosines: Tensor) -> Tensor:
    """Mean squared difference of the features' cosines and given ones over all pairs of different images.

    It asks for the geometry itself that the nearest mean works in, whatever linear map would lead from one space to the
    other (relational distillation, Park et al. 2019).

    Args:
        features: [n, d], n at least 2.
        cosines: [n, n]; those of the images with themselves do not count.
    """
    own = functional.normalize(features, dim=1)
    same = torch.eye(len(features), dtype=torch.bool, device=features.device)
    difference = (own @ own.T - cosines).masked_fill(same, 0)
    return difference.square().sum() / (len(features) * (len(features) - 1))


def distillation_loss(
    logits: Tensor,
    teacher_logits: Tensor,
    counts: Sequence[int],
    temperature: float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    """KL(softmax(teacher / t) || softmax(student / t)) times t squared (Hinton et al. 2015), each teacher by itself.

    The published TGR code hands probabilities where log-probabilities belong, and averages over classes too, which
    leaves a gradient tens of times too small.

    Args:
        logits: of the student, [n, sum of counts].
        teacher_logits: of all teachers side by side, [n, sum of counts]; no gradient flows to them.
        counts: classes of each teacher, in their order.
        temperature: above 0.
        weights: of the teachers in the mean, [teachers]; None if all count alike.

    Returns:
        The mean over images and teachers.
    """
    divergences = []
    for own, target in zip(_by_teacher(logits, counts), _by_teacher(teacher_logits.detach(), counts), strict=True):
        log_probabilities = functional.log_softmax(own / temperature, dim=2)
        log_targets = functional.log_softmax(target / temperature, dim=2)
        terms = functional.kl_div(log_probabilities, log_targets, reduction="none", log_target=True)
        divergences.append(terms.sum(2).mean(0))
    return _mean(torch.cat(divergences), weights) * temperature**2


def _by_teacher(values: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Split [n, sum of sizes] into [n, teachers, size] for each row of teachers of one size, to go through at once."""
    rows = [(size, len(list(alike))) for size, alike in itertools.groupby(sizes)]
    parts = values.split([size * count for size, count in rows], 1)
    return [part.unflatten(1, (count, size)) for part, (size, count) in zip(parts, rows, strict=True)]


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    return values.mean() if weights is None else values @ weights / weights.sum()


def published_distillation_loss(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """What the official TGR code computes for its distillation term: probabilities where their logarithm belongs.

    Mean over images and classes of p_t (log p_t - p_s). Up to a constant that is minus the mean of p_t p_s, whose
    gradient is tens of times smaller than that of `distillation_loss`.

    Args:
        logits: of the student, [n, classes].
        teacher_logits: [n, classes]; no gradient flows to them.
    """
    return functional.kl_div(logits.softmax(1), teacher_logits.detach().softmax(1), reduction="none").mean()
