"""The stage that makes per-domain models from the meta-model; any method may add it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from metazoo.bank import ResidentBank, ResidentBanks
from metazoo.execution.randomness import generator, seed_of
from metazoo.features.domain_router import fitted_recogniser
from metazoo.features.embedders import Embedder, MultiDomainClassifier, SideBySide
from metazoo.models import ImageClassifier
from metazoo.pipeline.workspace import Workspace
from metazoo.zoo import Zoo

_LEAST_GENERAL = 0.05


LearnPart = Callable[[Workspace, Sequence[int], str], ImageClassifier]
"""Function that continues learning on a part of the zoo, from a copy of the meta-model. Its arguments are the workspace
of the part, the ascending indices of its models in the whole zoo, and the name of the stage."""


def with_domain_models(
    workspace: Workspace,
    banks: ResidentBanks,
    classifier: ImageClassifier,
    domains: Mapping[str, Sequence[int]],
    learn: LearnPart,
    images: int,
    weights: Tensor | None = None,
) -> MultiDomainClassifier:
    """Continue learning for each domain alone, and fit the recogniser of the domains.

    Args:
        workspace: run at work; its zoo has the teachers.
        banks: images of all teachers.
        classifier: meta-model of all teachers, on the CPU.
        domains: indices of the teachers of each domain, by name; two domains or more.
        learn: function that trains one per-domain model.
        images: most images that a domain is recognised by.
        weights: weights of the teachers, above 0, [teachers]; None if all count alike.
    """
    zoo, models = workspace.zoo, []
    domains = {domain: sorted(own) for domain, own in domains.items()}  # as the models of a part are ordered
    for number, (domain, own) in enumerate(domains.items(), 1):
        part = Zoo(zoo.folder, [zoo.contracts[index] for index in own])
        at_work = dataclasses.replace(workspace, zoo=part, seed=seed_of(workspace.seed, "specialist", domain))
        models.append(learn(at_work, own, f"specialist-{number}"))
    bank = banks.at(classifier.spec.input_size, [contract.name for contract in zoo])
    embedder = SideBySide(models).to(workspace.compute.device)
    with torch.no_grad():
        shown = [
            _features(embedder, bank, _indices(bank, own, images), generator(workspace.seed, "softness", domain))
            for domain, own in domains.items()
        ]
    embedder.cpu()
    weights = torch.ones(len(zoo)) if weights is None else weights
    general = [_general_share(weights[list(own)]) for own in domains.values()]
    recogniser = fitted_recogniser([*domains], shown, general)
    return MultiDomainClassifier([*models, *([classifier] if recogniser.is_general else [])], recogniser).eval()


def _general_share(weights: Tensor) -> float:
    """Share of the general network in a domain of models of these weights: 2 over their squared effective number.

    A share below 5 %, which 7 models and more have, becomes 0.
    """
    share = float(2 * weights.square().sum().square() / weights.sum() ** 4)
    return min(1.0, share) if share >= _LEAST_GENERAL else 0.0


def _indices(bank: ResidentBank, teachers: Sequence[int], images: int) -> Tensor:
    """Indices of at most `images` images, at least one per teacher: equally many of each, evenly spaced."""
    parts = []
    for own in map(bank.indices_of, teachers):
        count = min(own.stop - own.start, max(1, images // len(teachers)))
        parts.append(torch.linspace(own.start, own.stop - 1, count).long())
    return torch.cat(parts)


def _features(embedder: Embedder, bank: ResidentBank, indices: Tensor, random: torch.Generator) -> Tensor:
    """Features of the images at `indices`, half of them unchanged, the others softened by random strengths."""
    strengths = (2 * torch.rand(len(indices), generator=random) - 1).clamp(min=0)
    features = []
    for part in bank.in_parts(torch.arange(len(indices))):
        images = bank.pixels(indices[part])
        features.append(embedder.features(softened(images, strengths[part].to(images.device))).cpu())
    return torch.cat(features)


def softened(images: Tensor, strengths: Tensor) -> Tensor:
    """Interpolate between images and their binomially weighted means over 3 x 3 pixels.

    Inverted images are sharper than real ones; without softening, soft images would count as another domain.

    Args:
        images: [n, c, h, w], any range.
        strengths: strengths from 0 (unchanged) to 1 (the means), [n].
    """
    channels = images.shape[1]
    weights = torch.tensor([0.25, 0.5, 0.25]).to(images)
    kernel = torch.outer(weights, weights).expand(channels, 1, 3, 3)
    means = functional.conv2d(functional.pad(images, (1,) * 4, mode="replicate"), kernel, groups=channels)
    return torch.lerp(images, means, strengths.view(-1, 1, 1, 1))
