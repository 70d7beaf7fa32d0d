"""Copies among the models of a zoo: under other names, saved again, or with their classes in another order."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

_TOLERANCE = 0.01


def duplicate_groups(outputs: Sequence[Tensor], known: Sequence[Sequence[int]] = ()) -> list[list[int]]:
    """Find the models whose outputs for the same images agree to rounding.

    Args:
        outputs: logits, float [images, classes], one per model; models may differ in their number of classes. A model
            of constant outputs is no copy of another one.
        known: groups of models that are known to be copies, as indices.

    Returns:
        Ascending indices of the models of each group, two or more.
    """
    count = len(outputs)
    alike = np.zeros((count, count), dtype=bool)
    for classes in {rows.shape[1] for rows in outputs}:
        indices = [index for index, rows in enumerate(outputs) if rows.shape[1] == classes]
        # Sorted and centred: copies may differ in the order of the classes, and by a constant that softmax ignores.
        found = torch.stack([outputs[index].float().sort(1).values for index in indices])
        rows = (found - found.mean(2, keepdim=True)).flatten(1)
        distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
        alike[np.ix_(indices, indices)] = (distances < _TOLERANCE * rows.norm(dim=1)).numpy()
    for first, *others in known:
        alike[first, others] = True
    labels = connected_components(alike, directed=False)[1]
    groups = (np.flatnonzero(labels == label).tolist() for label in np.unique(labels))
    return [group for group in groups if len(group) > 1]
