import torch
from torch import nn
from torch.func import functional_call

from metazoo.execution.threads import ThreadCopies, WorkerThreads


def test_each_thread_has_one_copy_with_the_same_tensors() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    copies = ThreadCopies(module)
    own = copies.own
    assert own is copies.own
    found = list(WorkerThreads(2).map(lambda _: (copies.own, copies.own), range(8)))
    assert all(one is two and one is not own and one is not module for one, two in found)
    for copied in {own, *(one for one, _ in found)}:
        for mine, theirs in zip(copied.parameters(), module.parameters(), strict=True):
            assert mine is theirs
        for mine, theirs in zip(copied.buffers(), module.buffers(), strict=True):
            assert mine is theirs


def test_what_a_thread_puts_into_its_copy_reaches_no_other() -> None:
    module = nn.Linear(4, 2, bias=False).double()
    copies = ThreadCopies(module)
    images = torch.ones(1, 4, dtype=torch.float64)

    def called(factor: int) -> bool:
        weight = torch.full((2, 4), float(factor), dtype=torch.float64)
        copies.own.training = bool(factor % 2)
        outputs = [functional_call(copies.own, {"weight": weight}, (images,)) for _ in range(50)]
        return all(bool((output == 4 * factor).all()) for output in outputs)

    assert all(WorkerThreads(4).map(called, range(40)))
    assert module.training
    with torch.no_grad():
        module.weight.fill_(7)
    assert bool((copies.own(images) == 28).all())
