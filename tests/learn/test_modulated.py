"""Modulated regularisation in float64: its limits, the gradient of its gate, and its training."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from error_checks import raises
from pydantic import ValidationError
from recorded_operations import RecordedOperations
from test_regularisers import LOSSES, flat, gradient_of_disagreement, loss_of, network
from torch import Tensor

from metazoo.errors import DataError
from metazoo.execution.repeat import Playback
from metazoo.execution.threads import WorkerThreads
from metazoo.learn.learning_config import RegularisationConfig
from metazoo.learn.modulated import GateConfig, ModulatedRegularisation
from metazoo.learn.regularisers import (
    DisagreementRegularisation,
    ExplicitRegularisation,
    ImplicitRegularisation,
    MeanGradient,
    Parameters,
)

HELD_OUT = loss_of(17)
INNER = [ExplicitRegularisation(0.3), ImplicitRegularisation(1e-3, 0.3), ImplicitRegularisation(0.1, 0.3)]


@pytest.fixture
def parameters() -> Parameters:
    return dict(network().named_parameters())


def with_bias(regulariser: ModulatedRegularisation, bias: float) -> ModulatedRegularisation:
    state = regulariser.state()
    regulariser.restore(state | {"output.bias": torch.tensor(bias, dtype=state["output.bias"].dtype)})
    return regulariser


def trained(steps: int, parameters: Parameters, rate: float = 0.05) -> ModulatedRegularisation:
    regulariser = ModulatedRegularisation(ExplicitRegularisation(0.3), GateConfig(learning_rate=rate, step=0.1))
    for _ in range(steps):
        regulariser.direction(LOSSES, parameters, held_out=HELD_OUT)
    return regulariser


@pytest.mark.parametrize("inner", INNER)
def test_a_closed_gate_gives_the_mean_and_a_first_gate_the_regularised_direction(
    parameters: Parameters, inner: DisagreementRegularisation
) -> None:
    closed = with_bias(ModulatedRegularisation(inner), -1e4).direction(LOSSES, parameters, held_out=HELD_OUT)
    mean = MeanGradient().direction(LOSSES, parameters)
    assert torch.equal(flat(closed.gradient), flat(mean.gradient))
    assert closed.relative_change == 0
    first = ModulatedRegularisation(inner).direction(LOSSES, parameters, held_out=HELD_OUT)
    regularised = inner.direction(LOSSES, parameters)
    assert torch.equal(flat(first.gradient), flat(regularised.gradient))
    for name in ("losses", "agreement", "disagreement", "relative_change"):
        assert torch.equal(getattr(first, name), getattr(regularised, name))
    opened = with_bias(ModulatedRegularisation(inner), 1e4).direction(LOSSES, parameters)
    change = flat(opened.gradient) - flat(mean.gradient)
    torch.testing.assert_close(change, 2 * (flat(regularised.gradient) - flat(mean.gradient)))


def test_at_one_it_adds_the_gradient_of_disagreement(parameters: Parameters) -> None:
    found = ModulatedRegularisation(ExplicitRegularisation(0.3)).direction(LOSSES, parameters)
    mean = flat(MeanGradient().direction(LOSSES, parameters).gradient)
    expected = mean + 0.3 * gradient_of_disagreement(parameters)
    torch.testing.assert_close(flat(found.gradient), expected, rtol=1e-12, atol=1e-14)


def gates_by_hand(state: dict[str, Tensor], parameters: Parameters) -> tuple[np.ndarray, ...]:
    """Gate of each tensor, in plain NumPy, with both gradients by tensor."""
    own = MeanGradient().direction(LOSSES, parameters).gradient
    added = gradient_of_disagreement(parameters) * 0.3
    parts = added.split([value.numel() for value in parameters.values()])
    weights = {name: value.double().numpy() for name, value in state.items()}
    gates = []
    for gradient, part in zip(own.values(), parts, strict=True):
        g, r = gradient.detach().numpy().ravel(), part.numpy()
        figures = np.array(
            [np.log10(np.linalg.norm(g)), np.log10(np.linalg.norm(r)), g @ r / np.linalg.norm(g) / np.linalg.norm(r)]
        )
        hidden = np.tanh(weights["hidden.weight"] @ figures + weights["hidden.bias"])
        gates.append(2 / (1 + np.exp(-hidden @ weights["output.weight"] - weights["output.bias"])))
    return np.array(gates), torch.cat([value.reshape(-1) for value in own.values()]).numpy(), added.numpy()


def held_out_loss(state: dict[str, Tensor], parameters: Parameters, step: float) -> float:
    """Loss of the held-out teacher after a step along the modulated gradient."""
    gates, own, added = gates_by_hand(state, parameters)
    sizes = [value.numel() for value in parameters.values()]
    joined = torch.from_numpy(own + np.repeat(gates, sizes) * added).split(sizes)
    there = {
        name: value.detach() - step * part.view_as(value)
        for (name, value), part in zip(parameters.items(), joined, strict=True)
    }
    return float(HELD_OUT(there))


def test_the_direction_uses_the_gates_of_a_trained_network(parameters: Parameters) -> None:
    regulariser = trained(3, parameters)
    random = torch.Generator().manual_seed(1)
    state = regulariser.state()
    weights = {"output.weight": torch.randn(8, generator=random).double(), "output.bias": torch.tensor(-0.5).double()}
    regulariser.restore(state | weights)
    gates, own, added = gates_by_hand(regulariser.state(), parameters)
    assert np.ptp(gates) > 0.05
    sizes = [value.numel() for value in parameters.values()]
    found = regulariser.direction(LOSSES, parameters)  # nothing is held out, so the gate is not trained
    np.testing.assert_allclose(flat(found.gradient).numpy(), own + np.repeat(gates, sizes) * added, rtol=1e-10)
    assert np.array_equal(gates_by_hand(regulariser.state(), parameters)[0], gates)


def test_the_gate_descends_along_the_gradient_of_the_held_out_loss(parameters: Parameters) -> None:
    step, regulariser = 0.1, trained(10, parameters)
    before = {name: value.clone() for name, value in regulariser.state().items()}
    regulariser.direction(LOSSES, parameters, held_out=HELD_OUT)
    after = regulariser.state()
    names = [name for name in before if name.split(".")[0] in ("hidden", "output")]
    for name in names:
        slopes = torch.zeros_like(before[name]).flatten()
        for index in range(slopes.numel()):  # finite differences of the loss after the step
            values = []
            for sign in (1, -1):
                shifted = before[name].clone()
                shifted.view(-1)[index] += sign * 1e-4
                values.append(held_out_loss(before | {name: shifted}, parameters, step))
            slopes[index] = (values[0] - values[1]) / 2e-4
        found = (after[f"first.{name}"] - 0.9 * before[f"first.{name}"]) / 0.1
        torch.testing.assert_close(found, slopes.view_as(found), rtol=1e-5, atol=1e-11)
        square = (after[f"second.{name}"] - 0.999 * before[f"second.{name}"]) / 0.001
        torch.testing.assert_close(square, slopes.view_as(found).square(), rtol=1e-4, atol=1e-20)


def test_the_gate_is_trained_by_adam(parameters: Parameters) -> None:
    regulariser = ModulatedRegularisation(ExplicitRegularisation(0.3), GateConfig(learning_rate=0.05, step=0.1))
    regulariser.direction(LOSSES, parameters)  # of which the tensors become those of the gradients
    names = [name for name in regulariser.state() if name.split(".")[0] in ("hidden", "output")]
    copies = {name: regulariser.state()[name].clone().requires_grad_() for name in names}
    adam = torch.optim.Adam(copies.values(), lr=0.05, eps=1e-15)
    for _ in range(6):
        moments = {name: regulariser.state()[f"first.{name}"].clone() for name in names}
        regulariser.direction(LOSSES, parameters, held_out=HELD_OUT)
        for name in names:
            copies[name].grad = (regulariser.state()[f"first.{name}"] - 0.9 * moments[name]) / 0.1
        adam.step()
    assert int(regulariser.state()["count"]) == 6
    for name in names:
        torch.testing.assert_close(regulariser.state()[name], copies[name].detach(), rtol=1e-6, atol=1e-9)


def test_training_lowers_the_held_out_loss(parameters: Parameters) -> None:
    losses = [held_out_loss(trained(steps, parameters).state(), parameters, 0.1) for steps in (1, 10, 40)]
    assert losses[0] > losses[1] > losses[2]
    unchanged = trained(5, parameters, rate=0.0)
    assert set(gates_by_hand(unchanged.state(), parameters)[0]) == {1.0}


def test_a_gradient_of_zero_is_no_trouble(parameters: Parameters) -> None:
    regulariser = ModulatedRegularisation(ImplicitRegularisation(0.1, 0.3))
    unused = {"unused": torch.ones(2, 3, dtype=torch.float64)} | parameters
    losses = [lambda values: LOSSES[0]({name: values[name] for name in parameters})] * 2  # no disagreement
    for _ in range(3):
        found = regulariser.direction(losses, unused, held_out=lambda values: values["unused"].sum())
        assert all(bool(value.isfinite().all()) for value in found.gradient.values())
    assert all(bool(value.isfinite().all()) for value in regulariser.state().values())


def test_a_state_is_restored_or_refused(parameters: Parameters) -> None:
    regulariser = trained(3, parameters)
    again = ModulatedRegularisation(ExplicitRegularisation(0.3), GateConfig(learning_rate=0.05, step=0.1))
    again.restore({})
    again.restore(regulariser.state())
    found = [own.direction(LOSSES, parameters, held_out=HELD_OUT).gradient for own in (regulariser, again)]
    assert torch.equal(flat(found[0]), flat(found[1]))
    assert all(torch.equal(value, again.state()[name]) for name, value in regulariser.state().items())
    state = again.state()
    for wrong in ({"gate": torch.ones(1)}, {**state, "output.bias": torch.ones(2)}, {"count": state["count"]}):
        with raises(DataError, subject="checkpoint", problem="regulariser", remedy="start the run again"):
            again.restore(wrong)


def test_threads_and_the_caller_change_nothing(parameters: Parameters) -> None:
    before = {name: value.detach().clone() for name, value in parameters.items()}
    found = []
    for threads, gradients in itertools.product((1, 2), (True, False)):
        regulariser = trained(2, parameters)
        with torch.set_grad_enabled(gradients):
            direction = regulariser.direction(LOSSES, parameters, WorkerThreads(threads), held_out=HELD_OUT)
        found.append((flat(direction.gradient), *regulariser.state().values()))
        assert not any(value.requires_grad for value in (*found[-1], direction.losses, direction.relative_change))
    assert all(torch.equal(*pair) for other in found[1:] for pair in zip(found[0], other, strict=True))
    assert all(torch.equal(parameters[name], value) for name, value in before.items())


def test_it_is_played_back_as_it_is_called(parameters: Parameters) -> None:
    called, played = trained(1, parameters), trained(1, parameters)
    scale = [torch.tensor(value, dtype=torch.float64) for value in (1.0, 0.7, 1.4)]

    def step(regulariser: ModulatedRegularisation) -> Any:
        return lambda by: (
            regulariser.direction(LOSSES, parameters, held_out=lambda values: by * HELD_OUT(values)).gradient
        )

    graph = RecordedOperations()
    playback = Playback(step(played), scale[:1], graph, 0)
    for by in scale:
        assert torch.equal(flat(playback(by)), flat(step(called)(by)))
    assert graph.replays == 3
    assert all(torch.equal(value, played.state()[name]) for name, value in called.state().items())


def test_it_is_chosen_by_name(parameters: Parameters) -> None:
    options = {"kind": "modulated", "displacement": 0.1, "strength": 0.05, "every": 2, "gate": {"learning_rate": 0.0}}
    built = RegularisationConfig.model_validate(options).build()
    found = built.direction(LOSSES, parameters, held_out=HELD_OUT)
    expected = ImplicitRegularisation(0.1, 0.1).direction(LOSSES, parameters)
    assert torch.equal(flat(found.gradient), flat(expected.gradient))
    assert built.needs_held_out
    for wrong in ({"step": 0}, {"learning_rate": -1}, {"learning_rate": float("nan")}, {"rate": 1}):
        with pytest.raises(ValidationError):
            GateConfig.model_validate(wrong)
