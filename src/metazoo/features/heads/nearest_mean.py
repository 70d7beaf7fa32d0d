"""The class whose mean is nearest."""

from typing import final

from jaxtyping import Float, Int64
from torch import Tensor

from metazoo import choices
from metazoo.features.heads.fitted import FittedHead
from metazoo.features.heads.head import FeatureHead, class_means, raw_class_means


@final
class NearestMean(FeatureHead):
    """The class whose mean of normalised support features has the greatest cosine with the query's features.

    Prototypes as of Snell et al. 2017 with the cosine in place of the squared distance.
    """

    name = choices.NEAREST_MEAN

    def fit_features(  # noqa: D102
        self, support_features: Float[Tensor, "*tasks n features"], support_labels: Int64[Tensor, " n"], ways: int
    ) -> FittedHead:
        return FittedHead("cosine", class_means(support_features, support_labels, ways))


@final
class NearestMeanEuclidean(FeatureHead):
    """The class whose mean of support features, not normalised, has the least squared distance (Snell et al. 2017).

    A score is the negative squared distance plus the squared length of the query's features. That is linear in the
    features, and what is added is the same for all classes of a query, so the softmax is the paper's.
    """

    name = choices.NEAREST_MEAN_EUCLIDEAN

    def fit_features(  # noqa: D102
        self, support_features: Float[Tensor, "*tasks n features"], support_labels: Int64[Tensor, " n"], ways: int
    ) -> FittedHead:
        means = raw_class_means(support_features, support_labels, ways)
        return FittedHead("linear", 2 * means, -means.square().sum(-1))
