import json
from collections import Counter

import pytest
import torch
from error_checks import raises

from metazoo.errors import DataError, UsageError
from metazoo.taskspace import Partition, draw_members, group_quality, group_rows

DISTANCE = torch.tensor(
    [
        [0.0, 0.1, 0.2, 0.3],
        [0.1, 0.0, 0.4, 0.5],
        [0.2, 0.4, 0.0, 0.6],
        [0.3, 0.5, 0.6, 0.0],
    ]
)


def test_figures_are_means_over_pairs() -> None:
    quality = group_quality(DISTANCE, Partition(((0, 2, 3), (1,)), "spectral", ("a note",)))
    assert quality.sizes == (3, 1)
    assert quality.within_mean == pytest.approx((0.2 + 0.3 + 0.6) / 3)
    assert quality.between_mean == pytest.approx((0.1 + 0.4 + 0.5) / 3)
    assert quality.ratio == pytest.approx(1.1)
    assert quality.closest_within == pytest.approx(0.2)
    assert quality.group_means == (pytest.approx(1.1 / 3), None)
    record = json.loads(json.dumps(quality.as_record(), allow_nan=False))
    assert record["notes"] == ["a note"]


def test_missing_pairs_have_no_figure() -> None:
    single = group_quality(DISTANCE, Partition(((0, 1, 2, 3),), "single"))
    assert single.within_mean == pytest.approx(0.35)
    assert (single.between_mean, single.ratio) == (None, None)
    apart = group_quality(DISTANCE, Partition(((0,), (1,), (2,), (3,)), "spectral"))
    assert (apart.within_mean, apart.ratio, apart.closest_within) == (None, None, None)
    assert apart.between_mean == pytest.approx(0.35)
    same = group_quality(torch.zeros(4, 4), Partition(((0, 1), (2, 3)), "random"))
    assert (same.within_mean, same.between_mean, same.ratio) == (0, 0, None)


def test_rows_name_the_members() -> None:
    labels = {
        "names": ["m0", "m1", "m2", "m3"],
        "domains": ["latin", "greek", "latin", "latin"],
        "architectures": ["conv4", "conv4", "thin-resnet", "conv4"],
    }
    first, second = group_rows(DISTANCE, Partition(((3, 1), (0, 2)), "dispersed"), **labels)
    assert first.members == ("m3", "m1")
    assert first.domains == {"greek": 1, "latin": 1}
    assert first.architectures == {"conv4": 2}
    assert first.mean_distance == pytest.approx(0.5)
    assert (second.index, second.domains) == (1, {"latin": 2})
    with raises(DataError, subject="group table", problem="4 teachers"):
        group_rows(DISTANCE, Partition(((3, 1), (0, 2)), "dispersed"), **{**labels, "names": ["m0"]})


@pytest.mark.parametrize("groups", [((0, 1), (2,)), ((0, 1), (1, 2, 3)), ((0, 1), (2, 3, 4))])
def test_a_grouping_that_is_no_partition_is_refused(groups: tuple[tuple[int, ...], ...]) -> None:
    with raises(DataError, subject="groups", problem="not a partition of the 4 teachers"):
        group_quality(DISTANCE, Partition(groups, "random"))


def test_draws_are_uniform_over_groups_and_without_replacement() -> None:
    grouping = Partition(((4, 0, 6, 2), (1,), (3, 5)), "spectral")
    generator = torch.Generator().manual_seed(0)
    groups, members = Counter(), Counter()
    for _ in range(3000):
        number, drawn = draw_members(grouping, 2, generator)
        assert len(drawn) == min(2, len(grouping.groups[number]))
        assert len(set(drawn)) == len(drawn)
        assert set(drawn) <= set(grouping.groups[number])
        groups[number] += 1
        members.update(drawn)
    assert all(groups[number] == pytest.approx(1000, abs=110) for number in range(3))
    assert all(members[index] == pytest.approx(500, abs=90) for index in (4, 0, 6, 2))
    again = [draw_members(grouping, 3, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert again[0] == again[1]
    with raises(UsageError, subject="group_size", problem="0"):
        draw_members(grouping, 0, generator)


def test_with_replacement_a_member_may_be_drawn_several_times() -> None:
    grouping, random = Partition(((0, 1), (2, 3)), "random"), torch.Generator().manual_seed(0)
    drawn = [draw_members(grouping, 4, random, replacement=True)[1] for _ in range(200)]
    assert {len(members) for members in drawn} == {4}
    assert all(set(members) <= {0, 1} or set(members) <= {2, 3} for members in drawn)
    assert any(len(set(members)) == 1 for members in drawn)
    assert abs(sum(members.count(0) for members in drawn) - 200) < 70


def test_members_are_drawn_by_their_weights() -> None:
    grouping, random = Partition(((0, 1), (2, 3)), "random"), torch.Generator().manual_seed(0)
    weights = torch.tensor([1.0, 0.5, 0.25, 0.25])
    drawn = Counter(draw_members(grouping, 1, random, weights=weights)[1] for _ in range(4000))
    for member, share in enumerate((0.5, 0.25, 0.125, 0.125)):
        assert drawn[(member,)] / 4000 == pytest.approx(share, abs=0.03)
    both = [draw_members(grouping, 3, random, weights=weights)[1] for _ in range(20)]
    assert {tuple(sorted(members)) for members in both} == {(0, 1), (2, 3)}
    again = [draw_members(grouping, 4, random, weights=weights, replacement=True)[1] for _ in range(20)]
    assert {len(members) for members in again} == {4}
