"""Soft k-means heads: class means refined by the query set."""

from typing import ClassVar, final

from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from metazoo import choices
from metazoo.features.heads.fitted import FittedHead, HeadKind
from metazoo.features.heads.head import FeatureHead, one_hot


class _SoftKMeans(FeatureHead):
    transductive = True
    kind: ClassVar[HeadKind]

    def fit_features(
        self, support_features: Float[Tensor, "*tasks n features"], support_labels: Int64[Tensor, " n"], ways: int
    ) -> FittedHead:
        members = one_hot(support_labels, ways, support_features)
        sums = members.mT @ functional.normalize(support_features, dim=-1)
        return FittedHead(self.kind, sums, counts=members.sum(0).expand(sums.shape[:-1]).contiguous())


@final
class SoftKMeansFree(_SoftKMeans):
    """Class means refined once by the queries, for any proportions of the classes among them.

    Soft k-means of Ren et al. 2018 (section 3.1.1, with one refinement) with the queries as unlabelled images.
    Deviations: cosines of centred features instead of distances, times a fixed `SCALE` (chosen on validation classes of
    CIFAR-FS, where more refinements were worse).
    """

    name = choices.SOFT_K_MEANS_FREE
    kind = "soft-k-means-free"


@final
class SoftKMeansBalanced(_SoftKMeans):
    """Class means refined once by the queries, of which all classes are assumed to have equally many.

    Like `SoftKMeansFree`, with the assignment of the queries balanced over the classes (`balance_logits`). The
    assumption holds for the usual episodes. If the queries are not balanced, choose `soft-k-means-free`.
    """

    name = choices.SOFT_K_MEANS_BALANCED
    kind = "soft-k-means-balanced"
