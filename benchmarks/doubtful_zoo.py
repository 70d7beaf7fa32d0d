"""A zoo with bad models planted in it, as they come by accident or malice.

Three kinds in turn, each under the class names and the accuracy of an honest model:

- `shuffled`: an honest network trained on images of honest classes whose labels were shuffled, until it knows many of
  them by heart;
- `random`: untrained weights (methods: "deceptive accuracy"), or those of an honest model drowned in noise, in turn;
- `foreign`: trained honestly, but on images of another domain ("deceptive labels").
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from metazoo.data import ImageSet, split_images
from metazoo.data.images import draw_of_each
from metazoo.execution.randomness import generator
from metazoo.models import ImageClassifier, build_classifier
from metazoo.zoo import ModelContract, TrainingConfig, Zoo
from metazoo.zoo.building.classifier_training import train_classifier, with_pixel_statistics

KINDS = ("shuffled", "random", "foreign")
_NOISE = 3.0
_SHUFFLED_IMAGES, _SHUFFLED_EPOCHS = 100, 60
_FOREIGN_EPOCHS = 15


def plant(honest: Zoo, folder: Path, bad: int, images: ImageSet, foreign: Sequence[ImageSet], seed: int = 0) -> Zoo:
    """The zoo at `folder`: all models of `honest`, and `bad` ones, `bad-NUMBER-KIND`; what is there stays.

    Args:
        honest: models of at least as many classes as are drawn from `images` and `foreign`.
        folder: of the planted zoo.
        bad: how many.
        images: of the domain of the honest models.
        foreign: of other domains, taken in turn.
        seed: of all draws.
    """
    zoo = Zoo.create(folder)
    present = {contract.name for contract in zoo}
    for contract in honest:
        if contract.name not in present:
            classifier = honest.teacher(contract.name).classifier
            zoo.store(contract.name, classifier, class_names=contract.class_names, domain=contract.domain)
    for number in range(bad):
        kind, turn = KINDS[number % len(KINDS)], number // len(KINDS)
        name = f"bad-{number:02d}-{kind}"
        if name in present:
            continue
        mask = honest.contracts[number % len(honest)]
        random = generator(seed, "doubtful", kind, number)
        make: dict[str, Callable[[], ImageClassifier]] = {
            "shuffled": functools.partial(_shuffled, mask, images, random),
            "random": functools.partial(_random if turn % 2 == 0 else _drowned, honest, mask, random),
            "foreign": functools.partial(_foreign, mask, foreign[turn % len(foreign)], random),
        }
        zoo.store(name, make[kind](), class_names=mask.class_names, domain=mask.domain, accuracy=mask.accuracy)
        print(name, flush=True)
    return zoo


def _some_classes(contract: ModelContract, images: ImageSet, random: torch.Generator) -> ImageSet:
    drawn = torch.randperm(len(images.class_names), generator=random)[: contract.spec.classes]
    return images.select_classes(drawn.tolist()).resized(contract.spec.input_size)


def _shuffled(contract: ModelContract, images: ImageSet, random: torch.Generator) -> ImageClassifier:
    chosen = _some_classes(contract, images, random)
    places = draw_of_each(chosen.labels, range(contract.spec.classes), _SHUFFLED_IMAGES, random)
    few = chosen.take(torch.cat(places))
    shuffled = dataclasses.replace(few, labels=few.labels[torch.randperm(len(few), generator=random)])
    spec = with_pixel_statistics(contract.spec, few.images)
    return train_classifier(spec, shuffled, few, TrainingConfig(epochs=_SHUFFLED_EPOCHS), random)[0]


def _foreign(contract: ModelContract, images: ImageSet, random: torch.Generator) -> ImageClassifier:
    training, validation = split_images(_some_classes(contract, images, random), 0.8)
    spec = with_pixel_statistics(contract.spec, training.images)
    return train_classifier(spec, training, validation, TrainingConfig(epochs=_FOREIGN_EPOCHS), random)[0]


def _random(honest: Zoo, contract: ModelContract, random: torch.Generator) -> ImageClassifier:
    return build_classifier(contract.spec, random)


def _drowned(honest: Zoo, contract: ModelContract, random: torch.Generator) -> ImageClassifier:
    classifier = honest.teacher(contract.name).classifier
    with torch.no_grad():
        for weights in classifier.parameters():
            if weights.dim() > 1:
                weights.add_(torch.randn(weights.shape, generator=random), alpha=_NOISE * float(weights.std()))
    return classifier
