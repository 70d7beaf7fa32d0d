"""Making the readouts of a meta-model's domains from recovered images."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from metazoo.learn.heads.logistic import logistic_regression
from metazoo.learn.kernels import predicted_kernel, related_kernel, sharpened_kernel
from metazoo.learn.linear_inputs import normalised_inputs

_PENALTY, _IMAGES, _STEPS = 0.3, 2000, 300


def domain_kernel(
    features: Tensor,
    labels: Tensor,
    teacher_features: Iterable[Tensor],
    weights: Sequence[float],
    random: torch.Generator,
) -> Tensor:
    """The inner product that a domain is read by, as a form in `normalised_inputs`: float32 [d + 1, d + 1].

    See `metazoo.learn.kernels`. What few teachers see is not yet what matters to a kind of images. So the inner product
    of the features as they are is added, divided by the square of the effective number of teachers.

    Args:
        features: of the meta-model, of recovered images of the domain, [n, d], n at least 2.
        labels: whole numbers, one for each class of each teacher, [n].
        teacher_features: of the same images, each of length 1, [n, any size], by one teacher after the other; asked for
            once, and not kept.
        weights: of the teachers, above 0.
        random: source of all draws.
    """
    inputs = normalised_inputs(features.cpu().double())
    kernel, cosines = predicted_kernel(inputs, teacher_features, weights)
    kernel = related_kernel(kernel, inputs, cosines, random)
    kernel = sharpened_kernel(kernel, inputs, labels.cpu(), random)
    kernel = kernel / ((inputs @ kernel) * inputs).sum(1).mean().clamp_min(torch.finfo(kernel.dtype).tiny)
    plain = torch.ones(len(kernel), dtype=kernel.dtype)
    plain[-1] = 0
    share = sum(weight**2 for weight in weights) ** 2 / sum(weights) ** 4
    kernel = (kernel + share * plain.diag()) / (1 + share)
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
