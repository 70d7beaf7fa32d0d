"""Trust in the models of a zoo, without data, from how well models separate the classes of each other's images.

A model is *recognised by others* if their features separate the classes of the images recovered from it, and it
*recognises others* if its features separate the classes of theirs. A model with shuffled labels, with random weights or
of a foreign domain (TDR-DFML, TPAMI, names the latter two) does neither. As there may be many such models, every
judgement is weighted by the trust in the judge. Trust is the fixed point of this, like hubs and authorities on a graph
(Kleinberg 1999).

Images of another domain are harder to separate for every model, and some domains are easier than others. So judges of
the same domain weigh more, and every skill is divided by the usual skill between the two domains. The divisor is at
least three quarters of the usual skill within domains for models of one domain, and half of it for models of two, so
that a domain of bad models is not excused.

Trust is agreement with the zoo: where most models are bad in the same way, the honest ones score low.

Measured (30 images per class, 50 iterations) on 12 Conv4 of glyphs and 18 bad ones, a third each of shuffled labels,
random weights, and other domains: the area under the ROC curve of this score is 1.00. Three other figures are not part
of the score: the share of its images that a model itself recognises has 0.50 and their batch-norm distance 0.53, since
recovery from models of shuffled labels works *better* than from honest ones; and how well the others' features predict
those of a model has 0.58, since features of foreign and random models are easy to predict. On 20 Conv4 of CIFAR-FS and
14 bad ones the score has 0.97: models of traffic signs look like weak honest ones. Honest models scored 0.82 to 1.00
(glyphs) and 0.60 to 1.00 (CIFAR-FS), with or without bad ones. On 8 honest and 9 bad Conv4 in each of three domains the
score has 0.97, and 0.90 if all are of one domain.
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
_LEAST_WITHIN, _LEAST_BETWEEN = 0.75, 0.5  # relative to the usual skill within; honest domains have 0.51 to 0.72
_TIE = 1e-9  # a model of constant features must not be right by rounding


@dataclass(frozen=True, eq=False)
class Trust:
    """Figures of N models, float64 [N] each.

    Attributes:
        score: trust in [0, 1], relative to the most trusted model of the zoo, which has 1.
        recognised_by_others: mean skill of others on the images of this model, from 0 (chance) to 1; NaN if unknown.
        recognises_others: mean skill of this model on the images of others, in the same units.
    """

    score: Tensor
    recognised_by_others: Tensor
    recognises_others: Tensor


def nearest_mean_skill(features: Tensor, labels: Tensor) -> float:
    """Leave-one-out accuracy of the nearest class mean by cosine, rescaled so that chance is 0.

    Args:
        features: features, float [n, d].
        labels: labels, int64 [n]; classes of a single image are ignored.

    Returns:
        Skill from 0, chance or less, to 1, no error; NaN if fewer than two classes have two images.
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
    """Indices of the models that each of `count` models judges: all others, or `partners` of them.

    In a zoo of more than `partners` + 1 models each judges `partners` others and is judged by as many, drawn by `seed`.
    """
    order = torch.randperm(count, generator=generator(seed, "trust", "partners")).tolist()
    position_of = {model: position for position, model in enumerate(order)}
    steps = range(1, min(partners, count - 1) + 1)
    return [[order[(position_of[judge] + step) % count] for step in steps] for judge in range(count)]


@torch.no_grad()
def skill_on(features: Callable[[Tensor], Tensor], bank: ResidentBank, images_per_class: int) -> float:
    """Skill of a model in separating the classes of the recovered images of the first model in `bank`.

    Args:
        features: function from float images [n, 3, side, side] in [0, 1] to features [n, d].
        bank: recovered images.
        images_per_class: most images used per class, the first ones.

    Returns:
        Skill from 0 to 1 or NaN; see `nearest_mean_skill`.
    """
    own = bank.indices_of(0)
    indices = first_of_each(bank.labels[own], images_per_class)
    found = torch.cat([features(bank.pixels(part)).cpu() for part in bank.in_parts(indices)])
    return nearest_mean_skill(found, bank.labels[indices])


def trust_of(skill: Tensor, domains: Sequence[str] | None = None, duplicates: Sequence[Sequence[int]] = ()) -> Trust:
    """Compute trust from skills.

    The score is the geometric mean of the skills of others on a model's images and of its skills on theirs. A skill is
    weighted by the fourth power of the score of the other model: at 60 % bad models the first power leaves bad ones at
    up to 0.74 of the best, the fourth at 0.59, and higher powers change little. Skills between two domains weigh a
    twentieth.

    For the score, every skill is divided by the usual skill: within a domain its mean, at least three quarters of the
    mean within all domains; between two domains the mean between them (for a domain of a single model, between all), at
    least half of the mean within all domains. These means are weighted by the scores of both models.

    If one of the two factors is unknown (a model of one class), the other one is used alone. The score is 1 if both are
    unknown, or if all skills are 0.

    Args:
        skill: skills, float64 [N, N]; rows are the models whose images are judged, columns the judges; NaN on the
            diagonal and for pairs without a judgement. See `skill_on`.
        domains: domains of the N models; None: one domain.
        duplicates: groups of models that are copies of one another, as indices. Judgements between copies are ignored,
            and a group weighs as one model.

    Raises:
        DataError: `skill` is not a square matrix of values in [0, 1] and NaN.
    """
    if skill.ndim != 2 or skill.shape[0] != skill.shape[1] or bool(((skill < 0) | (skill > 1)).any()):
        raise DataError("skill", f"must be a square matrix of values in [0, 1] and NaN, not {list(skill.shape)}")
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
    """Membership of the models in domains of two or more models, float64 [N, domains]."""
    several = [name for name, count in Counter(domains).items() if count > 1]
    return torch.tensor([[own == name for name in several] for own in domains], dtype=torch.float64)


def _usual(values: Tensor, known: Tensor, weights: Tensor, members: Tensor, own: Tensor) -> Tensor:
    """Usual skill between the domains of each pair of models, [N, N], above 0; see `trust_of`."""
    trusted = torch.outer(weights, weights) * known
    tiny = torch.finfo(trusted.dtype).tiny
    sums = trusted * values
    within, between = (sums[pairs].sum() / trusted[pairs].sum().clamp_min(tiny) for pairs in (own, ~own))
    means = (members.T @ sums @ members) / (members.T @ trusted @ members).clamp_min(tiny)
    several = members.sum(1)
    usual = torch.where(torch.outer(several, several) > 0, members @ means @ members.T, between)
    return usual.maximum(torch.where(own, _LEAST_WITHIN, _LEAST_BETWEEN) * within).clamp_min(tiny)


def _means(values: Tensor, active: Tensor, weights: Tensor) -> Tensor:
    """Means [N] of the rows, weighted by `active` and `weights`; NaN for a row without weight."""
    total = active @ weights
    means = (active * values) @ weights / total.clamp_min(torch.finfo(total.dtype).tiny)
    return torch.where(active.any(1), means, torch.nan)
