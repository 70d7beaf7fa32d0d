import subprocess
import sys

import pytest
import torch
from torch import Tensor

from metazoo.execution.optimisers import Adam, GradientDescent, Optimiser

SHAPES = ((3, 4), (5,), (2, 3, 3, 3), ())
RATES = (0.1, 0.1, 0.02, 0.5, 0.003)


def values() -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=random) for shape in SHAPES]


def gradients(step: int) -> list[Tensor | None]:
    random = torch.Generator().manual_seed(step + 1)
    found: list[Tensor | None] = [torch.randn(shape, generator=random) for shape in SHAPES]
    found[1] = None if step < 2 else found[1]  # a tensor that is not used at first
    return found


def moved_by(optimiser: Optimiser, own: list[Tensor]) -> list[Tensor]:
    for step, rate in enumerate(RATES):
        optimiser.step(gradients(step), rate)
    return own


def moved_by_torch(optimiser: torch.optim.Optimizer, own: list[Tensor]) -> list[Tensor]:
    for step, rate in enumerate(RATES):
        optimiser.param_groups[0]["lr"] = rate
        for value, gradient in zip(own, gradients(step), strict=True):
            value.grad = gradient
        optimiser.step()
    return own


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_is_that_of_torch_bit_for_bit(decay: float) -> None:
    own, theirs = values(), values()
    moved_by(Adam(own, weight_decay=decay), own)
    moved_by_torch(torch.optim.Adam(theirs, weight_decay=decay), theirs)
    assert all(torch.equal(one, other) for one, other in zip(own, theirs, strict=True))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_gradient_descent_is_that_of_torch_bit_for_bit(momentum: float, decay: float) -> None:
    own, theirs = values(), values()
    moved_by(GradientDescent(own, momentum=momentum, weight_decay=decay), own)
    moved_by_torch(torch.optim.SGD(theirs, momentum=momentum, weight_decay=decay), theirs)
    assert all(torch.equal(one, other) for one, other in zip(own, theirs, strict=True))


def test_adam_resumes_from_its_state() -> None:
    whole, parts = values(), values()
    moved_by(Adam(whole), whole)
    first = Adam(parts)
    for step, rate in enumerate(RATES[:3]):
        first.step(gradients(step), rate)
    state = [{name: tensor.clone() for name, tensor in state.items()} for state in first.state()]
    second = Adam(parts)
    second.restore(state)
    for step, rate in enumerate(RATES[3:], 3):
        second.step(gradients(step), rate)
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))
    with pytest.raises(KeyError):
        second.restore([{"step": torch.zeros(())}] * len(SHAPES))


def test_a_step_does_not_import_the_compiler_of_torch() -> None:
    code = (
        "import sys, torch\n"
        "from metazoo.execution.optimisers import Adam, GradientDescent\n"
        "value = torch.ones(3)\n"
        "for optimiser in (Adam([value]), GradientDescent([value])):\n"
        "    optimiser.step([torch.ones(3)], 0.1)\n"
        "sys.exit('torch._dynamo' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
