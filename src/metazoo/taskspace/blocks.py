"""A few entries of large tensors that stand for all of them."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Blocks:
    """Blocks along the diagonal of a tensor seen as a matrix by its first dimension: `count` of `height` x `width`."""

    count: int
    height: int
    width: int

    def of_rows(self, values: Tensor) -> Tensor:
        """The rows of every block, `values` [n, rows, ...] as a view [n, count, height, ...]."""
        return values[:, : self.count * self.height].unflatten(1, (self.count, self.height))

    def of_columns(self, values: Tensor) -> Tensor:
        """The columns of every block, `values` [n, columns, ...] as a view [n, count, width, ...]."""
        return values[:, : self.count * self.width].unflatten(1, (self.count, self.width))

    def of(self, values: Tensor) -> Tensor:
        """The blocks themselves, [count, height, width]."""
        rows = self.of_rows(values.flatten(1).unsqueeze(0))[0]
        return torch.stack([self.of_columns(part)[:, number] for number, part in enumerate(rows)])


def kept_blocks(tensors: Mapping[str, Tensor], most: int) -> dict[str, Blocks]:
    """Blocks of at most `most` entries in all of every tensor of two dimensions or more that has more of them.

    But for a rest that does not divide, every row and every column has its share of them. The Fisher of a layer is
    nearly a product of one number a row and one a column, so a single block of as many entries, which leaves most of
    these out, says much less of the whole.
    """
    kept: dict[str, Blocks] = {}
    for name, tensor in tensors.items():
        if tensor.dim() > 1 and tensor.numel() > most:
            rows, columns = tensor.flatten(1).shape
            count = min(-(-rows * columns // most), rows, columns, most)
            height = min(rows, most) // count
            kept[name] = Blocks(count, height, min(columns // count, most // (count * height)))
    return kept
