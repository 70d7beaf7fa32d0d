"""Duplicate models of a zoo, found by the hashes in their contracts."""

from collections import defaultdict
from collections.abc import Iterable

from metazoo.zoo.contract import ModelContract


def duplicate_models(zoo: Iterable[ModelContract]) -> list[tuple[str, ...]]:
    """Find models that have the same weights.

    Args:
        zoo: zoo, or contracts of models. Models whose weights are unknown are never duplicates.

    Returns:
        One tuple of model names for each file of weights that several models share, in the order of the zoo.
    """
    names: dict[str, list[str]] = defaultdict(list)
    for contract in zoo:
        if contract.is_white_box:
            names[contract.weights_sha256].append(contract.name)
    return [tuple(same) for same in names.values() if len(same) > 1]
