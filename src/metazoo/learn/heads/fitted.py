"""What a head returns: a classifier on features, of one of a few kinds, in a few tensors."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from metazoo.learn.heads.clustering import soft_k_means

COSINE_SCALE = 10.0

HeadKind = Literal["cosine", "linear", "normalised-linear", "soft-k-means-balanced", "soft-k-means-free"]


@dataclass(frozen=True, eq=False)
class FittedHead:
    """A classifier on features. Leading dimensions may stand for many tasks at once.

    Attributes:
        kind: `cosine` (the cosine of feature and weight), `linear` (feature times weight plus bias),
            `normalised-linear` (the same of features scaled to length 1), or `soft-k-means-balanced` and
            `soft-k-means-free` (class means refined by the query set; see `soft_k_means`).
        weight: [..., ways, d]; of soft k-means the sums of each class's normalised support features.
        bias: [..., ways], of the linear kinds; None for zero.
        counts: float [..., ways], of soft k-means: support images of each class.
        scale: what features are multiplied by before anything else, [d]; see `DomainRecogniser`. None: nothing.
        shares: of the domains in `scale`, [domains], a note that nothing depends on.
    """

    kind: HeadKind
    weight: Tensor
    bias: Tensor | None = None
    counts: Tensor | None = None
    scale: Tensor | None = None
    shares: Tensor | None = None

    @property
    def transductive(self) -> bool:
        """Whether the scores of one query depend on the others."""
        return self.kind in ("soft-k-means-balanced", "soft-k-means-free")

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All that scores depend on, by the names of the attributes."""
        names = ("weight", "bias", "counts", "scale")
        return {name: tensor for name in names if (tensor := getattr(self, name)) is not None}

    def scores(self, features: Tensor) -> Tensor:
        """Scores [..., n, ways] of `features` [..., n, d]; the greatest is the prediction.

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

    def probabilities(self, features: Tensor) -> Tensor:
        """Softmax [..., n, ways] of the scores; of `COSINE_SCALE` times the scores where they are cosines.

        They rank the classes of one image and are not calibrated: the scale is a convention, fitted to nothing, since a
        task of a few images leaves none to fit it on.
        """
        scores = self.scores(features)
        return torch.softmax(scores * COSINE_SCALE if self.kind == "cosine" else scores, dim=-1)


def normalised_linear(weights: Tensor) -> FittedHead:
    """The classifier that multiplies `normalised_inputs` by `weights` [..., d + 1, ways]."""
    return FittedHead("normalised-linear", weights[..., :-1, :].mT.contiguous(), weights[..., -1, :].contiguous())


def extra_tensor(kind: HeadKind) -> str | None:
    """The tensor [ways] that a head stored as `kind` has besides its weight."""
    if kind == "cosine":
        return None
    return "bias" if kind in ("linear", "normalised-linear") else "counts"
