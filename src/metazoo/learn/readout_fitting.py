"""Making the readouts of a meta-model's domains from recovered images."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from metazoo.learn.heads.logistic import logistic_regression
from metazoo.learn.linear_inputs import normalised_inputs

_RIDGE = 1e-3
_PENALTY, _IMAGES, _STEPS = 0.3, 2000, 300


def domain_kernel(
    features: Tensor, teacher_features: Iterable[Tensor], weights: Sequence[float] | None = None
) -> Tensor:
    """The inner product that teachers are predicted to see, as a form in `normalised_inputs`: float32 [d + 1, d + 1].

    What few teachers see is not yet what matters to a kind of images. So the inner product of the features as they are
    is added, divided by the square of the number of teachers (of unlike weights: of their effective number).

    Each teacher's features are predicted by ridge regression with a free intercept; the penalty is a thousandth of the
    mean variance of the inputs, times the number of images (between a ten-thousandth and a tenth nothing changed by
    more than half a point).

    Args:
        features: of the meta-model, of recovered images of the domain, [n, d].
        teacher_features: of the same images, each of length 1, [n, any size], by one teacher after the other; asked for
            once, and not kept.
        weights: of the teachers, above 0; None if all count alike.
    """
    inputs = normalised_inputs(features.cpu().double())[:, :-1]
    mean = inputs.mean(0)
    centred = inputs - mean
    gram = centred.T @ centred
    ridge = (_RIDGE * gram.diagonal().mean()).clamp_min(torch.finfo(gram.dtype).tiny)
    solver = torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), centred.T)
    kernel, heard = gram.new_zeros(len(gram) + 1, len(gram) + 1), []
    for index, targets in enumerate(teacher_features):
        targets = targets.cpu().double()
        slope = solver @ (targets - targets.mean(0))
        augmented = torch.cat([slope, (targets.mean(0) - mean @ slope)[None]])
        heard.append(1.0 if weights is None else weights[index])
        kernel += heard[-1] * (augmented @ augmented.T)
    plain = torch.cat([torch.ones_like(mean), mean.new_zeros(1)]).diag()
    share = sum(weight**2 for weight in heard) ** 2 / sum(heard) ** 4
    kernel = (kernel / sum(heard) + share * plain) / (1 + share)
    return ((kernel + kernel.T) / 2).float()


def domain_recogniser(features: Sequence[Tensor]) -> Tensor:
    """Logistic regression of the domain: float32 [d + 1, domains], from `normalised_inputs` to logits.

    Domains count alike. Of more than 2000 images so many are used, spread evenly.

    Args:
        features: of the meta-model, of recovered images of each domain, [n, d].
    """
    count = min(_IMAGES // len(features), *map(len, features))
    chosen = [own[torch.linspace(0, len(own) - 1, count).long()] for own in features]
    labels = torch.arange(len(features)).repeat_interleave(count)
    targets = functional.one_hot(labels, len(features)).float()
    return logistic_regression(normalised_inputs(torch.cat(chosen).cpu().float()), targets, _PENALTY, _STEPS)
