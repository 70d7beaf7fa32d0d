import pytest
import torch

from metazoo.run.repeat import Repeated, give_back_memory


def test_every_step_is_called_on_a_cpu() -> None:
    values = torch.zeros(())

    def step() -> None:
        values.add_(1)

    repeated = Repeated(step, values.device)
    for done in range(1, 7):
        repeated()
        assert values.item() == done


@pytest.mark.parametrize(("device", "free", "given"), [("cuda", 4, [1]), ("cuda", 6, []), ("cpu", 0, [])])
def test_memory_is_given_back_where_little_is_left(
    device: str, free: int, given: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 10))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append(1))
    give_back_memory(torch.device(device))
    assert calls == given


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_plays_back_what_can_be_recorded_and_calls_the_rest() -> None:
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
