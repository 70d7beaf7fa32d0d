"""Ridge regression on the classes."""

from typing import final

import torch
from torch import Tensor

from metazoo.learn.heads.base import FeatureHead, one_hot
from metazoo.learn.heads.fitted import COSINE_SCALE, FittedHead, normalised_linear
from metazoo.learn.linear_models import normalised_inputs


@final
class Ridge(FeatureHead):
    """Least squares from features to one-hot classes, with a penalty on the weights, in closed form.

    The base learner of R2-D2 (Bertinetto et al. 2019). There, the penalty and the scale of the scores are learned over
    many tasks. Here the features are scaled to length 1 and get a constant 1 for the bias, the penalty is `penalty`
    (chosen on validation classes of CIFAR-FS) and the scores are multiplied by `COSINE_SCALE`, which matters to
    probabilities alone.
    """

    name = "ridge"
    penalty = 0.5

    def fit_features(self, support_features: Tensor, support_labels: Tensor, ways: int) -> FittedHead:  # noqa: D102
        inputs = normalised_inputs(support_features)
        weights = ridge_regression(inputs, one_hot(support_labels, ways, inputs), self.penalty)
        return normalised_linear(COSINE_SCALE * weights)


def ridge_regression(inputs: Tensor, targets: Tensor, penalty: float) -> Tensor:
    """The weights [..., d, ways] with the least |inputs @ weights - targets|² + penalty |weights|².

    The smaller of the two equivalent systems is solved: that of the n samples (Woodbury's identity) or of the d
    dimensions.

    Args:
        inputs: [..., n, d].
        targets: [..., n, ways], or [n, ways] for all tasks.
        penalty: positive.
    """
    samples, dimensions = inputs.shape[-2:]
    if samples < dimensions:
        return inputs.mT @ torch.linalg.solve(_penalised(inputs @ inputs.mT, penalty), targets)
    return torch.linalg.solve(_penalised(inputs.mT @ inputs, penalty), inputs.mT @ targets)


def _penalised(gram: Tensor, penalty: float) -> Tensor:
    return gram + penalty * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
