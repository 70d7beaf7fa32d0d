"""Evidence of a support set about its classifier: held-out predictions, calibration, a threshold for unknown images.

Support images are held out in at most ten folds, with about equally many images of each class, so that the remaining
classes keep their balance.
(Leaving out a single image instead puts its own class at a disadvantage: with two images per class, accuracy is
underestimated and a fitted temperature is useless.) A class with a single image is never held out.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from metazoo.features.heads import FittedHead
from metazoo.features.heads.fitted import scaled
from metazoo.features.heads.head import class_means

_MOST_FOLDS = 10
_FEWEST_SCORES = 3
_CERTAIN, _DOUBTFUL = 0.5, 0.2


class Fold(NamedTuple):
    """A head fitted without some support images.

    Attributes:
        fitted: head.
        kept: features of the images that it was fitted to.
        held: features of the other images.
    """

    fitted: FittedHead
    kept: Float[Tensor, "n features"]
    held: Float[Tensor, "m features"]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Predictions for support images by classifiers that were fitted without them.

    Attributes:
        folds: number of these classifiers.
        rows: index of each image in the support.
        labels: class of each image.
        logits: logits at temperature 1.
        familiarity: largest cosine of each image with a class mean.
    """

    folds: int
    rows: Int64[Tensor, " m"]
    labels: Int64[Tensor, " m"]
    logits: Float[Tensor, "m ways"]
    familiarity: Float[Tensor, " m"]

    @property
    def correct(self) -> int:
        """Number of images whose class was predicted."""
        return int((self.logits.argmax(1) == self.labels).sum())

    def loss(self, temperature: float) -> float:
        """Mean cross-entropy in nats."""
        return float(functional.cross_entropy(self.logits / temperature, self.labels))

    def confused(self) -> list[tuple[int, int, int]]:
        """Pairs of classes that were confused, as (class, class, images), the most frequent first."""
        pairs = zip(self.labels.tolist(), self.logits.argmax(1).tolist(), strict=True)
        counts = Counter(tuple(sorted(pair)) for pair in pairs if pair[0] != pair[1])
        return [(low, high, count) for (low, high), count in sorted(counts.items(), key=lambda own: (-own[1], own[0]))]

    def doubtful(self, temperature: float) -> list[tuple[int, int, float]]:
        """Images that look mislabelled, as (row, predicted class, its probability), the most probable first.

        Another class has at least half of the probability, and the given one at most a fifth.
        """
        probabilities = (self.logits / temperature).softmax(1)
        own = probabilities.gather(1, self.labels.unsqueeze(1)).squeeze(1)
        best, predicted = probabilities.max(1)
        chosen = ((best >= _CERTAIN) & (own <= _DOUBTFUL)).nonzero().squeeze(1).tolist()
        found = [(int(self.rows[i]), int(predicted[i]), float(best[i])) for i in chosen]
        return sorted(found, key=lambda image: (-image[2], image[0]))


def hold_out(labels: Int64[Tensor, " n"], ways: int, fit: Callable[[Tensor, Tensor], Fold]) -> HeldOut | None:
    """Predict every support image of a class with several images by a head that was fitted without it.

    The fold of an image is its number within its class; there are as many folds as images of the largest class, and at
    most ten.

    Args:
        labels: labels of the support images.
        ways: number of classes.
        fit: function of the rows that are kept and the rows that are held out.

    Returns:
        None if all classes have a single image.
    """
    counts = torch.bincount(labels, minlength=ways)
    folds = min(int(counts.max()), _MOST_FOLDS)
    if folds < 2:
        return None
    fold_of = torch.full_like(labels, -1)
    for label in range(ways):
        if counts[label] > 1:
            fold_of[labels == label] = torch.arange(int(counts[label])) % folds
    rows, logits, familiar = list[Tensor](), list[Tensor](), list[Tensor]()
    for number in range(folds):
        held, kept = (fold_of == number).nonzero().squeeze(1), (fold_of != number).nonzero().squeeze(1)
        fold = fit(kept, held)
        means = familiar_means(fold.kept, labels[kept], ways, fold.fitted.scale)
        rows.append(held)
        logits.append(fold.fitted.logits(fold.held).cpu())
        familiar.append(familiarity(fold.held, means, fold.fitted.scale).cpu())
    every = torch.cat(rows)
    return HeldOut(folds, every, labels[every], torch.cat(logits), torch.cat(familiar))


def familiar_means(
    features: Float[Tensor, "n features"], labels: Int64[Tensor, " n"], ways: int, scale: Tensor | None
) -> Float[Tensor, "{ways} features"]:
    """Class means of normalised features, of length 1, after the factors `scale`."""
    return functional.normalize(class_means(scaled(features, scale), labels, ways), dim=1)


def familiarity(
    features: Float[Tensor, "n features"], means: Float[Tensor, "ways features"], scale: Tensor | None
) -> Float[Tensor, " n"]:
    """Largest cosine of each feature with a class mean, in [-1, 1]."""
    return (functional.normalize(scaled(features, scale), dim=1) @ means.T).amax(1)


def fitted_temperature(held_out: HeldOut | None, prior: float) -> float:
    """Temperature with the least cross-entropy on held-out images, drawn towards `prior`.

    The square of the logarithm of the ratio to `prior` is added to the sum of the cross-entropies (Guo et al. 2017
    without the penalty, which keeps a handful of images from giving extreme temperatures). The minimum is sought on a
    grid of 121 temperatures from a thirtieth to the thirtyfold of `prior`.
    """
    if held_out is None:
        return prior
    logarithms = torch.linspace(-1, 1, 121, dtype=torch.float64) * torch.tensor(30.0, dtype=torch.float64).log()
    scaled = held_out.logits.double().unsqueeze(0) / (prior * logarithms.exp()).reshape(-1, 1, 1)
    chosen = scaled.log_softmax(2)[:, torch.arange(len(held_out.labels)), held_out.labels]
    return float(prior * logarithms[int((logarithms.square() - chosen.sum(1)).argmin())].exp())


def unknown_threshold(
    held_out: HeldOut | None,
    means: Float[Tensor, "ways features"],
    rate: float,
) -> float | None:
    """Familiarity below which an image belongs to none of the classes; None if there are too few images to tell.

    The logarithm of one minus the familiarity of the held-out images is taken as normally distributed, and the
    threshold is its quantile: about the share `rate` of the images of known classes is rejected. If fewer than three
    images can be held out, the familiarity of the class means with the other classes is used, which errs towards
    accepting.

    Args:
        held_out: held-out predictions.
        means: see `familiar_means`.
        rate: share in (0, 1).
    """
    if held_out is not None and len(held_out.familiarity) >= _FEWEST_SCORES:
        scores = held_out.familiarity
    else:
        cosines = means @ means.T
        cosines.fill_diagonal_(-1.0)
        scores = cosines.amax(1).cpu()
    if len(scores) < _FEWEST_SCORES:
        return None
    distances = (1 - scores.double()).clamp(min=1e-6).log()
    quantile = float(distances.mean()) + NormalDist().inv_cdf(1 - rate) * float(distances.std())
    return 1 - float(torch.tensor(quantile, dtype=torch.float64).exp())
