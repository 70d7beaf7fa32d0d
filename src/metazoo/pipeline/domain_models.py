"""The stage that makes a specialist of every kind of images from the meta-model."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from metazoo.bank import ResidentBank, ResidentBanks
from metazoo.execution.randomness import generator, seed_of
from metazoo.features.domain_router import fitted_recogniser
from metazoo.features.embedders import Embedder, MultiDomainClassifier, SideBySide
from metazoo.learn.learning_config import LearningConfig
from metazoo.models import ImageClassifier
from metazoo.pipeline.learning_stage import learn_from_groups
from metazoo.pipeline.workspace import Workspace
from metazoo.taskspace import Partition
from metazoo.zoo import Zoo

_LEAST_GENERAL = 0.05


def with_specialists(
    workspace: Workspace,
    banks: ResidentBanks,
    grouping: Partition,
    classifier: ImageClassifier,
    kinds: Mapping[str, Sequence[int]],
    learning: LearningConfig,
    images: int,
    weights: Tensor | None,
) -> MultiDomainClassifier:
    """What comes of the meta-model where it goes on to learn from one kind of images alone, for each of them.

    A specialist learns from the teachers of its kind, in what is left of their groups.

    Args:
        workspace: see there.
        banks: of the images of all teachers.
        grouping: of all teachers.
        classifier: that has learned from all of them, on the CPU.
        kinds: the teachers (their places in the zoo) of each, two or more.
        learning: of a specialist.
        images: of a kind that it is told by, at most.
        weights: of the teachers, above 0, [teachers]; None if all count alike.
    """
    zoo, specialists = workspace.zoo, []
    for number, (kind, own) in enumerate(kinds.items(), 1):
        part = Zoo(zoo.folder, [zoo.contracts[index] for index in own])
        specialists.append(
            learn_from_groups(
                dataclasses.replace(workspace, zoo=part, seed=seed_of(workspace.seed, "specialist", kind)),
                banks,
                grouping.within(own),
                learning,
                classifier,
                None if weights is None else weights[list(own)],
                stage=f"specialist-{number}",
            )
        )
    bank = banks.at(classifier.spec.input_size, [contract.name for contract in zoo])
    embedder = SideBySide(specialists).to(workspace.compute.device)
    with torch.no_grad():
        shown = [
            _features(embedder, bank, _places(bank, own, images), generator(workspace.seed, "softness", kind))
            for kind, own in kinds.items()
        ]
    embedder.cpu()
    weights = torch.ones(len(zoo)) if weights is None else weights
    general = [_general_share(weights[list(own)]) for own in kinds.values()]
    recogniser = fitted_recogniser([*kinds], shown, general)
    return MultiDomainClassifier([*specialists, *([classifier] if recogniser.is_general else [])], recogniser).eval()


def _general_share(weights: Tensor) -> float:
    """Share of the general network in a kind of models of these weights: 2 over their squared effective number.

    None where that is less than 5 %, from 7 models on.
    """
    share = float(2 * weights.square().sum().square() / weights.sum() ** 4)
    return min(1.0, share) if share >= _LEAST_GENERAL else 0.0


def _places(bank: ResidentBank, teachers: Sequence[int], images: int) -> Tensor:
    """Places of at most so many images (but one of each teacher), the same number of each, evenly over its own."""
    parts = []
    for own in map(bank.places_of, teachers):
        count = min(own.stop - own.start, max(1, images // len(teachers)))
        parts.append(torch.linspace(own.start, own.stop - 1, count).long())
    return torch.cat(parts)


def _features(embedder: Embedder, bank: ResidentBank, places: Tensor, random: torch.Generator) -> Tensor:
    """Of the images at `places`, half of them as they are and half softened by chance."""
    strengths = (2 * torch.rand(len(places), generator=random) - 1).clamp(min=0)
    features = []
    for part in bank.in_parts(torch.arange(len(places))):
        images = bank.pixels(places[part])
        features.append(embedder.features(softened(images, strengths[part].to(images.device))).cpu())
    return torch.cat(features)


def softened(images: Tensor, strengths: Tensor) -> Tensor:
    """What lies between images and their means over 3 x 3 pixels, binomially weighed.

    Inversion makes images sharper than real ones, and soft images of one kind would be taken for another.

    Args:
        images: [n, c, h, w], any range.
        strengths: of each, from 0 (as it is) to 1, [n].
    """
    channels = images.shape[1]
    weights = torch.tensor([0.25, 0.5, 0.25]).to(images)
    kernel = torch.outer(weights, weights).expand(channels, 1, 3, 3)
    means = functional.conv2d(functional.pad(images, (1,) * 4, mode="replicate"), kernel, groups=channels)
    return torch.lerp(images, means, strengths.view(-1, 1, 1, 1))
