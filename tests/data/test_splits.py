import torch
from error_checks import raises

from metazoo.data import ImageSet, assert_disjoint, split_images
from metazoo.errors import DataError, UsageError


def make(labels: list[int], groups: list[int] | None = None) -> ImageSet:
    count = len(labels)
    return ImageSet(
        images=torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 3, 8, 8),
        labels=torch.tensor(labels),
        class_names=tuple(f"c{index}" for index in range(max(labels) + 1)),
        groups=None if groups is None else torch.tensor(groups),
        name="made",
    )


def test_a_class_on_both_sides_is_named() -> None:
    assert_disjoint(("a", "b"), ("c",), [])
    with raises(DataError, subject="'b'"):
        assert_disjoint(("a", "b"), ("c",), ("d", "b"))


def test_first_four_fifths_of_every_class_train() -> None:
    whole = make([0, 1] * 10)
    training, validation = split_images(whole)
    assert training.images[:, 0, 0, 0].tolist() == list(range(16))
    assert validation.images[:, 0, 0, 0].tolist() == [16, 17, 18, 19]
    assert training.class_names == validation.class_names == whole.class_names


def test_groups_stay_whole_and_the_cut_is_the_nearest_border() -> None:
    # By first appearance: group 7 (3 images), 2 (4), 5 (2), 1 (1); borders after 3, 7, 9 of 10.
    whole = make([0] * 10, [7, 2, 7, 7, 2, 2, 5, 2, 5, 1])
    training, validation = split_images(whole, 0.8)
    assert training.groups is not None
    assert validation.groups is not None
    assert set(training.groups.tolist()) == {7, 2}
    assert set(validation.groups.tolist()) == {5, 1}
    # A group number means nothing across classes.
    split_images(make([0, 0, 1, 1], [3, 4, 3, 4]))


def test_a_class_that_cannot_stand_on_both_sides_is_named() -> None:
    with raises(DataError, subject="'c1' of made", problem="1 images"):
        split_images(make([0, 0, 1]))
    with raises(DataError, subject="'c0' of made", problem="1 groups"):
        split_images(make([0, 0, 0], [4, 4, 4]))
    with raises(UsageError, subject="training fraction", problem="not 1.0"):
        split_images(make([0, 0]), 1.0)
    training, validation = split_images(make([0, 0]))
    assert (len(training), len(validation)) == (1, 1)
