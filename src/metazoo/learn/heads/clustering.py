"""Soft k-means: class means that the images to be classified have a say in."""

import math

import torch
from torch import Tensor
from torch.nn import functional

SCALE = 20.0
_BALANCING_STEPS = 100


def soft_k_means(sums: Tensor, counts: Tensor, features: Tensor, *, balanced: bool) -> Tensor:
    """Logits [..., n, ways] of a whole query set; their softmax is each query's membership in the classes.

    Queries are assigned to the class means of the support, the means are taken anew over support (which stays in its
    class) and assigned queries, and the queries are assigned to these. Everything is measured from the mean of all
    images, since what all features have in common tells nothing apart. A logit is `SCALE` times a cosine, to which
    `balance_logits` adds the prior.

    Args:
        sums: sum of the normalised support features of each class, [..., ways, d].
        counts: support images of each class, [..., ways].
        features: of the queries, [..., n, d], n at least 1.
        balanced: whether the queries are taken to be equally many a class.
    """
    features = functional.normalize(features, dim=-1)
    images = counts.sum(-1)[..., None, None] + features.shape[-2]
    centre = (sums.sum(-2, keepdim=True) + features.sum(-2, keepdim=True)) / images
    sums, features = sums - counts.unsqueeze(-1) * centre, features - centre
    logits = _logits(sums, features, balanced)
    return _logits(sums + torch.softmax(logits, -1).mT @ features, features, balanced)


def balance_logits(logits: Tensor) -> Tensor:
    """Lower the logits [..., n, ways] of crowded classes until no class has more than its share of the n queries.

    The softmax of what is returned is the plan nearest to the given one (in relative entropy) under which every query
    is one image and no class holds more than n / ways of them, rounded up; where n is a multiple of `ways`, each holds
    exactly n / ways, and a single query is left alone. Sinkhorn's iteration with a bound in place of the equation
    (Chizat et al. 2018), of 100 rounds: where the queries are far from balanced a class can still be an image or a few
    over its share.
    """
    share = math.log(math.ceil(logits.shape[-2] / logits.shape[-1]))
    prior = torch.zeros_like(logits[..., :1, :])
    for _ in range(_BALANCING_STEPS):
        held = torch.log_softmax(logits + prior, -1).logsumexp(-2, keepdim=True)
        prior = (prior + share - held).clamp(max=0)
    return logits + prior


def _logits(centroids: Tensor, features: Tensor, balanced: bool) -> Tensor:
    # A cosine does not know whether a centroid is a sum or a mean.
    cosines = functional.normalize(features, dim=-1) @ functional.normalize(centroids, dim=-1).mT
    return balance_logits(SCALE * cosines) if balanced else SCALE * cosines
