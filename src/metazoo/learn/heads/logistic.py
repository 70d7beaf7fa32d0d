"""Logistic regression on the classes."""

from typing import final

import torch
from torch import Tensor

from metazoo.learn.heads.base import FeatureHead, one_hot
from metazoo.learn.heads.fitted import FittedHead, normalised_linear
from metazoo.learn.linear_inputs import normalised_inputs


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


def logistic_regression(inputs: Tensor, targets: Tensor, penalty: float, steps: int = 100) -> Tensor:
    """The weights [..., d, ways] with the least cross-entropy, summed over samples, + penalty / 2 |weights|².

    The weights are combinations of the samples. Their coefficients descend by Newton's step with Böhning's bound (1992)
    in place of the Hessian, one matrix for all classes and steps, and Nesterov's momentum: no line search, so tasks
    solved together do not meet. With `penalty` 0.1 and inputs of length 1, the default `steps` bring every component
    of the gradient (by coefficients) below 1e-5 for 5 classes of 5 samples, below 1e-3 for 16 of 100. Time and memory
    grow with the square of n, and once with its cube.

    Args:
        inputs: [..., n, d].
        targets: one-hot, [n, ways] for all tasks.
        penalty: positive.
        steps: of the descent.
    """
    gram = inputs @ inputs.mT
    bound = 0.5 * gram + penalty * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    inverse = torch.linalg.inv(bound)
    coefficients = ahead = targets.new_zeros(*gram.shape[:-1], targets.shape[-1])
    for step in range(steps):
        gradient = torch.softmax(gram @ ahead, -1) - targets + penalty * ahead
        former, coefficients = coefficients, ahead - inverse @ gradient
        ahead = coefficients + step / (step + 3) * (coefficients - former)
    return inputs.mT @ coefficients
