"""Linear models with a penalty, fitted to features of length 1 beside a constant, whose weight is the bias."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def normalised_inputs(features: Float[Tensor, "*tasks n features"]) -> Float[Tensor, "*tasks n features+1"]:
    """Features scaled to length 1, then a constant 1."""
    return torch.cat([functional.normalize(features, dim=-1), torch.ones_like(features[..., :1])], dim=-1)


def logistic_regression(
    inputs: Float[Tensor, "*tasks n inputs"], targets: Float[Tensor, "n ways"], penalty: float, steps: int = 100
) -> Float[Tensor, "*tasks inputs ways"]:
    """The weights with the least cross-entropy, summed over samples, + penalty / 2 |weights|².

    They descend by Newton's step with Böhning's bound (1992) in place of the Hessian, one matrix for all classes and
    steps, and Nesterov's momentum: no line search, so tasks solved together do not meet. With `penalty` 0.1 and inputs
    of length 1, the default `steps` bring every component of the gradient (by coefficients of the samples, which the
    weights are combinations of) below 1e-5 for 5 classes of 5 samples, below 1e-3 for 16 of 100. Of fewer samples than
    inputs their coefficients are what descends, by the same path. Time and memory grow with the square of the smaller
    of n and d, and once with its cube.

    Args:
        inputs: inputs of the samples.
        targets: one-hot classes of the samples, of all tasks.
        penalty: positive factor of the penalty.
        steps: number of steps of the descent.
    """
    samples, size = inputs.shape[-2:]
    dual = samples <= size
    gram = inputs @ inputs.mT if dual else inputs.mT @ inputs
    bound = 0.5 * gram + penalty * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    inverse = torch.linalg.inv(bound)
    found = ahead = targets.new_zeros(*gram.shape[:-1], targets.shape[-1])
    for step in range(steps):
        wrong = torch.softmax((gram if dual else inputs) @ ahead, -1) - targets
        gradient = (wrong if dual else inputs.mT @ wrong) + penalty * ahead
        former, found = found, ahead - inverse @ gradient
        ahead = found + step / (step + 3) * (found - former)
    return inputs.mT @ found if dual else found
