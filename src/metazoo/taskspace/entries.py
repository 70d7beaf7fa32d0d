"""A few entries of large tensors that stand for all of them."""

import math
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from metazoo.run import randomness

Entries: TypeAlias = tuple[Tensor, Tensor]
"""Rows and columns, int64 and ascending, of a tensor seen as a matrix by its first dimension."""


def kept_entries(tensors: Mapping[str, Tensor], most: int) -> dict[str, Entries]:
    """A block of at most `most` entries of every tensor of two dimensions or more that has more of them.

    A block has about as many rows as columns, drawn uniformly; the draw depends on the tensor's name and shape alone,
    so that what is kept of two embeddings can be compared.
    """
    kept: dict[str, Entries] = {}
    for name, tensor in tensors.items():
        if tensor.dim() > 1 and tensor.numel() > most:
            rows, columns = tensor.flatten(1).shape
            height = min(rows, max(math.isqrt(most), most // columns))
            random = randomness.generator(0, "fisher", name)
            places = [
                torch.randperm(count, generator=random)[:number].sort().values.to(tensor.device)
                for count, number in ((rows, height), (columns, most // height))
            ]
            kept[name] = (places[0], places[1])
    return kept


def only(values: Tensor, entries: Entries | None) -> Tensor:
    """The block [rows, columns] of `values`, or all of them as they are."""
    return values if entries is None else values.flatten(1)[entries[0]][:, entries[1]]
