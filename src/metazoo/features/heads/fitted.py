"""Classifiers on features that heads return, of one of five forms, in a few tensors."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

COSINE_SCALE = 10.0
SCALE = 20.0
_BALANCING_STEPS = 100

HeadKind = Literal["cosine", "linear", "normalised-linear", "soft-k-means-balanced", "soft-k-means-free"]


@dataclass(frozen=True, eq=False)
class FittedHead:
    """A classifier on features. Leading dimensions may stand for many tasks at once.

    Attributes:
        kind: `cosine` (the cosine of feature and weight), `linear` (feature times weight plus bias),
            `normalised-linear` (the same of features scaled to length 1), or `soft-k-means-balanced` and
            `soft-k-means-free` (class means refined by the query set; see `soft_k_means`).
        weight: weight of each class; of soft k-means the sum of its normalised support features.
        bias: bias of each class, of the linear kinds; None for zero.
        counts: number of support images of each class, of soft k-means.
        scale: factors of the features, applied before anything else; see `DomainRecogniser`. None for none.
        shares: shares of the domains in `scale`, a note that nothing depends on.
    """

    kind: HeadKind
    weight: Float[Tensor, "*tasks ways features"]
    bias: Float[Tensor, "*tasks ways"] | None = None
    counts: Float[Tensor, "*tasks ways"] | None = None
    scale: Float[Tensor, " features"] | None = None
    shares: Float[Tensor, " domains"] | None = None

    @property
    def transductive(self) -> bool:
        """Whether the scores of one query depend on the others."""
        return self.kind in ("soft-k-means-balanced", "soft-k-means-free")

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All that scores depend on, by the names of the attributes."""
        names = ("weight", "bias", "counts", "scale")
        return {name: tensor for name in names if (tensor := getattr(self, name)) is not None}

    def scores(self, features: Float[Tensor, "*tasks n features"]) -> Float[Tensor, "*tasks n ways"]:
        """Scores of features; the greatest is the prediction.

        Soft k-means takes `features` for the whole query set, of at least one.
        """
        if self.scale is not None:
            features = features * self.scale
        if self.kind == "cosine":
            return functional.normalize(features, dim=-1) @ functional.normalize(self.weight, dim=-1).mT
        if self.transductive:
            assert self.counts is not None
            return soft_k_means(self.weight, self.counts, features, balanced=self.kind == "soft-k-means-balanced")
        if self.kind == "normalised-linear":
            features = functional.normalize(features, dim=-1)
        scores = features @ self.weight.mT
        return scores if self.bias is None else scores + self.bias.unsqueeze(-2)

    def probabilities(self, features: Float[Tensor, "*tasks n features"]) -> Float[Tensor, "*tasks n ways"]:
        """Softmax of the scores; of `COSINE_SCALE` times the scores where they are cosines.

        They rank the classes of one image and are not calibrated: the scale is a convention, fitted to nothing, since a
        task of a few images leaves none to fit it on.
        """
        scores = self.scores(features)
        return torch.softmax(scores * COSINE_SCALE if self.kind == "cosine" else scores, dim=-1)


def normalised_linear(weights: Float[Tensor, "*tasks inputs ways"]) -> FittedHead:
    """The classifier that multiplies `normalised_inputs` by `weights`."""
    return FittedHead("normalised-linear", weights[..., :-1, :].mT.contiguous(), weights[..., -1, :].contiguous())


def extra_tensor(kind: HeadKind) -> str | None:
    """The tensor [ways] that a head stored as `kind` has besides its weight."""
    if kind == "cosine":
        return None
    return "bias" if kind in ("linear", "normalised-linear") else "counts"


def soft_k_means(
    sums: Float[Tensor, "*tasks ways features"],
    counts: Float[Tensor, "*tasks ways"],
    features: Float[Tensor, "*tasks n features"],
    *,
    balanced: bool,
) -> Float[Tensor, "*tasks n ways"]:
    """Logits of a whole query set; their softmax is each query's membership in the classes.

    Queries are assigned to the class means of the support, the means are taken anew over support (which stays in its
    class) and assigned queries, and the queries are assigned to these. Everything is measured from the mean of all
    images, since what all features have in common separates no classes. A logit is `SCALE` times a cosine, to which
    `balance_logits` adds the prior.

    Args:
        sums: sum of the normalised support features of each class.
        counts: number of support images of each class.
        features: features of the queries, of at least one.
        balanced: whether the queries are taken to be equally many a class.
    """
    features = functional.normalize(features, dim=-1)
    images = counts.sum(-1)[..., None, None] + features.shape[-2]
    centre = (sums.sum(-2, keepdim=True) + features.sum(-2, keepdim=True)) / images
    sums, features = sums - counts.unsqueeze(-1) * centre, features - centre
    logits = _logits(sums, features, balanced)
    return _logits(sums + torch.softmax(logits, -1).mT @ features, features, balanced)


def balance_logits(logits: Float[Tensor, "*tasks n ways"]) -> Float[Tensor, "*tasks n ways"]:
    """Lower the logits of crowded classes until no class has more than its share of the n queries.

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
