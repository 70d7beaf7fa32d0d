from itertools import pairwise

import pytest
import torch
from error_checks import raises
from torch import Tensor

from metazoo.audit import class_conflicts, joint_class_means
from metazoo.bank import ResidentBank
from metazoo.errors import DataError, UsageError

FEATURES = 40


def planted(counts: list[int], copies: dict[int, int], seed: int = 0, noise: float = 0.1) -> Tensor:
    """Class means of unrelated classes, except the copies; every teacher shifts its classes far away."""
    random = torch.Generator().manual_seed(seed)
    means = torch.randn(sum(counts), FEATURES, generator=random)
    for copy, original in copies.items():
        means[copy] = means[original]
    shifts = 20 * torch.randn(len(counts), FEATURES, generator=random)
    owners = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return means + shifts[owners] + noise * torch.randn(means.shape, generator=random)


def pairs(conflicts: Tensor) -> set[tuple[int, int]]:
    return {(first, second) for first, second in conflicts.triu().nonzero().tolist()}


def test_planted_duplicates_are_found_behind_what_is_common_to_a_teacher() -> None:
    counts, copies = [8, 10, 9, 12], {8: 0, 20: 12, 35: 3, 36: 21}
    conflicts = class_conflicts(planted(counts, copies), counts)
    assert pairs(conflicts) >= {(0, 8), (12, 20), (3, 35), (21, 36)}
    assert torch.equal(conflicts, conflicts.T)
    assert len(pairs(conflicts)) < 0.15 * 39 * 38 / 2
    assert pairs(class_conflicts(planted(counts, copies), counts, false_alarms=0.0)) >= {(0, 8), (12, 20)}


def test_it_is_the_distances_compared_one_by_one() -> None:
    counts = [3, 2, 4]
    means, starts = planted(counts, {5: 0}), [0, 3, 5, 9]
    own, centred = [], []
    for first, end in pairwise(starts):
        classes = [means[index] for index in range(first, end)]
        own += [float((a - b).norm()) for number, a in enumerate(classes) for b in classes[:number]]
        middle = torch.stack(classes).mean(0)
        centred += [(mean - middle) * (len(classes) / (len(classes) - 1)) ** 0.5 for mean in classes]
    for false_alarms, rank in ((0.0, 0), (0.35, 3), (0.9, 9)):
        nearest = sorted(own)[rank]
        owners = [0, 0, 0, 1, 1, 2, 2, 2, 2]
        expected = {
            (a, b)
            for a in range(9)
            for b in range(a)
            if owners[a] != owners[b] and float((centred[a] - centred[b]).norm()) < nearest
        }
        found = pairs(class_conflicts(means, counts, false_alarms))
        assert {(second, first) for first, second in found} == expected


@pytest.mark.parametrize("classes", [2, 3, 5, 20])
def test_about_the_stated_fraction_of_unrelated_pairs_is_marked(classes: int) -> None:
    counts = [classes] * (120 // classes)
    other = torch.arange(120).div(classes, rounding_mode="floor")
    across = other[:, None] != other
    for false_alarms in (0.05, 0.2):
        marked = class_conflicts(planted(counts, {}), counts, false_alarms)
        assert not bool(marked[~across].any())
        assert abs(float(marked[across].float().mean()) - false_alarms) < 0.6 * false_alarms


def test_a_class_without_images_conflicts_with_none_and_changes_nothing() -> None:
    counts = [8, 10, 9]
    means = planted(counts, {8: 0})
    expected = class_conflicts(means, counts)
    kept = torch.tensor([*range(8), *range(8, 18), *range(18, 27)])
    widened = torch.full((30, FEATURES), torch.nan)
    indices = torch.tensor([*range(8), *range(9, 19), *range(20, 29)])
    widened[indices] = means[kept]
    conflicts = class_conflicts(widened, [9, 11, 10])
    assert torch.equal(conflicts[indices[:, None], indices], expected)
    assert pairs(conflicts) == {(int(indices[a]), int(indices[b])) for a, b in pairs(expected)}


@pytest.mark.parametrize("counts", [[1, 1], [4]])
def test_where_there_is_nothing_to_compare_there_is_no_conflict(counts: list[int]) -> None:
    assert not bool(class_conflicts(planted(counts, {}), counts).any())
    assert not bool(class_conflicts(torch.full((sum(counts), 3), torch.nan), counts).any())


def test_blocks_change_nothing() -> None:
    counts = [5] * 8
    means = planted(counts, {7: 1})
    assert torch.equal(class_conflicts(means, counts, block=7), class_conflicts(means, counts))


def test_what_does_not_fit_is_refused() -> None:
    with raises(DataError, subject="means", problem="5 classes, not [4, 3]"):
        class_conflicts(torch.zeros(4, 3), [2, 3])
    for fraction in (-0.1, 1.0):
        with raises(UsageError, subject="false_alarms", problem=str(fraction)):
            class_conflicts(torch.zeros(5, 3), [2, 3], fraction)


def test_means_are_over_the_first_images_of_every_class(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.tensor([1, 0, 1, 1, 0, 1, 0, 0, 2, 0, 2, 0, 0])
    images = torch.randint(0, 256, (13, 3, 4, 4), generator=random, dtype=torch.uint8)
    bank = ResidentBank(("a", "b"), images, labels, (0, 6, 13))
    batches: list[int] = []
    monkeypatch.setattr("metazoo.bank.resident.images_at_once", lambda *_: 4)

    def features(batch: Tensor) -> Tensor:
        batches.append(len(batch))
        return batch.flatten(1)

    means = joint_class_means(bank, [2, 4], features, images_per_class=3)
    own = {0: [1, 4], 1: [0, 2, 3], 2: [6, 7, 9], 4: [8, 10]}
    for index, indices in own.items():
        torch.testing.assert_close(means[index], (images[indices].float() / 255).flatten(1).mean(0))
    assert bool(means[[3, 5]].isnan().all())
    assert sum(batches) == 10
    assert max(batches) <= 4
