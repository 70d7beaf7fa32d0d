"""Choice of models by policy gradient, against exact sums over all draws and loops written here."""

import itertools
import math

import pytest
import torch
from error_checks import raises
from torch import Tensor

from metazoo.errors import DataError
from metazoo.learn.model_choice import (
    ChoiceConfig,
    PolicyChoice,
    Reward,
    UniformChoice,
    log_probability,
    policy_gradient,
)

WEIGHTS = torch.tensor([0.3, -1.0, 2.0, 0.5], dtype=torch.float64)
DRAWS = list(itertools.permutations(range(4), 2))


def chance(weights: Tensor, drawn: tuple[int, ...]) -> Tensor:
    """Product of the shares of the drawn models among those that are left."""
    left, product = [*range(len(weights))], torch.ones((), dtype=torch.float64)
    for model in drawn:
        product = product * weights[model].exp() / sum(weights[other].exp() for other in left)
        left.remove(model)
    return product


def reward_of(drawn: tuple[int, ...]) -> float:
    return 10.0 * drawn[0] - 3.0 * drawn[1] ** 2


def test_probabilities_of_all_ordered_draws_sum_to_one() -> None:
    found = [log_probability(WEIGHTS, drawn).exp() for drawn in DRAWS]
    torch.testing.assert_close(torch.stack(found), torch.stack([chance(WEIGHTS, drawn) for drawn in DRAWS]))
    assert float(sum(found)) == pytest.approx(1)


@pytest.mark.parametrize("baseline", [0.0, 7.5])
def test_the_mean_estimate_is_the_gradient_of_the_expected_reward_for_any_baseline(baseline: float) -> None:
    leaf = WEIGHTS.clone().requires_grad_(True)
    loss = -sum((chance(leaf, drawn) * reward_of(drawn) for drawn in DRAWS), torch.zeros(()))
    (exact,) = torch.autograd.grad(loss, leaf)
    mean = torch.zeros(4, dtype=torch.float64)
    independent = torch.zeros(4, dtype=torch.float64)
    for drawn in DRAWS:
        share, advantage = chance(WEIGHTS, drawn), reward_of(drawn) - baseline
        mean += share * policy_gradient(WEIGHTS, drawn, advantage)
        of_draw = torch.zeros(4, dtype=torch.float64).index_add(0, torch.tensor(drawn), torch.ones(2).double())
        independent += share * -advantage * (of_draw - 2 * WEIGHTS.softmax(0))
    torch.testing.assert_close(mean, exact)
    assert not torch.allclose(independent, exact, rtol=0.05)  # as if the draws were independent


def test_draws_are_as_frequent_as_their_probabilities_say() -> None:
    choice = PolicyChoice(4, ChoiceConfig(models=2))
    choice.weights.copy_(WEIGHTS)
    random, count = torch.Generator().manual_seed(0), 20_000
    found = [choice.draw(random) for _ in range(count)]
    for drawn in DRAWS:
        expected = float(chance(WEIGHTS, drawn))
        spread = math.sqrt(expected * (1 - expected) / count)
        assert found.count(drawn) / count == pytest.approx(expected, abs=5 * spread)


def test_weights_and_baseline_follow_the_published_schedule() -> None:
    config = ChoiceConfig(models=2, learning_rate=0.1, steps_per_update=2)
    choice, random = PolicyChoice(4, config, 40), torch.Generator().manual_seed(1)
    weights = torch.nn.Parameter(torch.ones(4, dtype=torch.float64))
    adam = torch.optim.Adam([weights], 0.1)

    def move(drawn: tuple[int, ...], rewards: list[float], baseline: float) -> None:
        adam.zero_grad()
        (-chance(weights, drawn).log() * (sum(rewards) / len(rewards) - baseline)).backward()
        adam.step()

    first = choice.draw(random)
    for reward in (30.0, 50.0, 20.0):
        choice.observe(reward)
    move(first, [30, 50], 40)  # no advantage: the weights stay
    torch.testing.assert_close(choice.weights, weights.data)
    second = choice.draw(random)
    move(first, [20], 40)  # the rest, at the refill, before the baseline moves
    assert choice.baseline == pytest.approx(100 / 3)
    torch.testing.assert_close(choice.weights, weights.data)
    choice.observe(60)
    choice.observe(10)
    move(second, [60, 10], 100 / 3)
    torch.testing.assert_close(choice.weights, weights.data)
    choice.draw(random)
    assert choice.baseline == pytest.approx((100 / 3 + 35) / 2)


def test_a_rewarded_model_becomes_more_probable() -> None:
    choice = PolicyChoice(6, ChoiceConfig(models=2, steps_per_update=1), 40)
    for step in range(300):
        drawn = choice.draw(torch.Generator().manual_seed(step))
        choice.observe(50.0 - 20.0 * (0 in drawn))
    assert float(choice.probabilities[0]) < 0.05 < 1 / 6
    assert float(choice.probabilities.sum()) == pytest.approx(1)


def test_a_restored_choice_goes_on_as_the_former() -> None:
    config, draws = ChoiceConfig(models=2), []
    one = PolicyChoice(5, config)
    for step in range(7):
        one.draw(torch.Generator().manual_seed(step))
        for reward in range(3 + step % 3):
            one.observe(float(reward * step))
    other = PolicyChoice(5, config)
    other.restore({name: value.clone() for name, value in one.state().items()})
    for choice in (one, other):
        choice.observe(80.0)
        drawn = [choice.draw(torch.Generator().manual_seed(step)) for step in range(4)]
        draws.append((drawn, choice.weights.tolist(), choice.baseline))
    assert draws[0] == draws[1]
    with raises(DataError, subject="checkpoint", problem="choice of models", remedy="start the run again"):
        PolicyChoice(4, config).restore(one.state())


def test_at_most_all_models_are_chosen() -> None:
    for choice in (UniformChoice(3, 4), PolicyChoice(3, ChoiceConfig())):
        assert sorted(choice.draw(torch.Generator().manual_seed(0))) == [0, 1, 2]
        choice.observe(1.0)
    assert ChoiceConfig(strategy="uniform").build(3).probabilities.tolist() == [1 / 3] * 3


def test_a_plain_reward_is_the_mean_accuracy_in_percent() -> None:
    reward = Reward(lambda *_: ())
    assert reward.of([(0, 0.5), (0, 1.0)]) == 75
    assert reward.of([]) == 0


def test_a_centred_reward_does_not_depend_on_which_subjects_are_asked() -> None:
    reward = Reward(lambda *_: (), 3, centred=True)
    accuracies = (0.2, 0.5, 0.9)
    assert reward.of([*enumerate(accuracies)]) == 0  # nothing was expected
    for subject, accuracy in enumerate(accuracies):
        assert reward.of([(subject, accuracy)]) == 0
    assert reward.of([(0, 0.3), (2, 1.0)]) == pytest.approx(10)
    assert reward.of([(0, 0.21)]) == pytest.approx(0)  # its average has moved by a tenth
    other = Reward(lambda *_: (), 3, centred=True)
    other.restore({name: value.clone() for name, value in reward.state().items()})
    assert other.of([(1, 0.7)]) == reward.of([(1, 0.7)])
    for wrong in (Reward(lambda *_: ()), Reward(lambda *_: (), 2, centred=True)):
        with raises(DataError, subject="checkpoint", problem="reward", remedy="start"):
            wrong.restore(reward.state())
