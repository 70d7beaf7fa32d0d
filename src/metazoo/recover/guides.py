"""Guides: models with batch norm that help to recover images from other models.

A teacher without batch norm stores no statistics of its training images, and inversion by class alone recovers little
of their appearance. LoRA-Recycle (CVPR 2025) takes the missing statistics for a vision transformer from a ResNet-50
trained on ImageNet. Here, a model of the same zoo is the guide, so that nothing comes from outside: recovered images
pass through the guide as well, and its batch-norm distance is part of the loss.

A teacher with batch norm can also have a guide. The teacher may separate its few classes by any feature, but an image
that also fits the statistics of another model of its domain is more like a real one. The loss then has the mean of
both distances, with the guide's scaled to the teacher's at the start. The number of iterations is halved, which takes
as long as all of them without a guide.
"""

import torch

from metazoo.choices import PERMISSIONS
from metazoo.execution.randomness import generator
from metazoo.models import ClassifierSpec, network_without_weights
from metazoo.recover.statistics import batch_norm_layers
from metazoo.zoo import ModelContract, Zoo


def choose_guides(zoo: Zoo, seed: int, *, all_models: bool = False) -> dict[str, ModelContract]:
    """Choose guides for all models without batch norm, and for the others too if `all_models`.

    Guides are drawn with `seed`, from the domain of the model if possible. Models with batch norm get guides of their
    own domain only. Recovered images of a guide are permitted at least as much as those of the guided model, so that
    statistics do not get into images with less protection.

    Returns:
        Contracts of the guides by name of the guided model, without models that have no possible guide.

    Raises:
        UsageError: an architecture cannot be built.
    """
    known: dict[tuple[object, ...], bool] = {}
    for spec in (contract.spec for contract in zoo):
        if _built(spec) not in known:
            known[_built(spec)] = bool(batch_norm_layers(network_without_weights(spec)))
    with_batch_norm = [contract for contract in zoo if known[_built(contract.spec)]]
    names = {contract.name for contract in with_batch_norm}
    guides = {}
    for contract in zoo:
        has_batch_norm = contract.name in names
        if has_batch_norm and not all_models:
            continue
        allowed = PERMISSIONS.index(contract.recovered_images)
        others = [other for other in with_batch_norm if other.name != contract.name]
        free = [other for other in others if PERMISSIONS.index(other.recovered_images) <= allowed]
        near = [other for other in free if other.domain == contract.domain]
        free = near if has_batch_norm else near or free
        if free:
            random = generator(seed, "recovery guide", contract.name)
            guides[contract.name] = free[int(torch.randint(len(free), (1,), generator=random))]
    return guides


def _built(spec: ClassifierSpec) -> tuple[object, ...]:
    """Key of all specifications that share their layers."""
    return (spec.architecture, *sorted(spec.arguments.items()))
