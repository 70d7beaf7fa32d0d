import pytest
import torch

from metazoo.execution.repeat import Repeated


def test_every_step_is_called_on_a_cpu() -> None:
    values = torch.zeros(())

    def step() -> None:
        values.add_(1)

    repeated = Repeated(step, values.device)
    for done in range(1, 7):
        repeated()
        assert values.item() == done


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_plays_back_recordable_steps_and_calls_others() -> None:
    device = torch.device("cuda")
    values, waiting = torch.zeros(2, device=device)

    def step() -> None:
        values.add_(values * 2 + 1)

    def waits() -> None:
        waiting.add_(1 if waiting.item() < 5 else 10)

    repeated, called = Repeated(step, device), Repeated(waits, device)
    for _ in range(8):
        repeated()
        called()
    assert (values.item(), waiting.item()) == ((3**8 - 1) / 2, 5 + 3 * 10)
