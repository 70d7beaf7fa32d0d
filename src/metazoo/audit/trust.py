"""Which models of a zoo to doubt, without data: what the others make of a model's images, and it of theirs.

A model *claims* that the images recovered from it show its classes. Others agree if their features tell those classes
apart; and a model *serves* if its features tell apart what the others claim. A model with shuffled labels, of random
weights or of a foreign domain (TDR-DFML, TPAMI, names the latter two) makes claims that nobody sees, and sees nobody's.
As the doubtful may be many, every opinion weighs as much as its holder is trusted, which is what is being computed: a
fixed point, as hubs and authorities on a graph (Kleinberg 1999).

Images of another domain are harder to tell apart for every model, and those of one domain can be easier than those of
another. So models of its own domain judge a model before others, and every opinion counts by how it stands to what is
usual between the two domains. That there is little to expect of a domain is half an excuse: at least three quarters of
what is usual within the domains of the zoo count, or half of it between two.

Trust is agreement with the zoo: where most models are bad in one way, the honest ones are doubted.

Measured (30 images a class, 50 iterations) on 12 Conv4 of glyphs and 18 bad ones, a third each of shuffled labels,
random weights, and other domains: area under the ROC curve of this score 1.00; of the share of its images that a model
itself recognises 0.50, and of their batch-norm distance 0.53, since models of shuffled labels recover *better* than
honest ones; of how well the others' features predict a model's 0.58, since those of foreign and random ones are easy.
So none of these is part of the score. On 20 Conv4 of CIFAR-FS and 14 bad ones 0.97: models of traffic signs pass for
weak honest ones. Honest models scored 0.82 to 1.00 (glyphs) and 0.60 to 1.00 (CIFAR-FS), with or without bad ones. On 8
honest and 9 bad Conv4 each of three domains 0.97; were all taken to be of one domain, 0.90.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from metazoo.bank import ResidentBank
from metazoo.data.images import first_of_each
from metazoo.errors import DataError
from metazoo.execution.randomness import generator

_POWER, _ROUNDS = 4, 100
_OF_ANOTHER_DOMAIN = 0.05
_LEAST_WITHIN, _LEAST_BETWEEN = 0.75, 0.5  # of what is usual within; between honest ones measured 0.51 to 0.72
_TIE = 1e-9  # a model that answers everything alike must not be right by rounding


@dataclass(frozen=True, eq=False)
class Trust:
    """Figures of N models, float64 [N] each.

    Attributes:
        score: score in [0, 1], relative to the most trusted model of the zoo, which has 1.
        recognised_by_others: mean skill of the other models on this model's images, in [0, 1]; 0 is chance, NaN unknown.
        recognises_others: mean skill of this model on the images of the others, in the same units.
    """

    score: Tensor
    recognised_by_others: Tensor
    recognises_others: Tensor


def nearest_mean_skill(features: Tensor, labels: Tensor) -> float:
    """How well features separate labels: accuracy of the nearest class mean by cosine, each image left out of its own.

    Args:
        features: float [n, d].
        labels: int64 [n]; classes of a single image are left out.

    Returns:
        0 for chance or less, 1 for no mistake; NaN if fewer than two classes have two images.
    """
    _, labels, counts = labels.unique(return_inverse=True, return_counts=True)
    several = counts[labels] > 1
    classes = int((counts > 1).sum())
    if classes < 2:
        return float("nan")
    directions = functional.normalize(features[several].double(), dim=1)
    members = functional.one_hot(labels[several].unique(return_inverse=True)[1], classes)
    sums = members.T.double() @ directions
    similarities = directions @ functional.normalize(sums, dim=1).T
    without_itself = functional.normalize(members.double() @ sums - directions, dim=1)
    own = members.bool()
    right = (without_itself * directions).sum(1) > similarities.masked_fill(own, -2).amax(1) + _TIE
    accuracy = float(right.double().mean())
    return max(0.0, (accuracy * classes - 1) / (classes - 1))


def partners_of(count: int, partners: int, seed: int) -> list[list[int]]:
    """The models that each of `count` models judges, by their indices: all others, or as many as `partners`.

    In a zoo of more than `partners` + 1 models each judges, and is judged by, that many others, drawn once by `seed`.
    """
    order = torch.randperm(count, generator=generator(seed, "trust", "partners")).tolist()
    place = {model: position for position, model in enumerate(order)}
    steps = range(1, min(partners, count - 1) + 1)
    return [[order[(place[judge] + step) % count] for step in steps] for judge in range(count)]


@torch.no_grad()
def skill_on(features: Callable[[Tensor], Tensor], bank: ResidentBank, images_per_class: int) -> float:
    """How well a model's features separate the classes of the recovered images of the first model in `bank`.

    Args:
        features: function of float images [n, 3, side, side] in [0, 1] that returns features [n, d].
        bank: see above.
        images_per_class: images of a class that are used, at most; the first ones.

    Returns:
        As `nearest_mean_skill`.
    """
    own = bank.indices_of(0)
    places = first_of_each(bank.labels[own], images_per_class)
    found = torch.cat([features(bank.pixels(part)).cpu() for part in bank.in_parts(places)])
    return nearest_mean_skill(found, bank.labels[places])


def trust_of(skill: Tensor, domains: Sequence[str] | None = None, duplicates: Sequence[Sequence[int]] = ()) -> Trust:
    """Trust from skills: the square root of claims times service, each weighed by the trust of who says so.

    The opinion of a model of another domain weighs a twentieth. For the score every skill is divided by what is usual:
    within a domain the mean there or, if that is greater, three quarters of the mean within all; between two the mean
    there (of single models between all) or, if that is greater, half the mean within all. These means are weighed by
    the trust of both.

    An opinion weighs as the fourth power of its holder's score: at 60 % bad models the first power leaves bad ones at
    up to 0.74 of the best, the fourth at 0.59, higher ones change little.

    A model that nobody could ask or that could ask nobody (one class only) has the half that is known; one of which
    nothing is known, or in a zoo where nobody tells anything apart, has score 1: nothing speaks against it.

    Args:
        skill: float64 [N, N], row the model whose images they are, column whose features; NaN on the diagonal and where
            nobody was asked. See `skill_on`.
        domains: domains of the N models; None: all are of one.
        duplicates: groups of models that are copies of one another, by their indices. What copies say of each other is
            ignored, and the opinions of a group weigh as much as those of one model.

    Raises:
        DataError: `skill` is not a square matrix of values in [0, 1] and NaN.
    """
    if skill.ndim != 2 or skill.shape[0] != skill.shape[1] or bool(((skill < 0) | (skill > 1)).any()):
        raise DataError(f"trust is computed from a square matrix of skills in [0, 1], not {list(skill.shape)}")
    copies, shares = torch.eye(len(skill), dtype=torch.bool), torch.ones(len(skill), dtype=torch.float64)
    for group in duplicates:
        copies[torch.tensor(group)[:, None], torch.tensor(group)] = True
        shares[list(group)] = 1 / len(group)
    known = (skill.isfinite() & ~copies).double()
    values = torch.where(known > 0, skill.double(), 0.0)
    domains = domains or [""] * len(skill)
    members = _members(domains)
    own = torch.tensor([[one == other for other in domains] for one in domains])
    active = torch.where(own, known, _OF_ANOTHER_DOMAIN * known)
    score, weights = torch.ones_like(shares), shares
    for _ in range(_ROUNDS):
        weights = shares * score**_POWER
        relative = values / _usual(values, known, weights, members, own)
        by_others, of_others = _means(relative, active, weights), _means(relative.T, active.T, weights)
        product = torch.where(by_others.isnan(), of_others, by_others)
        product *= torch.where(of_others.isnan(), by_others, of_others)
        found = product.sqrt()
        best = float(found.nan_to_num(0.0).max()) if len(found) else 0.0
        if best == 0:
            score = torch.ones_like(score)
            break
        score = (found / best).nan_to_num(1.0)
    return Trust(score, _means(values, active, weights), _means(values.T, active.T, weights))


def _members(domains: Sequence[str]) -> Tensor:
    """Which models are of each domain of two or more, float64 [N, domains]."""
    several = [name for name, count in Counter(domains).items() if count > 1]
    return torch.tensor([[own == name for name in several] for own in domains], dtype=torch.float64)


def _usual(values: Tensor, known: Tensor, weights: Tensor, members: Tensor, own: Tensor) -> Tensor:
    """What is usual between the domains of each pair of models [N, N], above 0: see `trust_of`."""
    trusted = torch.outer(weights, weights) * known
    tiny = torch.finfo(trusted.dtype).tiny
    sums = trusted * values
    within, between = (sums[pairs].sum() / trusted[pairs].sum().clamp_min(tiny) for pairs in (own, ~own))
    means = (members.T @ sums @ members) / (members.T @ trusted @ members).clamp_min(tiny)
    several = members.sum(1)
    usual = torch.where(torch.outer(several, several) > 0, members @ means @ members.T, between)
    return usual.maximum(torch.where(own, _LEAST_WITHIN, _LEAST_BETWEEN) * within).clamp_min(tiny)


def _means(values: Tensor, active: Tensor, weights: Tensor) -> Tensor:
    """Means [N] of the rows by `active` and `weights`; NaN where nothing is active."""
    total = active @ weights
    means = (active * values) @ weights / total.clamp_min(torch.finfo(total.dtype).tiny)
    return torch.where(active.any(1), means, torch.nan)
