"""Guides: models with batch norm that help to recover others.

Without batch norm a teacher stores nothing of its training images except their classes, and inversion by class alone
leaves little of what pictures look like. LoRA-Recycle (CVPR 2025) takes the missing statistics for a vision transformer
from a ResNet-50 trained on ImageNet. Here another model of the same zoo lends its own, so that nothing comes from
outside: images recovered from the teacher are shown to its guide as well, and the guide's batch-norm distance counts.

A model that has batch norm may be guided as well. Its own statistics are those of a few classes, which it may
distinguish by any feature; a picture that another model of its domain also finds usual is more like a real one.
The mean of both distances counts, the guide's scaled to the teacher's at the start, in half of the iterations, which
take as long as all without a guide.
"""

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
    """All that decides whether a network has batch norm."""
    return (spec.architecture, *sorted(spec.arguments.items()))
