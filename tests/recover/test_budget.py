import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from metazoo.recover.budget import RecoveryBudget, chosen_classes, plan_buckets

counts = st.integers(1, 90)


@given(counts, counts, counts, counts, st.integers(0, 2**40), st.text(max_size=8))
def test_buckets_hold_every_image_once_in_nearly_equal_and_balanced_parts(
    classes: int, most_classes: int, each: int, size: int, seed: int, name: str
) -> None:
    budget = RecoveryBudget(images_per_class=each, classes_per_teacher=most_classes, bucket_size=size)
    buckets = plan_buckets(classes, budget, seed, name)
    chosen = min(classes, most_classes)
    assert len(buckets) == -(-chosen * each // size)
    sizes = [len(bucket) for bucket in buckets]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= size
    labels, totals = torch.cat(buckets).unique(return_counts=True)
    assert len(labels) == chosen
    assert totals.unique().tolist() == [each]
    assert 0 <= int(labels.min()) <= int(labels.max()) < classes
    for bucket in buckets:
        held = bucket.bincount(minlength=classes)[labels]
        assert int(held.max() - held.min()) <= 1  # hence the most different classes
        assert bucket.dtype == torch.int64


def test_seed_and_name_alone_decide_which_classes_are_taken_and_in_which_order() -> None:
    budget = RecoveryBudget(classes_per_teacher=10)
    first = plan_buckets(200, budget, 1, "a")
    assert all(torch.equal(one, two) for one, two in zip(first, plan_buckets(200, budget, 1, "a"), strict=True))
    later = RecoveryBudget(classes_per_teacher=10, generation=3)
    assert all(torch.equal(one, two) for one, two in zip(first, plan_buckets(200, later, 1, "a"), strict=True))
    chosen = [chosen_classes(200, budget, *of).sort().values.tolist() for of in ((1, "a"), (2, "a"), (1, "b"))]
    assert chosen[0] != chosen[1]
    assert chosen[0] != chosen[2]
    assert sorted(set(torch.cat(first).tolist())) == chosen[0]


def test_pixels_bound_the_buckets_of_large_inputs() -> None:
    budget = RecoveryBudget(bucket_size=150, bucket_pixels=150 * 84**2)
    sizes = {side: len(plan_buckets(64, budget, 0, "a", side)[0]) for side in (16, 84, 224, 5000)}
    assert sizes == {16: 148, 84: 148, 224: 21, 5000: 1}
    free = plan_buckets(64, RecoveryBudget(), 0, "a", 224)
    assert torch.equal(torch.cat(free), torch.cat(plan_buckets(64, budget, 0, "a", 224)))


def test_a_bucket_travels_without_the_others() -> None:
    (first, *_) = plan_buckets(64, RecoveryBudget(), 0, "a")
    assert first.untyped_storage().nbytes() == first.numel() * first.element_size()


@pytest.mark.parametrize(
    "wrong", [{"images_per_class": 0}, {"bucket_size": 0}, {"stored_side": 0}, {"generation": -1}, {"other": 1}]
)
def test_an_impossible_budget_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        RecoveryBudget(**wrong)
