"""Fitted heads: classifiers on features in one of five forms, given by a few tensors."""

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
    """Classifier on features, of one task or (by leading dimensions) of many.

    Attributes:
        kind: form of the scores: `cosine` (of feature and weight), `linear` (feature times weight plus bias),
            `normalised-linear` (linear in features scaled to length 1), or `soft-k-means-balanced` and
            `soft-k-means-free` (class means refined by the query set; see `soft_k_means`).
        weight: weight of each class; for soft k-means, the sum of its normalised support features.
        bias: bias of each class, for the linear forms; None for zero.
        counts: number of support images of each class, for soft k-means.
        scale: factors of the features, applied first; see `DomainRecogniser`. None for no scaling.
        shares: shares of the domains that gave `scale`, for information only.
        temperature: positive number by which scores are divided for probabilities; see `probabilities`.
    """

    kind: HeadKind
    weight: Float[Tensor, "*tasks ways features"]
    bias: Float[Tensor, "*tasks ways"] | None = None
    counts: Float[Tensor, "*tasks ways"] | None = None
    scale: Float[Tensor, " features"] | None = None
    shares: Float[Tensor, " domains"] | None = None
    temperature: float = 1.0

    @property
    def transductive(self) -> bool:
        """Whether the scores of a query depend on the other queries."""
        return self.kind in ("soft-k-means-balanced", "soft-k-means-free")

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Tensors that scores depend on, by attribute name."""
        names = ("weight", "bias", "counts", "scale")
        return {name: tensor for name in names if (tensor := getattr(self, name)) is not None}

    def scores(self, features: Float[Tensor, "*tasks n features"]) -> Float[Tensor, "*tasks n ways"]:
        """Scores of features, of which the greatest gives the prediction.

        For soft k-means, `features` are those of the whole query set, which must not be empty.
        """
        features = scaled(features, self.scale)
        if self.kind == "cosine":
            return functional.normalize(features, dim=-1) @ functional.normalize(self.weight, dim=-1).mT
        if self.transductive:
            assert self.counts is not None
            return soft_k_means(self.weight, self.counts, features, balanced=self.kind == "soft-k-means-balanced")
        if self.kind == "normalised-linear":
            features = functional.normalize(features, dim=-1)
        scores = features @ self.weight.mT
        return scores if self.bias is None else scores + self.bias.unsqueeze(-2)

    def logits(self, features: Float[Tensor, "*tasks n features"]) -> Float[Tensor, "*tasks n ways"]:
        """Scores on the scale of logits at temperature 1: cosines are multiplied by `COSINE_SCALE`."""
        scores = self.scores(features)
        return scores * COSINE_SCALE if self.kind == "cosine" else scores

    def probabilities(self, features: Float[Tensor, "*tasks n features"]) -> Float[Tensor, "*tasks n ways"]:
        """Softmax of the logits, divided by the temperature."""
        return torch.softmax(self.logits(features) / self.temperature, dim=-1)


def scaled(
    features: Float[Tensor, "*tasks n features"], scale: Float[Tensor, " features"] | None
) -> Float[Tensor, "*tasks n features"]:
    """Features times the factors `scale` of a fitted head; None for no scaling."""
    return features if scale is None else features * scale.to(features.device)


def normalised_linear(weights: Float[Tensor, "*tasks inputs ways"]) -> FittedHead:
    """Classifier that multiplies `normalised_inputs` by `weights`."""
    return FittedHead("normalised-linear", weights[..., :-1, :].mT.contiguous(), weights[..., -1, :].contiguous())


def extra_tensor(kind: HeadKind) -> str | None:
    """Name of the tensor [ways] that a head of this kind has besides its weight; None if it has none."""
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
    """Logits of a whole query set, whose softmax is the membership of each query in the classes.

    Queries are softly assigned to the class means of the support. The means are computed again over the support (whose
    classes are fixed) and the assigned queries, and queries are assigned to the new means. All features are centred on
    the mean of all images, since their common part does not separate classes. A logit is `SCALE` times a cosine, to
    which `balance_logits` adds a prior.

    Args:
        sums: sum of the normalised support features of each class.
        counts: number of support images of each class.
        features: features of the queries, at least one.
        balanced: whether all classes are assumed to have equally many queries.
    """
    features = functional.normalize(features, dim=-1)
    images = counts.sum(-1)[..., None, None] + features.shape[-2]
    centre = (sums.sum(-2, keepdim=True) + features.sum(-2, keepdim=True)) / images
    sums, features = sums - counts.unsqueeze(-1) * centre, features - centre
    logits = _logits(sums, features, balanced)
    return _logits(sums + torch.softmax(logits, -1).mT @ features, features, balanced)


def balance_logits(logits: Float[Tensor, "*tasks n ways"]) -> Float[Tensor, "*tasks n ways"]:
    """Lower the logits of overfull classes until no class has more than its share of the n queries.

    The softmax of the result is the assignment closest to the given one (in relative entropy) in which no class has
    more than n / ways queries, rounded up. If n is a multiple of `ways`, every class has exactly n / ways; a single
    query is not changed. The method is Sinkhorn's iteration with inequality constraints (Chizat et al. 2018), in 100
    rounds: if the queries are far from balanced, a class can exceed its share by a few images.
    """
    share = math.log(math.ceil(logits.shape[-2] / logits.shape[-1]))
    prior = torch.zeros_like(logits[..., :1, :])
    for _ in range(_BALANCING_STEPS):
        held = torch.log_softmax(logits + prior, -1).logsumexp(-2, keepdim=True)
        prior = (prior + share - held).clamp(max=0)
    return logits + prior


def _logits(centroids: Tensor, features: Tensor, balanced: bool) -> Tensor:
    # Cosines are the same for sums and means.
    cosines = functional.normalize(features, dim=-1) @ functional.normalize(centroids, dim=-1).mT
    return balance_logits(SCALE * cosines) if balanced else SCALE * cosines
