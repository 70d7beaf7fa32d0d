"""Models of a zoo that are copies of one another, by the hashes in their contracts; no weights are read."""

from collections import defaultdict
from collections.abc import Iterable

from metazoo.zoo.contract import ModelContract


def duplicate_models(zoo: Iterable[ModelContract]) -> list[tuple[str, ...]]:
    """Groups of names of models that have the same weights, in the order of the zoo.

    Args:
        zoo: a zoo, or contracts of models. Models whose weights are unknown are never duplicates.

    Returns:
        One tuple of two names or more for each file of weights that several models share.
    """
    names: dict[str, list[str]] = defaultdict(list)
    for contract in zoo:
        if contract.is_white_box:
            names[contract.weights_sha256].append(contract.name)
    return [tuple(same) for same in names.values() if len(same) > 1]
