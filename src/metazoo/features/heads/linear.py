"""Linear heads: logistic and ridge regression."""

from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from metazoo import choices
from metazoo.features.heads.fitted import COSINE_SCALE, FittedHead, normalised_linear
from metazoo.features.heads.head import FeatureHead, one_hot
from metazoo.features.linear_models import logistic_regression, normalised_inputs


@final
class Logistic(FeatureHead):
    """Multinomial logistic regression on features scaled to length 1, with a penalty on the weights.

    The classifier of Tian et al. 2020. Deviations: `penalty` was chosen on validation classes of CIFAR-FS, while the
    authors use 1 (scikit-learn's `C` is its inverse); it also applies to the bias, the weight of a constant 1.
    """

    name = choices.LOGISTIC
    temperature = 1 / 3
    penalty = 0.1

    def fit_features(  # noqa: D102
        self, support_features: Float[Tensor, "*tasks n features"], support_labels: Int64[Tensor, " n"], ways: int
    ) -> FittedHead:
        inputs = normalised_inputs(support_features)
        return normalised_linear(logistic_regression(inputs, one_hot(support_labels, ways, inputs), self.penalty))


@final
class Ridge(FeatureHead):
    """Least squares from features to one-hot classes, with a penalty on the weights, in closed form.

    The base learner of R2-D2 (Bertinetto et al. 2019), which learns the penalty and the scale of the scores over many
    tasks. Here, features are scaled to length 1 and a constant 1 is added for the bias, `penalty` was chosen on
    validation classes of CIFAR-FS, and scores are multiplied by `COSINE_SCALE`, which affects only probabilities.
    """

    name = choices.RIDGE
    temperature = 0.75
    penalty = 0.5

    def fit_features(  # noqa: D102
        self, support_features: Float[Tensor, "*tasks n features"], support_labels: Int64[Tensor, " n"], ways: int
    ) -> FittedHead:
        inputs = normalised_inputs(support_features)
        weights = ridge_regression(inputs, one_hot(support_labels, ways, inputs), self.penalty)
        return normalised_linear(COSINE_SCALE * weights)


def ridge_regression(
    inputs: Float[Tensor, "*tasks n inputs"], targets: Float[Tensor, "*#tasks n ways"], penalty: float
) -> Float[Tensor, "*tasks inputs ways"]:
    """Weights that minimise |inputs @ weights - targets|² + penalty |weights|².

    The smaller of two equivalent systems is solved: of n samples (Woodbury's identity) or of d dimensions.

    Args:
        inputs: inputs of the samples.
        targets: targets of the samples, for each task or common to all.
        penalty: positive factor of the penalty.
    """
    samples, dimensions = inputs.shape[-2:]
    if samples < dimensions:
        return inputs.mT @ torch.linalg.solve(_penalised(inputs @ inputs.mT, penalty), targets)
    return torch.linalg.solve(_penalised(inputs.mT @ inputs, penalty), inputs.mT @ targets)


def _penalised(gram: Tensor, penalty: float) -> Tensor:
    return gram + penalty * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
