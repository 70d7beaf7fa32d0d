from pathlib import Path

import numpy as np
import pytest
import torch
from error_checks import raises
from torch import Tensor
from torch.nn import functional

from metazoo.errors import DataError, UsageError
from metazoo.taskspace import (
    FisherEmbeddings,
    TaskEmbedding,
    dissimilarity_matrix,
    similarity_matrix,
    write_embeddings,
)
from metazoo.taskspace.similarity import PUBLISHED_DECIMALS, PUBLISHED_EPSILON

SIZE = 40_000


def zoo(**tensors: Tensor) -> FisherEmbeddings:
    count = len(next(iter(tensors.values())))
    return FisherEmbeddings(tuple(f"teacher {index}" for index in range(count)), tensors)


def log_normal(rows: int, size: int, spread: float, seed: int) -> Tensor:
    return (spread * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))).exp()


def expected(spread: float, shift: float = 0.0) -> float:
    """E[uv] / sqrt(E[u^2] E[v^2]) by Gauss-Hermite, for log(F_i / F_j) ~ N(shift, spread^2), epsilon 0."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    u = 1 / (1 + np.exp(-(shift + spread * nodes)))
    v = 1 - u
    return float((weights * u * v).sum() / np.sqrt((weights * u * u).sum() * (weights * v * v).sum()))


def test_checked_values() -> None:
    narrow, wide = log_normal(2, SIZE, 0.5, seed=1), log_normal(2, SIZE, 2.0, seed=2)
    for pair, by_quadrature, checked in (
        (narrow, expected(0.5 * 2**0.5), 0.81),
        (narrow * torch.tensor([[1.0], [10.0]]), expected(0.5 * 2**0.5, np.log(10)), 0.80),
        (wide, expected(2 * 2**0.5), 0.31),
    ):
        found = float(similarity_matrix(zoo(w=pair))[0, 1])
        assert found == pytest.approx(by_quadrature, abs=0.004)
        assert found == pytest.approx(checked, abs=0.01)


def test_a_published_epsilon_makes_small_gradients_unlike_and_a_relative_one_does_not() -> None:
    pair = log_normal(2, SIZE, 2.0, seed=4)
    for scale, checked in ((1.0, 0.31), (1e-7, 0.19), (1e-9, 0.055)):
        published = similarity_matrix(
            zoo(w=scale * pair), absolute_epsilon=PUBLISHED_EPSILON, decimals=PUBLISHED_DECIMALS
        )
        assert float(published[0, 1]) == pytest.approx(checked, abs=0.01)
        assert float(published[0, 1]) == round(float(published[0, 1]), 4)
        torch.testing.assert_close(
            similarity_matrix(zoo(w=scale * pair)), similarity_matrix(zoo(w=pair)), rtol=1e-5, atol=0
        )


@pytest.mark.parametrize("scale", [1e-34, 1e-20, 1e20])
def test_gradients_of_any_scale_are_as_alike(scale: float) -> None:
    pair = log_normal(3, 50, 1.0, seed=9)
    pair[:, :5] = 0
    torch.testing.assert_close(
        similarity_matrix(zoo(w=scale * pair)), similarity_matrix(zoo(w=pair)), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("block_elements", [1, 7, 100, 10_000])
def test_equals_the_definition_for_any_block(block_elements: int) -> None:
    tensors = {"w": log_normal(5, 31, 1.0, seed=5), "b": log_normal(5, 3, 1.0, seed=6)}
    oracle = torch.eye(5, dtype=torch.float64)
    for i in range(5):
        for j in range(5):
            cosines = []
            for fisher in tensors.values():
                f_i, f_j = fisher[i].double(), fisher[j].double()
                denominator = f_i + f_j + 0.3 * fisher.double().mean()
                cosines.append(functional.cosine_similarity(f_i / denominator, f_j / denominator, dim=0))
            if i != j:
                oracle[i, j] = torch.stack(cosines).mean()
    found = similarity_matrix(zoo(**tensors), relative_epsilon=0.3, block_elements=block_elements)
    torch.testing.assert_close(found, oracle, rtol=1e-6, atol=0)
    assert torch.equal(found, found.T)
    assert (found.diagonal() == 1).all()
    distance = dissimilarity_matrix(found)
    assert (distance.diagonal() == 0).all()
    torch.testing.assert_close(distance, 1 - oracle)


@pytest.mark.parametrize("held", [1, 4 * 31 * 2, 4 * 31 * 3, 4 * 31 * 4])
def test_tasks_in_blocks_from_the_disk_come_out_as_those_in_memory(tmp_path: Path, held: int) -> None:
    tensors = {"w": log_normal(7, 31, 1.0, seed=5), "dead": torch.zeros(7, 4), "b": log_normal(7, 3, 1.0, seed=6)}
    tensors["w"][5] = tensors["w"][1]
    tensors["b"][5] = tensors["b"][1]
    rows = [TaskEmbedding(str(row), {name: values[row] for name, values in tensors.items()}) for row in range(7)]
    write_embeddings(tmp_path / "fisher", [row.name for row in rows], rows)
    on_disk = FisherEmbeddings.load(tmp_path / "fisher")
    whole = similarity_matrix(zoo(**dict(sorted(tensors.items()))))
    assert torch.equal(similarity_matrix(on_disk), whole)
    in_blocks = similarity_matrix(on_disk, held_bytes=held)
    torch.testing.assert_close(in_blocks, whole, rtol=1e-12, atol=0)
    assert torch.equal(in_blocks, in_blocks.T)
    assert in_blocks[1, 5] == 1


def test_the_published_similarity_is_that_of_plain_loops() -> None:
    tensors = {"w": 1e-6 * log_normal(4, 31, 1.0, seed=5), "b": 1e-5 * log_normal(4, 3, 1.0, seed=6)}
    found = similarity_matrix(zoo(**tensors), absolute_epsilon=PUBLISHED_EPSILON, decimals=PUBLISHED_DECIMALS)
    for i in range(4):
        for j in range(i):
            cosines = []
            for fisher in tensors.values():
                pairs = list(zip(fisher[i].tolist(), fisher[j].tolist(), strict=True))
                u, v = ([pair[side] / (sum(pair) + 1e-6) for pair in pairs] for side in (0, 1))
                product = sum(one * other for one, other in zip(u, v, strict=True))
                cosines.append(product / (sum(one**2 for one in u) * sum(one**2 for one in v)) ** 0.5)
            assert float(found[i, j]) == pytest.approx(sum(cosines) / 2, abs=0.51e-4)


def test_duplicates_are_at_distance_zero_even_where_nothing_is_learned() -> None:
    fisher = log_normal(3, 50, 2.0, seed=7)
    fisher[1] = fisher[0]
    dead = torch.zeros(3, 8)
    dead[2] = 1
    distance = dissimilarity_matrix(similarity_matrix(zoo(w=fisher, dead=dead, never=torch.zeros(3, 4))))
    assert distance[0, 1] == 0
    assert distance[0, 2] > 0.3
    only_dead = similarity_matrix(zoo(dead=dead))
    assert only_dead.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_one_teacher_and_bad_options() -> None:
    single = zoo(w=torch.ones(1, 4))
    assert similarity_matrix(single).tolist() == [[1.0]]
    with raises(UsageError, subject="relative_epsilon", problem="0"):
        similarity_matrix(single, relative_epsilon=0)
    with raises(UsageError, subject="absolute_epsilon", problem="-1.0"):
        similarity_matrix(single, absolute_epsilon=-1.0)
    with raises(UsageError, subject="block_elements", problem="0"):
        similarity_matrix(single, block_elements=0)
    with raises(DataError, subject="similarity", problem="diagonal"):
        dissimilarity_matrix(torch.zeros(2, 2))
