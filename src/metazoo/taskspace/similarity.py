"""Similarity of tasks from their Fisher embeddings (TGR, ICML 2024, official code)."""

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from metazoo.errors import DataError, UsageError
from metazoo.taskspace.embeddings import FisherEmbeddings

PUBLISHED_EPSILON = 1e-6
PUBLISHED_DECIMALS = 4


def similarity_matrix(
    embeddings: FisherEmbeddings,
    *,
    relative_epsilon: float = 1e-6,
    absolute_epsilon: float | None = None,
    decimals: int | None = None,
    block_elements: int = 1 << 17,
    held_bytes: int = 1 << 26,
) -> Float64[Tensor, "N N"]:
    """Compute the similarity S [N, N] of N tasks: symmetric, in [0, 1], 1 on the diagonal.

    For each tensor l of the probe, elementwise, `u = F_i / (F_i + F_j + e_l)` and `v = F_j / (F_i + F_j + e_l)`; the
    similarity of the tensor is `cos(u, v)`, and S_ij is its unweighted mean over the tensors. In a tensor whose Fisher
    is 0 for both tasks, the similarity is 1; if it is 0 for one of them, the similarity is 0.

    Deviation: `e_l` is `relative_epsilon` times the mean of the tensor over the zoo, so S does not depend on the common
    scale of the gradients. Published: `absolute_epsilon=PUBLISHED_EPSILON, decimals=PUBLISHED_DECIMALS`; if the Fisher
    is below 1e-6, S then falls with the scale of the gradients.

    Args:
        embeddings: embeddings of the zoo, read in blocks; ratios are computed in float32 on their device.
        relative_epsilon: epsilon relative to the mean of the tensor, above 0; not used with `absolute_epsilon`.
        absolute_epsilon: epsilon of all tensors, above 0.
        decimals: number of decimals of S; None for no rounding.
        block_elements: number of pairs times size of the tensor that are computed at once, at least one pair; the
            result does not depend on it.
        held_bytes: memory for one tensor of all tasks in float32; larger tensors are read in two blocks of tasks of
            half of it.

    Returns:
        The similarity on the CPU.

    Raises:
        UsageError: an epsilon or `block_elements` is not above 0.
    """
    epsilon = relative_epsilon if absolute_epsilon is None else absolute_epsilon
    if not epsilon > 0:
        name = "relative_epsilon" if absolute_epsilon is None else "absolute_epsilon"
        raise UsageError(name, f"must be above 0, not {epsilon}")
    if block_elements < 1:
        raise UsageError("block_elements", f"must be at least 1, not {block_elements}")
    count = len(embeddings.names)
    total = torch.zeros(count, count, dtype=torch.float64)
    for fisher in embeddings.tensors.values():
        tasks = _tasks_held(fisher, held_bytes)
        scale = _mean(fisher, tasks) if absolute_epsilon is None else 1.0
        total += _upper_cosines(fisher, tasks, scale, epsilon, block_elements)
    upper = (total / len(embeddings.tensors)).clamp(0, 1)
    similarity = upper + upper.T + torch.eye(count, dtype=torch.float64)
    return similarity if decimals is None else similarity.round(decimals=decimals)


def dissimilarity_matrix(similarity: Float[Tensor, "..."]) -> Float[Tensor, "N N"]:
    """Compute the dissimilarity D = 1 - S [N, N], zero on the diagonal.

    Raises:
        DataError: S is not a square matrix with ones on the diagonal.
    """
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1] or not (similarity.diagonal() == 1).all():
        raise DataError(
            "similarity", f"must be a square matrix with ones on the diagonal, not {list(similarity.shape)}"
        )
    return 1 - similarity


def _tasks_held(fisher: Tensor, held_bytes: int) -> int:
    """Number of tasks of one block."""
    count, most = len(fisher), held_bytes // (4 * max(1, fisher.shape[1]))
    return count if count <= most else max(1, most // 2)


def _mean(fisher: Float32[Tensor, "N size"], tasks: int) -> float:
    shares = []
    for start in range(0, len(fisher), tasks):
        part = fisher[start : start + tasks].double()
        shares.append(part.mean() * (len(part) / len(fisher)))
    return float(torch.stack(shares).sum())


def _upper_cosines(
    fisher: Float32[Tensor, "N size"], tasks: int, scale: float, guard: float, block_elements: int
) -> Float64[Tensor, "N N"]:
    """Cosines of all pairs i < j of a tensor over `scale`, on the CPU; zero elsewhere."""
    count = len(fisher)
    if scale == 0:
        return torch.ones(count, count, dtype=torch.float64).triu(1)
    cosines = torch.zeros(count, count, dtype=torch.float64)
    for top in range(0, count, tasks):
        firsts = _scaled(fisher[top : top + tasks], scale)
        for left in range(top, count, tasks):
            others = firsts if left == top else _scaled(fisher[left : left + tasks], scale)
            found = _cosines(firsts, others, guard, block_elements, only_upper=left == top)
            cosines[top : top + tasks, left : left + tasks] = found.cpu()
    return cosines


def _scaled(fisher: Tensor, scale: float) -> Tensor:
    """Divide by `scale`; without it, reciprocals of very small values overflow in float32."""
    return (fisher.double() / scale).float()


def _cosines(
    firsts: Float32[Tensor, "n size"],
    others: Float32[Tensor, "m size"],
    guard: float,
    block_elements: int,
    *,
    only_upper: bool,
) -> Float64[Tensor, "n m"]:
    """Cosines of pairs of two blocks; with `only_upper`, zero for i >= j."""
    cosines = firsts.new_zeros(len(firsts), len(others), dtype=torch.float64)
    rows = max(1, block_elements // max(1, firsts.shape[1]))
    for number, first in enumerate(firsts):
        guarded = first + guard
        for start in range(number + 1 if only_upper else 0, len(others), rows):
            some = others[start : start + rows]
            inverse = (some + guarded).reciprocal_()
            u, v = first * inverse, inverse.mul_(some)
            # The same order of summation, so that duplicates have distance 0 exactly.
            product, square_u, square_v = ((one * other).sum(1).double() for one, other in ((u, v), (u, u), (v, v)))
            alike = (square_u == 0) & (square_v == 0)
            norms = (square_u * square_v).sqrt()
            cosine = torch.where(norms > 0, product / norms.clamp_min(torch.finfo(norms.dtype).tiny), 0)
            cosines[number, start : start + rows] = torch.where(alike, 1, cosine)
    return cosines
