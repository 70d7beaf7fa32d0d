import itertools
import math
from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from metazoo.errors import DataError
from metazoo.learn.draw_policy import DrawPolicy, order_log_probability

LOGITS = torch.tensor([0.3, -1.2, 0.9, 2.0, 0.0], dtype=torch.float64)


def by_hand(weights: Sequence[float], order: Sequence[int]) -> float:
    left, probability = list(range(len(weights))), 1.0
    for place in order:
        probability *= weights[place] / sum(weights[other] for other in left)
        left.remove(place)
    return probability


def policy(size: int = 2, learning_rate: float = 0.1, prior: torch.Tensor | None = None) -> DrawPolicy:
    return DrawPolicy(5, size, learning_rate, prior=prior)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_orders_have_the_probability_of_one_choice_after_another(count: int) -> None:
    weights, total = LOGITS.exp().tolist(), 0.0
    for order in itertools.permutations(range(5), count):
        found = float(order_log_probability(LOGITS, order).exp())
        assert found == pytest.approx(by_hand(weights, order))
        total += found
    assert total == pytest.approx(1)


def test_its_gradient_is_the_closed_form() -> None:
    order, leaf = (3, 0, 1), LOGITS.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(order_log_probability(leaf, order), leaf)
    expected, left = torch.zeros_like(LOGITS), [0, 1, 2, 3, 4]
    for place in order:  # what was chosen, less the chance that each had
        expected[place] += 1
        expected[left] -= LOGITS[left].softmax(0)
        left.remove(place)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_score_of_the_draws_has_mean_zero(size: int) -> None:
    leaf = LOGITS.clone().requires_grad_(True)
    values = [order_log_probability(leaf, order) for order in itertools.permutations(range(5), size)]
    scores = [torch.autograd.grad(value, leaf)[0] for value in values]
    mean = sum(float(value.detach().exp()) * score for value, score in zip(values, scores, strict=True))
    torch.testing.assert_close(mean, torch.zeros_like(LOGITS))


def test_what_is_drawn_is_drawn_with_that_probability() -> None:
    random, count, own = torch.Generator().manual_seed(0), 8000, policy(prior=LOGITS.exp())
    torch.testing.assert_close(own.probabilities, LOGITS.softmax(0))
    drawn = Counter(own.draw(random) for _ in range(count))
    expected = {one: by_hand(LOGITS.exp().tolist(), one) for one in itertools.permutations(range(5), 2)}
    assert drawn.keys() <= expected.keys()
    for one, chance in expected.items():
        assert drawn[one] == pytest.approx(count * chance, abs=4.5 * math.sqrt(count * chance))


def learned(rewards: dict[int, float], noise: float, steps: int, scale: float = 1.0) -> DrawPolicy:
    own, random = policy(), torch.Generator().manual_seed(0)
    for _ in range(steps):
        drawn = own.draw(random)
        luck = noise * float(torch.randn((), generator=random))
        own.learn(drawn, scale * (50 + sum(rewards.get(member, 0.0) for member in drawn) + luck))
    return own


def test_a_model_that_helps_is_found_in_noise_and_one_that_harms_is_left() -> None:
    own = learned({4: 1.0, 2: -1.0}, noise=1.0, steps=400)
    assert int(own.probabilities.argmax()) == 4
    assert float(own.probabilities[4]) > 0.4
    assert float(own.probabilities[2]) < 0.1
    assert float(own.probabilities.sum()) == pytest.approx(1)


def test_the_unit_of_the_reward_does_not_matter() -> None:
    one, other = (learned({4: 1.0}, 1.0, 50, scale).preferences for scale in (1.0, 1000.0))
    torch.testing.assert_close(one, other)


def test_nothing_is_learned_of_a_first_reward_or_of_equal_ones() -> None:
    own = policy()
    assert [own.learn((3, 4), 25.0) for _ in range(3)] == [0, 0, 0]
    assert own.preferences.tolist() == [0] * 5
    assert own.learn((3, 4), 26.0) > 0
    assert own.preferences.tolist() == pytest.approx([-0.1, -0.1, -0.1, 0.1, 0.1], abs=1e-6)  # Adam's first step
    assert own.learn((1, 2), 20.0) < -1
    with pytest.raises(DataError, match="a reward of the selection is nan"):
        own.learn((3,), math.nan)


def test_restored_it_goes_on_as_if_it_had_not_stopped() -> None:
    whole, random = policy(), torch.Generator().manual_seed(1)
    restored = policy()
    for step in range(9):
        drawn = whole.draw(random)
        reward = float(torch.rand((), generator=random))
        assert whole.learn(drawn, reward) == (restored.learn(drawn, reward) if step > 4 else pytest.approx(0, abs=9))
        if step == 4:
            restored.restore({name: value.clone() for name, value in whole.state().items()})
    assert torch.equal(whole.preferences, restored.preferences)
    assert whole.preferences.unique().numel() > 1
    state = whole.state()
    for bad in (
        {},
        {**state, "parameters.preferences": torch.zeros(3)},
        {k: v for k, v in state.items() if k != "baseline"},
    ):
        with pytest.raises(DataError, match="checkpoint does not fit"):
            policy().restore(bad)
