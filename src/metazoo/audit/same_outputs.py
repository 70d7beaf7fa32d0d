"""Models of a zoo that answer alike: copies under other names, saved again, or with their classes in another order."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

_TOLERANCE = 0.01


def duplicate_groups(outputs: Sequence[Tensor], known: Sequence[Sequence[int]] = ()) -> list[list[int]]:
    """Find the models whose outputs for the same images agree to rounding.

    Args:
        outputs: logits of each model, float [images, classes]; models may differ in their number of classes. A model
            of constant outputs is no copy of another one.
        known: groups of models that are known to be copies, by their indices.

    Returns:
        Indices of the models of each group of two and more, ascending.
    """
    count = len(outputs)
    alike = np.zeros((count, count), dtype=bool)
    for classes in {rows.shape[1] for rows in outputs}:
        places = [index for index, rows in enumerate(outputs) if rows.shape[1] == classes]
        # Sorted, for the order of classes is no difference; and a softmax does not see what all logits have in common.
        found = torch.stack([outputs[index].float().sort(1).values for index in places])
        rows = (found - found.mean(2, keepdim=True)).flatten(1)
        distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
        alike[np.ix_(places, places)] = (distances < _TOLERANCE * rows.norm(dim=1)).numpy()
    for first, *others in known:
        alike[first, others] = True
    labels = connected_components(alike, directed=False)[1]
    groups = (np.flatnonzero(labels == label).tolist() for label in np.unique(labels))
    return [group for group in groups if len(group) > 1]
