"""Nearest-mean heads (prototypes)."""

from typing import final

from jaxtyping import Float, Int64
from torch import Tensor

from metazoo import choices
from metazoo.features.heads.fitted import FittedHead
from metazoo.features.heads.head import FeatureHead, class_means, raw_class_means


@final
class NearestMean(FeatureHead):
    """Nearest class mean of normalised support features, by cosine.

    Prototypes (Snell et al. 2017) with the cosine instead of the squared distance.
    """

    name = choices.NEAREST_MEAN
    temperature = 1 / 3

    def fit_features(  # noqa: D102
        self, support_features: Float[Tensor, "*tasks n features"], support_labels: Int64[Tensor, " n"], ways: int
    ) -> FittedHead:
        return FittedHead("cosine", class_means(support_features, support_labels, ways))


@final
class NearestMeanEuclidean(FeatureHead):
    """Nearest class mean of support features without normalisation, by squared distance (Snell et al. 2017).

    A score is the negative squared distance plus the squared length of the features of the query, so that it is linear
    in the features. The added term is the same for all classes, so the softmax is that of the paper.
    """

    name = choices.NEAREST_MEAN_EUCLIDEAN

    def fit_features(  # noqa: D102
        self, support_features: Float[Tensor, "*tasks n features"], support_labels: Int64[Tensor, " n"], ways: int
    ) -> FittedHead:
        means = raw_class_means(support_features, support_labels, ways)
        return FittedHead("linear", 2 * means, -means.square().sum(-1))
