"""The identities of implicit gradient regularisation, in float64 on a small smooth network."""

import itertools
import math

import pytest
import torch
from error_checks import raises
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from metazoo.errors import UsageError
from metazoo.execution.threads import WorkerThreads
from metazoo.learn.regularisers import (
    ExplicitRegularisation,
    ImplicitRegularisation,
    Loss,
    MeanGradient,
    Parameters,
    Regulariser,
)

ALL = [MeanGradient(), ImplicitRegularisation(0.1, 0.3), ExplicitRegularisation(0.3)]


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def loss_of(seed: int) -> Loss:
    random = torch.Generator().manual_seed(seed)
    inputs = torch.randn(7, 5, generator=random, dtype=torch.float64)
    labels = torch.randint(3, (7,), generator=random)
    module = network()
    return lambda parameters: functional.cross_entropy(functional_call(module, parameters, (inputs,)), labels)


LOSSES = [loss_of(seed) for seed in range(4)]


@pytest.fixture
def parameters() -> Parameters:
    return dict(network().named_parameters())


def flat(values: Parameters) -> Tensor:
    return torch.cat([value.reshape(-1) for value in values.values()])


def gradient_of(value: Tensor, leaves: Parameters, *, create_graph: bool = False) -> Tensor:
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, [*leaves.values()], create_graph=create_graph)])


def member_gradients(parameters: Parameters) -> Tensor:
    return torch.stack([gradient_of(loss(parameters), parameters) for loss in LOSSES])


def disagreement(gradients: list[Tensor]) -> Tensor:
    pairs = itertools.combinations(gradients, 2)
    return sum(((a - b).square().sum() for a, b in pairs), torch.zeros(())) / (2 * len(gradients) ** 2)


def gradient_of_disagreement(parameters: Parameters) -> Tensor:
    attached = [gradient_of(loss(parameters), parameters, create_graph=True) for loss in LOSSES]
    return gradient_of(disagreement(attached), parameters)


def added(regulariser: Regulariser, parameters: Parameters) -> Tensor:
    """Change of the mean gradient by regularisation."""
    return flat(regulariser.direction(LOSSES, parameters).gradient) - member_gradients(parameters).mean(0)


def test_the_mean_is_the_mean(parameters: Parameters) -> None:
    direction = MeanGradient().direction(LOSSES, parameters)
    torch.testing.assert_close(flat(direction.gradient), member_gradients(parameters).mean(0))
    torch.testing.assert_close(direction.losses, torch.stack([loss(parameters) for loss in LOSSES]).detach())
    assert direction.relative_change == 0


def test_disagreement_equals_the_other_two_formulas(parameters: Parameters) -> None:
    reported = MeanGradient().direction(LOSSES, parameters).disagreement
    gradients = member_gradients(parameters)
    of_squares = (gradients.square().sum(1).mean() - gradients.mean(0).square().sum()) / 2
    torch.testing.assert_close(reported, of_squares)
    torch.testing.assert_close(reported, disagreement([*gradients]))


def test_the_explicit_form_is_the_gradient_of_the_regularised_loss(parameters: Parameters) -> None:
    attached = [gradient_of(loss(parameters), parameters, create_graph=True) for loss in LOSSES]
    mean_loss = torch.stack([loss(parameters) for loss in LOSSES]).mean()
    expected = gradient_of(mean_loss + 0.7 * disagreement(attached), parameters)
    direction = ExplicitRegularisation(0.7).direction(LOSSES, parameters)
    torch.testing.assert_close(flat(direction.gradient), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("differentiated", "coefficient"), [(False, 1.0), (True, 2.0)])
def test_the_implicit_form_adds_the_gradient_of_disagreement(
    parameters: Parameters, differentiated: bool, coefficient: float
) -> None:
    target = 0.3 * gradient_of_disagreement(parameters)

    def change(displacement: float) -> Tensor:
        form = ImplicitRegularisation(displacement, 0.3, differentiate_displacement=differentiated)
        return added(form, parameters)

    assert float(change(1e-4) @ target / target.square().sum()) == pytest.approx(coefficient, abs=1e-3)
    errors = [float((change(displacement) - coefficient * target).norm()) for displacement in (1e-1, 1e-2, 1e-3)]
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.02)


def test_differentiating_the_displacement_gives_the_slope_of_the_displaced_loss(parameters: Parameters) -> None:
    step, way = 0.1, torch.randn(len(flat(parameters)), generator=torch.Generator().manual_seed(9), dtype=torch.float64)

    def displaced_loss(shift: float) -> float:
        point = moved(parameters, -shift * way)
        gradients = member_gradients(point)
        points = [moved(point, step * (gradients.mean(0) - own)) for own in gradients]
        return torch.stack([loss(there) for loss, there in zip(LOSSES, points, strict=True)]).mean().item()

    slope = (displaced_loss(1e-5) - displaced_loss(-1e-5)) / 2e-5
    form = ImplicitRegularisation(step, step, differentiate_displacement=True)
    assert float(flat(form.direction(LOSSES, parameters).gradient) @ way) == pytest.approx(slope, rel=1e-7)


def moved(parameters: Parameters, step: Tensor) -> Parameters:
    parts = step.split([value.numel() for value in parameters.values()])
    return {
        name: (value.detach() - part.view_as(value)).requires_grad_(True)
        for (name, value), part in zip(parameters.items(), parts, strict=True)
    }


def test_strength_equal_to_displacement_is_the_mean_of_the_displaced_gradients(parameters: Parameters) -> None:
    gradients = member_gradients(parameters)
    there = []
    for loss, own in zip(LOSSES, gradients, strict=True):
        point = moved(parameters, 0.5 * (gradients.mean(0) - own))
        there.append(gradient_of(loss(point), point))
    direction = ImplicitRegularisation(0.5, 0.5).direction(LOSSES, parameters)
    torch.testing.assert_close(flat(direction.gradient), torch.stack(there).mean(0))


def test_displaced_points_can_be_judged_by_losses_of_their_own(parameters: Parameters) -> None:
    gradients, others = member_gradients(parameters), [*LOSSES[1:], LOSSES[0]]
    there = []
    for loss, own in zip(others, gradients, strict=True):
        point = moved(parameters, 0.5 * (gradients.mean(0) - own))
        there.append(gradient_of(loss(point), point))
    direction = ImplicitRegularisation(0.5, 0.5).direction(LOSSES, parameters, displaced=others)
    torch.testing.assert_close(flat(direction.gradient), torch.stack(there).mean(0))
    # Differentiated through, it is the gradient of the mean of these losses as a function of the parameters.
    published = ImplicitRegularisation(0.5, 0.5, differentiate_displacement=True)
    found = flat(published.direction(LOSSES, parameters, displaced=others).gradient)
    own = [torch.autograd.grad(loss(parameters), list(parameters.values()), create_graph=True) for loss in LOSSES]
    total = torch.tensor(0.0, dtype=found.dtype)
    for loss, gradient in zip(others, own, strict=True):
        means = [torch.stack(parts).mean(0) for parts in zip(*own, strict=True)]
        point = {
            name: value - 0.5 * (mean - part)
            for (name, value), mean, part in zip(parameters.items(), means, gradient, strict=True)
        }
        total = total + loss(point) / len(others)
    expected = torch.autograd.grad(total, list(parameters.values()))
    torch.testing.assert_close(found, torch.cat([part.reshape(-1) for part in expected]))


@pytest.mark.parametrize(
    "regulariser",
    [
        ImplicitRegularisation(0.1, 0.0),
        ImplicitRegularisation(0.1, 0.0, differentiate_displacement=True),
        ExplicitRegularisation(0.0),
    ],
)
def test_no_strength_is_the_mean(parameters: Parameters, regulariser: Regulariser) -> None:
    direction = regulariser.direction(LOSSES, parameters)
    assert torch.equal(flat(direction.gradient), flat(MeanGradient().direction(LOSSES, parameters).gradient))
    assert direction.relative_change == 0


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("regulariser", ALL)
def test_members_that_agree_are_not_changed(parameters: Parameters, regulariser: Regulariser, count: int) -> None:
    direction = regulariser.direction(LOSSES[:1] * count, parameters)
    torch.testing.assert_close(flat(direction.gradient), gradient_of(LOSSES[0](parameters), parameters))
    assert float(direction.agreement) == pytest.approx(1)
    assert float(direction.disagreement) == pytest.approx(0, abs=1e-25)
    assert float(direction.relative_change) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("regulariser", ALL)
def test_figures_are_those_of_the_undisplaced_gradients(parameters: Parameters, regulariser: Regulariser) -> None:
    direction, gradients = regulariser.direction(LOSSES, parameters), member_gradients(parameters)
    cosines = [functional.cosine_similarity(a, b, dim=0) for a, b in itertools.combinations(gradients, 2)]
    torch.testing.assert_close(direction.agreement, torch.stack(cosines).mean())
    assert float(direction.disagreement) > 0
    change = added(regulariser, parameters).norm() / gradients.mean(0).norm()
    assert float(direction.relative_change) == pytest.approx(float(change), abs=1e-12)


def test_a_step_against_disagreement_lowers_it(parameters: Parameters) -> None:
    step = added(ImplicitRegularisation(1e-3, 1.0), parameters)
    before, after = (
        float(disagreement([*member_gradients(point)])) for point in (parameters, moved(parameters, 0.05 * step))
    )
    assert after < before


@pytest.mark.parametrize("regulariser", [*ALL, ImplicitRegularisation(0.1, 0.3, differentiate_displacement=True)])
def test_a_parameter_that_no_loss_uses_has_no_gradient(parameters: Parameters, regulariser: Regulariser) -> None:
    unused = {"unused": torch.ones(2, 3, dtype=torch.float64)}
    direction = regulariser.direction(
        [lambda values, own=loss: own({name: values[name] for name in parameters}) for loss in LOSSES],
        unused | parameters,
    )
    assert {name: value.shape for name, value in direction.gradient.items()} == {
        name: value.shape for name, value in (unused | parameters).items()
    }
    assert not direction.gradient["unused"].any()
    expected = flat(regulariser.direction(LOSSES, parameters).gradient)
    torch.testing.assert_close(flat({name: direction.gradient[name] for name in parameters}), expected)


@pytest.mark.parametrize("regulariser", [*ALL, ImplicitRegularisation(0.1, 0.3, differentiate_displacement=True)])
def test_parameters_are_not_changed(parameters: Parameters, regulariser: Regulariser) -> None:
    before = {name: value.detach().clone() for name, value in parameters.items()}
    with torch.no_grad():  # a caller's mode does not matter
        direction = regulariser.direction(LOSSES, parameters)
    assert all(torch.equal(parameters[name], value) for name, value in before.items())
    assert all(value.grad is None and value.requires_grad and value.is_leaf for value in parameters.values())
    results = [*direction.gradient.values(), direction.losses, direction.agreement, direction.disagreement]
    assert not any(value.requires_grad for value in (*results, direction.relative_change))


@pytest.mark.parametrize("regulariser", [*ALL, ImplicitRegularisation(0.1, 0.3, differentiate_displacement=True)])
def test_a_linear_loss_has_no_curvature(regulariser: Regulariser) -> None:
    at = {"weight": torch.tensor(3.0, dtype=torch.float64)}
    direction = regulariser.direction([lambda p: 2 * p["weight"], lambda p: p["weight"].square()], at)
    assert bool(direction.gradient["weight"].isfinite())
    assert direction.losses.tolist() == [6, 9]
    if isinstance(regulariser, ExplicitRegularisation):
        strength = (float(direction.gradient["weight"]) - 4) / 2
        assert strength == pytest.approx(regulariser._strength)


@pytest.mark.parametrize("regulariser", [*ALL, ImplicitRegularisation(0.1, 0.3, differentiate_displacement=True)])
def test_threads_change_nothing(parameters: Parameters, regulariser: Regulariser) -> None:
    alone, shared = (regulariser.direction(LOSSES, parameters, WorkerThreads(count)) for count in (1, 2))
    assert torch.equal(flat(alone.gradient), flat(shared.gradient))
    for name in ("losses", "agreement", "disagreement", "relative_change"):
        assert torch.equal(getattr(alone, name), getattr(shared, name))


@pytest.mark.parametrize(
    ("displacement", "strength"), [(0.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (0.1, -1.0), (0.1, math.nan)]
)
def test_impossible_options_are_refused(displacement: float, strength: float) -> None:
    name, value = ("strength", strength) if displacement > 0 else ("displacement", displacement)
    with raises(UsageError, subject=f"regularisation.{name}", problem=str(value)):
        ImplicitRegularisation(displacement, strength)
    if displacement == 0.1:
        with raises(UsageError, subject="regularisation.strength", problem=str(strength)):
            ExplicitRegularisation(strength)
