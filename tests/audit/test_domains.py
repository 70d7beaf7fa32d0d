import pytest
import torch
from torch import Tensor

from metazoo.audit import merge_domains

NAMES = ["a", "a", "b", "b", "c", "c"]


def skill(means: list[list[float]], each: int = 2) -> Tensor:
    """Every model of a domain alike; nobody judges itself."""
    made = torch.tensor(means, dtype=torch.float64).repeat_interleave(each, 0).repeat_interleave(each, 1)
    return made.fill_diagonal_(torch.nan)


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ([[0.5, 0.2, 0.2], [0.2, 0.5, 0.2], [0.2, 0.2, 0.5]], [("a",), ("b",), ("c",)]),
        ([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]], [("a", "b", "c")]),
        ([[0.5, 0.2, 0.45], [0.2, 0.5, 0.2], [0.45, 0.2, 0.5]], [("a", "c"), ("b",)]),
        ([[0.5, 0.5, 0.2], [0.3, 0.5, 0.2], [0.2, 0.2, 0.5]], [("a",), ("b",), ("c",)]),  # one way alone
        ([[0.5, 0.2, 0.2], [0.2, 0.4, 0.36], [0.2, 0.36, 0.4]], [("a",), ("b", "c")]),
        # b is like both of the others, which are not like each other: the closer one is joined, and then it is over.
        ([[0.5, 0.45, 0.1], [0.45, 0.5, 0.5], [0.1, 0.5, 0.5]], [("a",), ("b", "c")]),
        ([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.5]], [("a",), ("b",), ("c",)]),
    ],
)
def test_domains_whose_models_see_each_others_classes_are_merged(
    means: list[list[float]], expected: list[tuple[str, ...]]
) -> None:
    assert merge_domains(skill(means), NAMES, 0.85) == expected
    order = torch.tensor([3, 0, 5, 2, 4, 1])
    shuffled = merge_domains(skill(means)[order][:, order], [NAMES[index] for index in order], 0.85)
    assert {frozenset(names) for names in shuffled} == {frozenset(names) for names in expected}


def test_unknown_skills_merge_nothing() -> None:
    single = skill([[0.5, 0.5], [0.5, 0.5]], each=1)
    assert merge_domains(single, ["a", "b"], 0.85) == [("a",), ("b",)]
    sparse = skill([[0.5, 0.5], [0.5, 0.5]])
    sparse[0, 2:] = sparse[2:, 0] = torch.nan
    assert merge_domains(sparse, ["a", "a", "b", "b"], 0.85) == [("a", "b")]
    sparse[:2, 2:] = torch.nan
    assert merge_domains(sparse, ["a", "a", "b", "b"], 0.85) == [("a",), ("b",)]


def test_a_similarity_out_of_reach_merges_nothing() -> None:
    assert merge_domains(skill([[0.5, 0.5], [0.5, 0.5]]), ["a", "a", "b", "b"], 1.01) == [("a",), ("b",)]
    assert merge_domains(skill([[0.5]]), ["a", "a"], 0.85) == [("a",)]
