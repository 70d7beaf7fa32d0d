"""Classes of different teachers that the zoo cannot distinguish, which may be one class under two labels.

A class is represented by the mean of its recovered images' joint features (each teacher's features scaled to length 1,
side by side). Images recovered from one teacher share its batch-norm statistics and textures, which hides that two
classes are equal; so the mean of a teacher's classes is subtracted before classes of different teachers are compared.
The threshold comes from the zoo: two classes of one teacher are known to differ, and their distances are the reference
distribution for the distances between classes of different teachers.

Measured on 20 Conv4 models of 5 CIFAR-FS classes each (92 of 4,750 pairs are equal), 120 images per class: area under
the ROC curve 0.990, against 0.964 for the cosine of the means and 0.840 for the leave-one-out accuracy of a
nearest-mean classifier, both without subtracting the teacher's mean (0.981 and 0.980 with it). The default marks 6 % of
the pairs and finds 93 % of the equal ones; the others that it marks are similar, such as boy and girl, or mouse and
shrew.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metazoo.bank import ResidentBank
from metazoo.data.images import first_of_each
from metazoo.errors import DataError, UsageError


@torch.no_grad()
def joint_class_means(
    bank: ResidentBank,
    class_counts: Sequence[int],
    features: Callable[[Tensor], Tensor],
    *,
    images_per_class: int = 40,
    after_batch: Callable[[], None] = lambda: None,
) -> Tensor:
    """Mean joint features of every class of every teacher. Only one batch of images is in memory at a time.

    Args:
        bank: recovered images.
        class_counts: numbers of classes, one per teacher of `bank`.
        features: function from images, float [n, 3, side, side] in [0, 1], to joint features of the zoo, [n, features].
        images_per_class: number of images used per class, the first ones. With 20 instead of 40 the area under the ROC
            curve of `class_conflicts` falls from 0.98 to 0.96; with all 120 it is 0.99.
        after_batch: function that is called after each batch.

    Returns:
        Float [all classes, features], teacher by teacher; NaN for a class without images.
    """
    starts = torch.tensor([0, *class_counts]).cumsum(0)
    owners = torch.arange(len(bank.names)).repeat_interleave(torch.tensor(bank.starts).diff())
    classes = starts[owners] + bank.labels
    counts = torch.bincount(classes, minlength=int(starts[-1]))
    sums = torch.zeros(())
    for chosen in bank.in_parts(first_of_each(classes, images_per_class)):
        found = features(bank.pixels(chosen))
        if sums.dim() == 0:
            sums = torch.zeros(len(counts), found.shape[1])
        sums.index_add_(0, classes[chosen], found.cpu())
        after_batch()
    return sums / counts.clamp(max=images_per_class).unsqueeze(1)


def class_conflicts(
    means: Tensor, class_counts: Sequence[int], false_alarms: float = 0.05, *, block: int = 1024
) -> Tensor:
    """Mark the pairs of classes of different teachers that must not be in one episode.

    The mean of a teacher's k classes is subtracted from each of them, and the difference is multiplied by
    sqrt(k / (k - 1)), so that the distance of unrelated classes does not depend on k. A pair is marked if its distance
    is below the quantile `false_alarms` of the distances within teachers. With 2 or 3 classes per teacher the mean is a
    poor estimate, and fewer of the equal pairs are found (59 % and 71 %, against 93 % with 5 classes).

    Args:
        means: result of `joint_class_means`, float [all classes, features]; a class with NaN conflicts with none.
        class_counts: numbers of classes, one per teacher, in the order of `means`.
        false_alarms: fraction of all pairs that is marked, approximately, in [0, 1).
        block: number of classes that are compared with all others at once; it bounds the memory.

    Returns:
        Bool [all classes, all classes], symmetric; False within a teacher.

    Raises:
        DataError: `means` do not fit `class_counts`.
        UsageError: `false_alarms` is out of its range.
    """
    if means.dim() != 2 or len(means) != sum(class_counts):
        count = sum(class_counts)
        raise DataError("means", f"must be [{count}, features] for {count} classes, not {list(means.shape)}")
    if not 0 <= false_alarms < 1:
        raise UsageError("false_alarms", f"must be in [0, 1), not {false_alarms}")
    known = means.isfinite().all(1).nonzero().flatten()
    owners = torch.arange(len(class_counts)).repeat_interleave(torch.tensor(class_counts))[known]
    centred, own_distances = means[known], []
    for owner in owners.unique().tolist():
        own = owners == owner
        classes = centred[own]
        own_distances.append(torch.pdist(classes))
        rest = classes - classes.mean(0)
        centred[own] = rest * (len(rest) / max(1, len(rest) - 1)) ** 0.5
    distances = torch.cat([*own_distances, torch.zeros(0)])
    conflicts = torch.zeros(len(known), len(known), dtype=torch.bool)
    if len(distances):
        nearest = distances.kthvalue(int(false_alarms * len(distances)) + 1).values
        for start in range(0, len(known), block):
            rows = slice(start, start + block)
            conflicts[rows] = torch.cdist(centred[rows], centred) < nearest
            conflicts[rows] &= owners[rows, None] != owners
        conflicts |= conflicts.T.clone()  # rounding may differ in the two directions
    if len(known) == len(means):
        return conflicts
    widened = torch.zeros(len(means), len(means), dtype=torch.bool)
    widened[known.unsqueeze(1), known] = conflicts
    return widened
