"""The update rule `reptile`: against loops in NumPy, its expansion, and the alignment of gradients that it brings."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from learn_helpers import resident_bank, student, targets
from torch import Tensor

from metazoo.errors import DataError
from metazoo.learn.group_learning import GroupLearner
from metazoo.learn.learning_config import LearningConfig, RegularisationConfig
from metazoo.learn.meta_optimiser import MetaOptimiser
from metazoo.learn.regularisers import Loss, MeanGradient, Parameters
from metazoo.learn.update_rules import MemberStep, Reptile, ReptileConfig
from metazoo.taskspace import FixedGrouping, Partition

SIZE = 4
RANDOM = np.random.default_rng(0)
CURVATURES = [(half @ half.T) / SIZE + 0.1 * np.eye(SIZE) for half in RANDOM.normal(size=(3, SIZE, SIZE))]
OPTIMA = RANDOM.normal(size=(3, SIZE))
CUBIC = 0.3
START = RANDOM.normal(size=SIZE)
SCALE = 67.0


def loss_of(member: int) -> Loss:
    """A quadratic with a cubic term, so that its Hessian is not constant."""
    curvature, optimum = torch.tensor(CURVATURES[member]), torch.tensor(OPTIMA[member])

    def loss(parameters: Parameters) -> Tensor:
        away = parameters["w"] - optimum
        return away @ curvature @ away / 2 + CUBIC * away.pow(3).sum() / 6

    return loss


def gradient_of(member: int, values: np.ndarray) -> np.ndarray:
    away = values - OPTIMA[member]
    return CURVATURES[member] @ away + CUBIC * away**2 / 2


def hessian_of(member: int, values: np.ndarray) -> np.ndarray:
    return CURVATURES[member] + np.diag(CUBIC * (values - OPTIMA[member]))


def way_of(config: ReptileConfig, members: Sequence[int], size: int = 1) -> np.ndarray:
    """Direction along which the outer optimiser descends, divided by the scale."""
    given: list[Parameters] = []
    parameters = {"w": torch.tensor(START)}
    optimiser = MetaOptimiser(parameters, 0.1)
    real = optimiser.step

    def noted(direction: Parameters, learning_rate: float | None = None) -> None:
        assert torch.equal(parameters["w"], torch.tensor(START))  # restored
        given.append({name: value.clone() for name, value in direction.items()})
        real(direction, learning_rate)

    optimiser.step = noted  # pyright: ignore[reportAttributeAccessIssue]
    losses = [loss_of(member) for member in members]
    step = MemberStep(
        members,
        lambda positions: MeanGradient().direction([losses[index] for index in positions], parameters),
        lambda: torch.zeros(len(members)),
        optimiser,
    )
    Reptile(size, config).step(step)
    assert len(given) == 1
    assert not torch.equal(parameters["w"], torch.tensor(START))
    return given[0]["w"].numpy() / config.scale


def descent(rate: float) -> ReptileConfig:
    return ReptileConfig(optimiser="sgd", learning_rate=rate, scale=SCALE)


def test_one_member_by_descent_is_its_gradient() -> None:
    np.testing.assert_allclose(way_of(descent(0.01), [1]), 0.01 * gradient_of(1, START), rtol=1e-12)


@pytest.mark.parametrize("members", [(0, 1), (1, 0), (2, 0, 1)])
def test_members_follow_each_other_as_in_a_loop(members: tuple[int, ...]) -> None:
    values = START.copy()
    for member in members:
        values = values - 0.05 * gradient_of(member, values)
    np.testing.assert_allclose(way_of(descent(0.05), members), START - values, rtol=1e-10)


def test_sub_groups_follow_each_other_by_their_mean_gradient() -> None:
    values = START - 0.05 * (gradient_of(0, START) + gradient_of(1, START)) / 2
    values = values - 0.05 * gradient_of(2, values)
    np.testing.assert_allclose(way_of(descent(0.05), (0, 1, 2), size=2), START - values, rtol=1e-10)


def test_the_inner_adam_begins_anew_at_every_step() -> None:
    values, mean, square = START.copy(), np.zeros(SIZE), np.zeros(SIZE)
    for number, member in enumerate((0, 1, 2), 1):
        gradient = gradient_of(member, values)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        values -= 0.02 * (mean / (1 - 0.9**number)) / (np.sqrt(square / (1 - 0.999**number)) + 1e-8)
    config = ReptileConfig(learning_rate=0.02)
    assert (config.optimiser, config.scale) == ("adam", 67)
    for _ in range(2):
        np.testing.assert_allclose(way_of(config, (0, 1, 2)), START - values, rtol=1e-6)


def test_the_way_of_two_members_expands_to_gradients_and_a_hessian_times_the_first() -> None:
    def rest(rate: float) -> float:
        first, second = gradient_of(0, START), gradient_of(1, START)
        expected = rate * (first + second) - rate**2 * hessian_of(1, START) @ first
        return float(np.linalg.norm(way_of(descent(rate), (0, 1)) - expected))

    coarse, fine = rest(0.04), rest(0.02)
    assert coarse > 1e-7
    assert coarse / fine == pytest.approx(8, rel=0.05)  # the rest is of third order


def test_over_all_orders_the_second_term_is_half_the_gradient_of_the_inner_products() -> None:
    rate, shift = 1e-3, 1e-5

    def inner_products(values: np.ndarray) -> float:
        gradients = [gradient_of(member, values) for member in range(3)]
        return sum(float(one @ other) for one, other in itertools.combinations(gradients, 2))

    ways = [way_of(descent(rate), order) for order in itertools.permutations(range(3))]
    total = sum(gradient_of(member, START) for member in range(3))
    second = (rate * total - np.mean(ways, 0)) / rate**2
    axes = np.eye(SIZE) * shift
    slope = [(inner_products(START + axis) - inner_products(START - axis)) / (2 * shift) for axis in axes]
    np.testing.assert_allclose(second, np.array(slope) / 2, rtol=5e-3)


def test_reptile_aligns_conflicting_gradients_better_than_mean_steps_of_equal_length() -> None:
    """Two tasks pull apart along one axis, and agree more where the other axis is larger."""

    def gradient(task: int, at: np.ndarray) -> np.ndarray:
        # L = (x - s)^2 exp(-y) / 2 with s = 1 and -1: the gradients conflict by x, less the larger y is.
        away = at[0] - (1.0 if task == 0 else -1.0)
        return np.array([away * np.exp(-at[1]), -(away**2) * np.exp(-at[1]) / 2 + 0.55])

    def loss(task: int) -> Loss:
        def value(parameters: Parameters) -> Tensor:
            x, y = parameters["w"]
            return (x - (1.0 if task == 0 else -1.0)).square() * torch.exp(-y) / 2 + 0.55 * y

        return value

    def walked(direction: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        at = np.array([0.0, 0.0])
        for _ in range(40):
            step = direction(at)
            at = at - 0.02 * step / np.linalg.norm(step)
        return at

    def reptile(at: np.ndarray) -> np.ndarray:
        parameters = {"w": torch.tensor(at)}
        total = np.zeros(2)
        for order in ((0, 1), (1, 0)):
            taken: list[Tensor] = []
            optimiser = MetaOptimiser(parameters, 0.1)
            optimiser.step = lambda found, _=None, taken=taken: taken.append(found["w"])  # pyright: ignore[reportAttributeAccessIssue]
            step = MemberStep(
                order,
                lambda positions, order=order: MeanGradient().direction(
                    [loss(order[index]) for index in positions], parameters
                ),
                lambda: torch.zeros(2),
                optimiser,
            )
            Reptile(1, ReptileConfig(optimiser="sgd", learning_rate=0.3)).step(step)
            total += taken[0].numpy()
        return total

    mean = walked(lambda at: gradient(0, at) + gradient(1, at))
    aligned = walked(reptile)
    products = [float(gradient(0, at) @ gradient(1, at)) for at in (np.zeros(2), mean, aligned)]
    assert products[0] < 0
    assert products[2] > products[1] + 0.05


def test_an_error_on_the_way_restores_the_parameters() -> None:
    parameters = {"w": torch.tensor(START)}

    def direct(positions: Sequence[int]) -> object:
        if 1 in positions:
            raise DataError("loss", "not finite", "nothing")
        return MeanGradient().direction([loss_of(0)], parameters)

    step = MemberStep((0, 1), direct, lambda: torch.zeros(2), MetaOptimiser(parameters, 0.1))  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError):
        Reptile().step(step)
    assert torch.equal(parameters["w"], torch.tensor(START))


def test_a_learner_of_groups_steps_by_reptile_and_resumes_bit_equal() -> None:
    config = LearningConfig(
        steps=8,
        teachers_per_step=3,
        batch_size=12,
        warm_up_steps=1,
        views=24,
        steps_per_views=5,
        update="reptile",
        regularisation=RegularisationConfig(every=2),
    )

    def learner() -> GroupLearner:
        return GroupLearner(
            student(), resident_bank(), FixedGrouping(Partition(((0, 1, 2),), "single")), targets, config, 0
        )

    whole, first, second = learner(), learner(), learner()
    reports = [whole.step() for _ in range(4)]
    assert all(bool(report.loss.isfinite()) for report in reports)
    for _ in range(2):
        first.step()
    second.restore(2, {name: value.clone() for name, value in first.state().items()})
    for _ in range(2):
        second.step()
    expected, found = whole.state(), second.state()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert {int(value) for name, value in found.items() if name.startswith("optimiser.step.")} == {4}
