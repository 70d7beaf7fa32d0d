"""What a kind of images is measured by: an inner product of features, found from what teachers see in recovered images.

A kernel is a form in `normalised_inputs` of the meta-model's features, float64 [d + 1, d + 1], symmetric and positive
semi-definite. It is found in three steps: what the teachers see is predicted (`predicted_kernel`), then their own
cosines are asked for (`related_kernel`), since what is predicted badly is predicted too small, and last it is made as
sharp as the recovered classes ask for (`sharpened_kernel`).
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from metazoo.learn.episode_accuracy import accuracy
from metazoo.learn.losses import relational_loss

_RIDGE = 1e-3
_STEPS, _BATCH, _LEARNING_RATE = 200, 512, 2e-3
_POWERS = (1.0, 1.25, 1.5, 1.75, 2.0)
_EPISODES, _WAYS, _QUERIES = 1000, 5, 10
_AT_ONCE = 100


def predicted_kernel(
    inputs: Tensor, teacher_features: Iterable[Tensor], weights: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """The inner product of what teachers are predicted to see, and the cosines of what they do see, float32 [n, n].

    Each teacher's features are predicted by ridge regression with a free intercept; the penalty is a thousandth of the
    mean variance of the inputs, times the number of images (between a ten-thousandth and a tenth nothing changed by
    more than half a point).

    Args:
        inputs: `normalised_inputs` of the meta-model's features of some images, float64 [n, d + 1].
        teacher_features: of the same images, each of length 1, [n, any size], by one teacher after the other; asked for
            once, and not kept.
        weights: of the teachers in the mean, above 0.
    """
    inputs = inputs[:, :-1]
    mean = inputs.mean(0)
    centred = inputs - mean
    gram = centred.T @ centred
    ridge = (_RIDGE * gram.diagonal().mean()).clamp_min(torch.finfo(gram.dtype).tiny)
    solver = torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), centred.T)
    kernel, cosines = gram.new_zeros(len(gram) + 1, len(gram) + 1), torch.zeros(len(inputs), len(inputs))
    for weight, seen in zip(weights, teacher_features, strict=True):
        seen = seen.cpu().double()
        slope = solver @ (seen - seen.mean(0))
        augmented = torch.cat([slope, (seen.mean(0) - mean @ slope)[None]])
        kernel += weight * (augmented @ augmented.T)
        cosines += weight * (seen.float() @ seen.float().T)
    return kernel / sum(weights), cosines / sum(weights)


def related_kernel(kernel: Tensor, inputs: Tensor, cosines: Tensor, random: torch.Generator) -> Tensor:
    """Descend from a kernel to one by which images are as alike as `cosines` says (Adam on `relational_loss`).

    Args:
        kernel: to begin with, [d + 1, d + 1].
        inputs: float64 [n, d + 1], n at least 2.
        cosines: of these images, float32 [n, n].
        random: source of the batches.
    """
    shown = inputs.float()
    root = _Powers(kernel).to(0.5).float().requires_grad_(True)
    optimiser = torch.optim.Adam([root], lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
    with torch.enable_grad():
        for _ in range(_STEPS):
            batch = torch.randperm(len(shown), generator=random)[:_BATCH]
            optimiser.zero_grad()
            relational_loss(shown[batch] @ root, cosines[batch][:, batch]).backward()
            optimiser.step()
            schedule.step()
    found = root.detach().double()
    return found @ found.T


def sharpened_kernel(kernel: Tensor, inputs: Tensor, labels: Tensor, random: torch.Generator) -> Tensor:
    """A power of a kernel, from 1 to 2, by which the nearest of some images of its kind says well what one shows.

    The higher the power, the more do those directions count that images differ in most. Judged by episodes of recovered
    images, five classes of one image each, 10 more to be told. Since the meta-model knows these images, the best power
    is too high: it is the least one whose accuracy is within a standard error of the best (Breiman et al. 1984).

    Args:
        kernel: [d + 1, d + 1].
        inputs: float64 [n, d + 1].
        labels: whole numbers, one for each class of each teacher, [n].
        random: source of the episodes.
    """
    episodes = _episodes(labels, random)
    if episodes is None:
        return kernel
    powers = _Powers(kernel)
    accuracies = {power: _accuracies(inputs @ powers.to(power / 2), *episodes) for power in _POWERS}
    best = max(accuracies.values(), key=lambda own: float(own.mean()))
    enough = float(best.mean() - best.std() / len(best) ** 0.5)
    return powers.to(next(power for power in _POWERS if float(accuracies[power].mean()) >= enough))


def _accuracies(seen: Tensor, support: Tensor, queries: Tensor) -> Tensor:
    """In percent, of each episode: float64 [episodes]; see `_episodes`."""
    seen = functional.normalize(seen, dim=1).float()
    right = torch.arange(support.shape[1]).repeat_interleave(queries.shape[1] // support.shape[1])
    return torch.cat(
        [
            accuracy(seen[asked] @ seen[shown].mT, right)
            for shown, asked in zip(support.split(_AT_ONCE), queries.split(_AT_ONCE), strict=True)
        ]
    )


def _episodes(labels: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor] | None:
    """Places of support images [episodes, ways] and queries [episodes, ways * queries], class by class."""
    of_class = [(labels == label).nonzero().flatten() for label in labels.unique()]
    of_class = [own for own in of_class if len(own) > 1]
    if len(of_class) < 2:
        return None
    ways, queries = min(_WAYS, len(of_class)), min(_QUERIES, *(len(own) - 1 for own in of_class))
    drawn = []
    for _ in range(_EPISODES):
        chosen = torch.randperm(len(of_class), generator=random)[:ways].tolist()
        own = [of_class[index] for index in chosen]
        drawn.append(torch.stack([some[torch.randperm(len(some), generator=random)[: queries + 1]] for some in own]))
    places = torch.stack(drawn)
    return places[:, :, 0], places[:, :, 1:].flatten(1)


class _Powers:
    """Of a kernel, float64 [d + 1, d + 1], which is decomposed once."""

    def __init__(self, kernel: Tensor) -> None:
        values, self._directions = torch.linalg.eigh(kernel.double())
        self._values = values.clamp_min(0)

    def to(self, power: float) -> Tensor:
        return (self._directions * self._values.pow(power)) @ self._directions.T
