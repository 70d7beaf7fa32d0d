import itertools
import json

import numpy as np
import pytest
import torch
from error_checks import raises
from torch import Tensor

from metazoo.errors import ArtefactError, DataError, UsageError
from metazoo.taskspace import (
    GROUPINGS,
    ChangingGroups,
    Partition,
    dissimilarity_matrix,
    group,
    group_quality,
    similarity_matrix,
)
from metazoo.taskspace.embeddings import FisherEmbeddings
from metazoo.taskspace.exchange import MOST_ITEMS, largest_within

BALANCED = ("dispersed", "homogeneous", "random")
STRATEGIES = [name for name in GROUPINGS.names() if not isinstance(GROUPINGS.get(name), ChangingGroups)]


def random_distance(count: int, seed: int, levels: int = 0) -> Tensor:
    values = torch.rand(count, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if levels:
        values = (values * levels).ceil() / levels  # ties
    upper = values.triu(1)
    return upper + upper.T


def planted(copies: list[int], seed: int, noise: float = 0.0) -> tuple[Tensor, list[int]]:
    """Distances of clustered points, `copies[k]` teachers in cluster k; exact duplicates without noise."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.tensor([k for k, copy in enumerate(copies) for _ in range(copy)])
    kind = kind[torch.randperm(len(kind), generator=generator)]
    centres = torch.rand(len(copies), 6, generator=generator, dtype=torch.float64)
    points = centres[kind] + noise * torch.randn(len(kind), 6, generator=generator, dtype=torch.float64)
    distance = (points[:, None] - points[None]).norm(dim=2)
    return distance, kind.tolist()


def names(count: int) -> list[str]:
    return [f"model-{(7 * index + 3) % 1009:04d}" for index in range(count)]


def total_within(distance: Tensor, groups: tuple[tuple[int, ...], ...]) -> float:
    return sum(float(distance[i, j]) for members in groups for i, j in itertools.combinations(members, 2))


def partitions(items: tuple[int, ...], size: int) -> list[tuple[tuple[int, ...], ...]]:
    if not items:
        return [()]
    first, rest = items[0], items[1:]
    found = []
    for others in itertools.combinations(rest, size - 1):
        left = tuple(item for item in rest if item not in others)
        found += [((first, *others), *more) for more in partitions(left, size)]
    return found


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 9, 10, 11, 23])
@pytest.mark.parametrize("groups", [1, 2, 5])
def test_every_zoo_is_partitioned(strategy: str, count: int, groups: int) -> None:
    grouping = group(random_distance(count, seed=count), strategy, groups, keys=names(count))
    assert sorted(index for members in grouping.groups for index in members) == list(range(count))
    sizes = [len(members) for members in grouping.groups]
    if strategy in BALANCED:
        assert len(sizes) == min(groups, max(1, count // 2))
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= min(2, count)
    elif strategy == "single":
        assert sizes == [count]
    else:
        assert 1 <= len(sizes) <= groups


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("levels", [0, 1, 2, 4])
def test_equivariant_to_the_order_of_the_zoo(strategy: str, levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    for count in (5, 13, 16):
        distance, keys = random_distance(count, seed=count, levels=levels), names(count)
        reference = group(distance, strategy, 3, keys=keys, seed=9)
        for _ in range(6):
            order = torch.randperm(count, generator=generator)
            shuffled_keys = [keys[index] for index in order.tolist()]
            permuted = group(distance[order][:, order], strategy, 3, keys=shuffled_keys, seed=9)
            named = [[shuffled_keys[index] for index in members] for members in permuted.groups]
            assert named == [[keys[index] for index in members] for members in reference.groups]


def test_equivariant_from_the_fisher_on() -> None:
    generator = torch.Generator().manual_seed(0)
    fisher = torch.randn(14, 300, generator=generator).exp()
    fisher[3] = fisher[8] = fisher[11]
    keys = names(14)
    for strategy in ("dispersed", "homogeneous"):
        seen = set()
        for trial in range(5):
            order = torch.randperm(14, generator=generator) if trial else torch.arange(14)
            shuffled = [keys[index] for index in order.tolist()]
            embeddings = FisherEmbeddings(tuple(shuffled), {"w": fisher[order]})
            distance = dissimilarity_matrix(similarity_matrix(embeddings, block_elements=700))
            grouping = group(distance, strategy, 4, keys=shuffled)
            seen.add(tuple(tuple(shuffled[index] for index in members) for members in grouping.groups))
        assert len(seen) == 1


@pytest.mark.parametrize("copies", [[4, 4, 4, 4], [4, 1, 1, 1, 1, 1, 1, 1], [2] * 9, [3, 3, 2, 2, 1], [1, 4, 4]])
@pytest.mark.parametrize("noise", [0.0, 0.005])
@pytest.mark.parametrize("seed", range(3))
def test_duplicates_and_near_duplicates_are_separated(copies: list[int], noise: float, seed: int) -> None:
    distance, kind = planted(copies, seed, noise)
    grouping = group(distance, "dispersed", 4, keys=names(len(kind)))
    assert len(grouping) == 4
    for members in grouping.groups:
        kinds = [kind[index] for index in members]
        assert len(set(kinds)) == len(kinds)


def test_more_duplicates_than_groups_are_spread_evenly() -> None:
    distance, kind = planted([7, 5, 3, 1], seed=1)
    for members in group(distance, "dispersed", 3, keys=names(16)).groups:
        counts = np.bincount([kind[index] for index in members], minlength=4)
        assert counts[0] in (2, 3)
        assert counts[1] in (1, 2)
        assert counts[2] == 1


@pytest.mark.parametrize("strategy", ["dispersed", "homogeneous"])
def test_ties_are_ties_whatever_the_rounding(strategy: str) -> None:
    for seed in range(5):
        distance = random_distance(15, seed, levels=3)
        jitter = 1e-14 * random_distance(15, seed + 100) * (distance > 0)
        clean = group(distance, strategy, 4, keys=names(15))
        assert group((distance - jitter).clamp_min(0), strategy, 4, keys=names(15)) == clean


@pytest.mark.parametrize(("count", "groups"), [(8, 2), (9, 3), (8, 4)])
def test_small_zoos_reach_the_best_partition(count: int, groups: int) -> None:
    every = partitions(tuple(range(count)), count // groups)
    for seed in range(8):
        distance = 1 + random_distance(count, seed)  # no pair is a near-duplicate
        distance.fill_diagonal_(0)
        totals = [total_within(distance, candidate) for candidate in every]
        for strategy, best in (("dispersed", max(totals)), ("homogeneous", min(totals))):
            grouping = group(distance, strategy, groups, keys=names(count))
            assert total_within(distance, grouping.groups) == pytest.approx(best, abs=1e-4)


def test_no_exchange_or_move_improves_an_uneven_zoo() -> None:
    distance = 1 + random_distance(11, seed=5)
    distance.fill_diagonal_(0)
    groups = group(distance, "dispersed", 3, keys=names(11)).groups
    base = total_within(distance, groups)
    for g, h in itertools.permutations(range(3), 2):
        for i in groups[g]:
            without = tuple(item for item in groups[g] if item != i)
            if len(groups[g]) > len(groups[h]):
                assert total_within(distance, (without, (*groups[h], i), groups[3 - g - h])) <= base + 1e-4
            for j in groups[h]:
                swapped = ((*without, j), (*(item for item in groups[h] if item != j), i), groups[3 - g - h])
                assert total_within(distance, swapped) <= base + 1e-4


def test_strategies_lie_in_the_expected_order() -> None:
    distance, kind = planted([4, 4, 4, 4], seed=2, noise=0.02)
    means = {s: group_quality(distance, group(distance, s, 4, keys=names(16))).within_mean for s in STRATEGIES}
    values = {name: mean for name, mean in means.items() if mean is not None}
    assert values["homogeneous"] < 0.1 * values["single"]
    assert values["homogeneous"] < values["random"] < values["dispersed"]
    homogeneous = group(distance, "homogeneous", 4, keys=names(16))
    assert all(len({kind[index] for index in members}) == 1 for members in homogeneous.groups)


def test_random_depends_on_the_seed_only() -> None:
    distance = random_distance(12, seed=0)
    first = group(distance, "random", 3, keys=names(12), seed=4)
    assert first == group(torch.zeros(12, 12), "random", 3, keys=names(12), seed=4)
    assert len({group(distance, "random", 3, keys=names(12), seed=seed).groups for seed in range(6)}) > 1


def test_spectral_collects_unlike_models_and_says_what_went_amiss() -> None:
    # Two pairs with distances within pairs only: the affinity graph is not connected.
    distance = torch.zeros(4, 4)
    distance[0, 1] = distance[1, 0] = distance[2, 3] = distance[3, 2] = 1
    grouping = group(distance, "spectral", 2, keys=names(4))
    assert {frozenset(members) for members in grouping.groups} == {frozenset({0, 1}), frozenset({2, 3})}
    assert any("connected" in note for note in grouping.notes)
    equal = group(torch.zeros(6, 6), "spectral", 3, keys=names(6))
    assert equal.groups == (tuple(sorted(range(6), key=lambda index: names(6)[index])),)
    assert "zero" in equal.notes[0]
    constant = group(1 - torch.eye(9), "spectral", 3, keys=names(9))
    assert sorted(index for members in constant.groups for index in members) == list(range(9))


def test_equal_distances_still_balance() -> None:
    for distance in (torch.zeros(7, 7), 1 - torch.eye(7)):
        assert sorted(len(m) for m in group(distance, "dispersed", 3, keys=names(7)).groups) == [2, 2, 3]


def test_a_grouping_is_stored_by_name() -> None:
    grouping = group(random_distance(5, seed=1), "dispersed", 2, keys=names(5))
    record = json.loads(json.dumps(grouping.as_record(names(5))))
    assert Partition.from_record(record, names(5)) == grouping
    backwards = Partition.from_record(record, names(5)[::-1])
    assert backwards.groups == tuple(tuple(4 - index for index in members) for members in grouping.groups)
    with raises(ArtefactError, subject="stored groups", problem="other models"):
        Partition.from_record(record, names(6))
    with raises(ArtefactError, subject="stored groups", problem="format 2"):
        Partition.from_record({**record, "format_version": 2}, names(5))
    with raises(ArtefactError, subject="stored groups", problem="damaged"):
        Partition.from_record({"format_version": 1}, names(5))


def test_bad_input_is_named() -> None:
    distance = random_distance(4, seed=0)
    with pytest.raises(UsageError) as caught:
        group(distance, "clever", 2, keys=names(4))
    assert "clever" in str(caught.value)
    assert "dispersed" in str(caught.value)
    with raises(UsageError, subject="groups", problem="0"):
        group(distance, "dispersed", 0, keys=names(4))
    for keys in (names(3), ["a", "b", "c", "a"]):
        with raises(UsageError, subject="keys", problem="3 different keys for 4 teachers"):
            group(distance, "dispersed", 2, keys=keys)
    for bad, message in (
        (distance[:3], "square"),
        (torch.zeros(0, 0), "square"),
        (distance * float("nan"), "finite"),
        (-distance, "negative"),
        (distance.triu(), "symmetric"),
        (distance + torch.eye(4), "zero diagonal"),
    ):
        with raises(DataError, subject="distance", problem=message):
            group(bad, "dispersed", 2, keys=names(len(bad)))
    with raises(UsageError, subject=str(MOST_ITEMS + 1), problem=str(MOST_ITEMS)):
        largest_within(np.broadcast_to(np.int64(0), (MOST_ITEMS + 1, MOST_ITEMS + 1)), 2)
