"""Weights and choices by the predictions of models, compared with loops; the stage in runs is in tests/runs."""

import pytest
import torch
from pydantic import ValidationError

from metazoo.pipeline.unlabelled_stage import UnlabelledConfig, draw_weights, most_confident

LABELS = torch.tensor([0, 2, 0, 2, 2, 0, 5])
CONFIDENCES = torch.tensor([0.1, 0.8, 0.7, 0.4, 0.8, 0.2, 0.3])


def test_every_predicted_class_is_drawn_alike_and_confident_images_more_often() -> None:
    weights = draw_weights(LABELS, CONFIDENCES)
    for label in (0, 2, 5):
        own = label == LABELS
        assert float(weights[own].sum() / weights.sum()) == pytest.approx(1 / 3)
        shares = CONFIDENCES[own].double() / CONFIDENCES[own].double().sum()
        assert (weights[own] / weights[own].sum()).tolist() == pytest.approx(shares.tolist())


def test_a_rare_class_is_not_drawn_all_the_time() -> None:
    labels = torch.zeros(1000, dtype=torch.int64)
    labels[3] = 1
    weights = draw_weights(labels, torch.full((1000,), 0.5))
    chance = float(weights[3] / weights.sum())
    assert 0.005 < chance < 0.02  # 0.5 without a bound, 0.001 without balance


def test_a_model_that_knows_nothing_draws_all_images_alike() -> None:
    assert draw_weights(LABELS, torch.zeros(7)).tolist() == [1.0] * 7


@pytest.mark.parametrize(("per_class", "classes"), [(1, 9), (2, 9), (9, 9), (2, 1), (1, 2)])
def test_the_most_confident_images_of_each_class_are_chosen(per_class: int, classes: int) -> None:
    ranked = {}
    for label in (0, 2, 5):
        own = [index for index in range(7) if LABELS[index] == label]
        ranked[label] = sorted(own, key=lambda index: -float(CONFIDENCES[index]))[:per_class]
    expected: list[int] = []
    for rank in range(per_class):  # in turns, so that classes are balanced
        expected += [own[rank] for own in ranked.values() if rank < len(own)]
    chosen = most_confident(LABELS, CONFIDENCES, per_class, classes)
    assert sorted(chosen.tolist()) == sorted(expected[: per_class * classes])


@pytest.mark.parametrize("share", [0, 1.01, -0.5, float("nan")])
def test_a_share_is_above_0_and_at_most_1(share: float) -> None:
    with pytest.raises(ValidationError):
        UnlabelledConfig(share=share)
