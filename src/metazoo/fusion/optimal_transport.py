"""Fusion of models after aligning their channels by optimal transport (Singh and Jaggi 2020, arXiv:1910.05653)."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from metazoo.fusion.average import feature_tensors, mean_classifier
from metazoo.fusion.channel_groups import Axis, ChannelGroup, channel_groups, permuted
from metazoo.models import ImageClassifier


def fuse_by_transport(
    classifiers: Iterable[ImageClassifier], reference: ImageClassifier, sweeps: int = 0
) -> ImageClassifier | None:
    """Average classifiers whose channels are aligned with those of `reference`; None if there are fewer than 2.

    See `align` for the alignment, and `metazoo.fusion.average.mean_classifier` for the head and the pixels.

    Args:
        classifiers: classifiers with the same features, among them the reference.
        reference: classifier whose order of channels the result has.
        sweeps: see `align`.

    Raises:
        UsageError: the architecture cannot be aligned, see `channel_groups`.
    """
    groups, target = channel_groups(reference), feature_tensors(reference)
    aligned = ((each.spec, align(feature_tensors(each), target, groups, sweeps)) for each in classifiers)
    return mean_classifier(aligned, reference.spec)


def align(
    tensors: Mapping[str, Tensor], target: Mapping[str, Tensor], groups: Sequence[ChannelGroup], sweeps: int = 0
) -> dict[str, Tensor]:
    """Permute the channels of a model so that its weights come close to those of another one.

    Groups are aligned from the images to the features. The cost of giving a channel the number of another one is the
    Euclidean distance of the weights, bias included, that compute them from channels already aligned. For two layers of
    the same width with equal masses, an optimal transport plan is a permutation (Birkhoff), which linear assignment
    finds exactly. Everything else that belongs to a channel (statistics, scale and shift of batch norm, weights of
    depthwise convolutions) is permuted with it. Where the outputs of several layers are added, as in residual networks,
    they share one permutation, found from those of the layers whose inputs are already aligned.

    Args:
        tensors: tensors of the model to align by name, floating-point.
        target: tensors of the other model, of the same shapes.
        groups: groups of interchangeable channels of the architecture.
        sweeps: number of further passes over all groups, in each of which a group is aligned by the squared distance of
            *all* its parameters, given the order of all other groups (weight matching of Ainsworth et al. 2023,
            arXiv:2209.04836); they end as soon as nothing changes.

    Returns:
        Tensors of the same function as `tensors`.
    """
    found = dict(tensors)
    for number, group in enumerate(groups):
        axes = _computing_axes(target, group, groups[number:]) or [*group.axes]
        own, wanted = (_rows(each, group, axes) for each in (found, target))
        order = _assignment(torch.cdist(wanted, own))
        found = permuted(found, [group], [order])
    for _ in range(sweeps):
        has_changed = False
        for group in groups:
            axes = [axis for axis in group.axes if not axis[0].endswith(_STATISTICS)]
            # Up to terms without effect on the assignment, the negative product is half the squared distance.
            order = _assignment(-_rows(target, group, axes) @ _rows(found, group, axes).T)
            if not torch.equal(order, torch.arange(group.size)):
                found, has_changed = permuted(found, [group], [order]), True
        if not has_changed:
            break
    return found


_STATISTICS = ("running_mean", "running_var")


def _computing_axes(
    tensors: Mapping[str, Tensor], group: ChannelGroup, unaligned: Sequence[ChannelGroup]
) -> list[Axis]:
    """Outputs of the layers that compute a group from channels of none of the groups that are not aligned yet."""
    open_axes = {axis for each in unaligned for axis in each.axes}
    found = []
    for name, dimension in group.axes:
        weight = f"{name.rpartition('.')[0]}.weight"
        is_layer = weight in tensors and tensors[weight].ndim > 1  # not a batch norm
        if dimension == 0 and is_layer and (weight, 0) in group.axes and (weight, 1) not in open_axes:
            found.append((name, dimension))
    return found


def _rows(tensors: Mapping[str, Tensor], group: ChannelGroup, axes: Sequence[Axis]) -> Tensor:
    """Entries of some axes that belong to each channel of a group, [channels, entries]."""
    parts = []
    for name, dimension in axes:
        slices = tensors[name].movedim(dimension, 0)[group.axes[name, dimension]]
        parts.append(slices.flatten(1))
    return torch.cat(parts, 1)


def _assignment(costs: Tensor) -> Tensor:
    """Column of each row in the assignment of least total cost, int64 [rows]."""
    return torch.from_numpy(linear_sum_assignment(costs.numpy())[1])
