"""Guides: models with batch norm that help to recover others.

Without batch norm a teacher stores nothing of its training images except their classes, and inversion by class alone
leaves little of what pictures look like. LoRA-Recycle (CVPR 2025) takes the missing statistics for a vision transformer
from a ResNet-50 trained on ImageNet. Here another model of the same zoo lends its own, so that nothing comes from
outside: images recovered from the teacher are shown to its guide as well, and the guide's batch-norm distance counts.

A model that has batch norm may be guided as well. Its own statistics are those of a few classes, which it may
distinguish by any feature; a picture that another model of its domain also finds usual is more like a real one.
The mean of both distances counts, in half of the iterations, which take as long as all without a guide.
"""

from collections.abc import Callable

import torch

from metazoo.choices import PERMISSIONS
from metazoo.execution.randomness import generator
from metazoo.models import ClassifierSpec, network_without_weights
from metazoo.recover.statistics import batch_norm_layers
from metazoo.zoo import ModelContract, Zoo


def choose_guides(zoo: Zoo, seed: int, *, all_models: bool = False) -> dict[str, ModelContract]:
    """Choose a guide for every model without batch norm, and for the others too if `all_models`, by the model's name.

    It is drawn by seed, from the same domain where there is one; a model with batch norm has one of its own domain or
    none. A guide's images may be kept and shown at least as freely as those of the model that it guides, so that no
    statistics get into images that are less protected. Models without any possible guide are left out.

    Raises:
        UsageError: an architecture cannot be built.
    """
    knows = _batch_norm_by_architecture()
    with_batch_norm = [contract for contract in zoo if knows(contract.spec)]
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


def _batch_norm_by_architecture() -> Callable[[ClassifierSpec], bool]:
    """Make a function that finds whether a network stores batch-norm statistics, and builds each architecture once."""
    known: dict[tuple[object, ...], bool] = {}

    def has_batch_norm(spec: ClassifierSpec) -> bool:
        built = (spec.architecture, *sorted(spec.arguments.items()))
        if built not in known:
            known[built] = bool(batch_norm_layers(network_without_weights(spec)))
        return known[built]

    return has_batch_norm
