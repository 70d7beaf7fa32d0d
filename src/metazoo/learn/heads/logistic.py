"""Logistic regression on the classes."""

from typing import final

from torch import Tensor

from metazoo.learn.heads.base import FeatureHead, one_hot
from metazoo.learn.heads.fitted import FittedHead, normalised_linear
from metazoo.learn.linear_models import logistic_regression, normalised_inputs


@final
class Logistic(FeatureHead):
    """Multinomial logistic regression on features scaled to length 1, with a penalty on the weights.

    The classifier of Tian et al. 2020. Deviations: the penalty is `penalty` (chosen on validation classes of CIFAR-FS)
    where the authors have 1 (scikit-learn's `C` is its inverse), and it meets the bias too, which is the weight of a
    constant 1.
    """

    name = "logistic"
    penalty = 0.1

    def fit_features(self, support_features: Tensor, support_labels: Tensor, ways: int) -> FittedHead:  # noqa: D102
        inputs = normalised_inputs(support_features)
        return normalised_linear(logistic_regression(inputs, one_hot(support_labels, ways, inputs), self.penalty))
