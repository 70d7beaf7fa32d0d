"""Losses between the meta-model and its teachers: pure functions on tensors."""

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def joint_feature_loss(
    predicted: Float[Tensor, "n features"],
    targets: Float[Tensor, "n features"],
    sizes: Sequence[int],
    weights: Float[Tensor, " teachers"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over images and teachers of 1 minus the cosine of predicted and true features, in [0, 2].

    The joint features of a zoo are the features of all teachers side by side. Every teacher counts alike, whatever the
    size and norm of its features.

    Args:
        predicted: predicted joint features.
        targets: joint features of the teachers.
        sizes: feature sizes, one per teacher; their sum is the number of joint features.
        weights: weights of the teachers in the mean; None if all count alike.
    """
    similarities = [
        functional.cosine_similarity(own, target, dim=2).mean(0)
        for own, target in zip(_by_teacher(predicted, sizes), _by_teacher(targets, sizes), strict=True)
    ]
    return 1 - _mean(torch.cat(similarities), weights)


def zoo_cosines(
    targets: Float[Tensor, "n features"], sizes: Sequence[int], weights: Float[Tensor, " teachers"] | None = None
) -> Float[Tensor, "n n"]:
    """Mean over the teachers of the cosines between the features of images.

    Args:
        targets: joint features, normalised to length 1 for each teacher.
        sizes: feature sizes, one per teacher; their sum is the number of joint features.
        weights: weights of the teachers in the mean; None if all count alike.
    """
    if weights is None:
        return targets @ targets.T / len(sizes)
    shares = torch.cat([share.expand(size) for share, size in zip(weights / weights.sum(), sizes, strict=True)])
    return (targets * shares) @ targets.T


def relational_loss(features: Float[Tensor, "n d"], cosines: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """Mean squared difference between the cosines of features and given ones, over all pairs of different images.

    The loss fits the geometry that the nearest mean uses, not only features up to a linear map (relational
    distillation, Park et al. 2019).

    Args:
        features: features of at least 2 images.
        cosines: cosines to reproduce; the diagonal is ignored.
    """
    own = functional.normalize(features, dim=1)
    same = torch.eye(len(features), dtype=torch.bool, device=features.device)
    difference = (own @ own.T - cosines).masked_fill(same, 0)
    return difference.square().sum() / (len(features) * (len(features) - 1))


def distillation_loss(
    logits: Float[Tensor, "n classes"],
    teacher_logits: Float[Tensor, "n classes"],
    counts: Sequence[int],
    temperature: float = 1.0,
    weights: Float[Tensor, " teachers"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over images and teachers of KL(softmax(teacher / t) || softmax(student / t)) times t squared.

    This is the loss of Hinton et al. 2015 for each teacher by itself. The published TGR code uses probabilities instead
    of log-probabilities and averages over classes too, which makes the gradient tens of times smaller.

    Args:
        logits: logits of the student.
        teacher_logits: logits of all teachers side by side; no gradient flows to them.
        counts: numbers of classes, one per teacher; their sum is the number of logits.
        temperature: temperature t, above 0.
        weights: weights of the teachers in the mean; None if all count alike.
    """
    divergences = []
    for own, target in zip(_by_teacher(logits, counts), _by_teacher(teacher_logits.detach(), counts), strict=True):
        log_probabilities = functional.log_softmax(own / temperature, dim=2)
        log_targets = functional.log_softmax(target / temperature, dim=2)
        terms = functional.kl_div(log_probabilities, log_targets, reduction="none", log_target=True)
        divergences.append(terms.sum(2).mean(0))
    return _mean(torch.cat(divergences), weights) * temperature**2


def _by_teacher(values: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Split [n, sum of sizes] into [n, teachers, size] for each run of teachers of equal size."""
    rows = [(size, len(list(alike))) for size, alike in itertools.groupby(sizes)]
    parts = values.split([size * count for size, count in rows], 1)
    return [part.unflatten(1, (count, size)) for part, (size, count) in zip(parts, rows, strict=True)]


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    return values.mean() if weights is None else values @ weights / weights.sum()


def published_distillation_loss(
    logits: Float[Tensor, "n classes"], teacher_logits: Float[Tensor, "n classes"]
) -> Float[Tensor, ""]:
    """Distillation term of the official TGR code, with probabilities instead of their logarithm.

    The value is the mean over images and classes of p_t (log p_t - p_s). Up to a constant that is minus the mean of
    p_t p_s, whose gradient is tens of times smaller than that of `distillation_loss`.

    Args:
        logits: logits of the student.
        teacher_logits: logits of the teacher; no gradient flows to them.
    """
    return functional.kl_div(logits.softmax(1), teacher_logits.detach().softmax(1), reduction="none").mean()


def adversarial_divergence(
    logits: Float[Tensor, "n classes"], teacher_logits: Float[Tensor, "n classes"]
) -> Float[Tensor, ""]:
    """Minus the mean of KL(softmax(student) || softmax(teacher)) over the images whose predicted classes are equal.

    Generated images that lower it move to where student and teacher predict one class with unlike probabilities, so
    that the student can learn from them (FREE, Wei et al., CVPR 2024). The mean is over all images; one whose predicted
    classes differ counts as 0. As published, the gradient flows through the teacher only: neither the parameters of the
    student nor its reaction to a change of the image. The published code uses probabilities instead of their logarithm,
    which amounts to the mean of p_s . p_t.

    Args:
        logits: logits of the student; no gradient flows to them.
        teacher_logits: logits of the teacher for the same classes, differentiable.
    """
    own = logits.detach()
    agree = own.argmax(1) == teacher_logits.argmax(1)
    log_probabilities, log_taught = own.log_softmax(1), teacher_logits.log_softmax(1)
    terms = functional.kl_div(log_taught, log_probabilities, reduction="none", log_target=True).sum(1)
    return -(agree * terms).mean()
