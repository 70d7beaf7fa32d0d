"""Pairs of models that are drawn anew in every step, registered as the grouping `drawn-pairs`."""

from typing import final

import torch

import metazoo
from metazoo.taskspace import AffinityConfig, ChangingGroups, Grouping, Partition


@final
class DrawnPairs(Grouping):
    """Groups of two of the `count` models; of an odd number, one is alone."""

    def __init__(self, count: int) -> None:
        self._count = count

    def draw(self, step: int, random: torch.Generator) -> Partition:
        """Draw the pairs of a step; see `Grouping.draw`."""
        order = torch.randperm(self._count, generator=random)
        return Partition(tuple(tuple(pair.tolist()) for pair in order.split(2)), "drawn-pairs")


def drawn_pairs(count: int, affinity: AffinityConfig) -> Grouping:
    """Make the grouping of `count` models; it needs no affinity."""
    return DrawnPairs(count)


metazoo.register_grouping("drawn-pairs", ChangingGroups(drawn_pairs))
