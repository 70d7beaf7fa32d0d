import threading
import time
from collections.abc import Iterator

import pytest
import torch

from metazoo.execution.threads import CALLING_THREAD, WorkerThreads, threads_for, torch_threads


@pytest.mark.parametrize("count", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(count: int) -> None:
    def slow_at_first(number: int) -> int:
        time.sleep(0.02 if number == 0 else 0)
        return number**2

    assert list(WorkerThreads(count).map(slow_at_first, range(12))) == [number**2 for number in range(12)]


def test_calls_are_made_at_once() -> None:
    meeting = threading.Barrier(3)

    def meet(_: int) -> int:
        meeting.wait(timeout=60)
        return threading.get_ident()

    assert len(set(WorkerThreads(3).map(meet, range(3)))) == 3


def test_a_single_one_is_the_calling_thread() -> None:
    assert set(CALLING_THREAD.map(lambda _: threading.get_ident(), range(3))) == {threading.get_ident()}


@pytest.mark.parametrize(("workers", "torch_own", "count"), [(4, 1, 4), (4, 2, 2), (5, 2, 2), (1, 2, 1)])
def test_torch_threads_leave_room_for_fewer(workers: int, torch_own: int, count: int) -> None:
    with torch_threads(torch_own):
        assert threads_for(workers).count == count


def test_the_calling_thread_takes_no_more_items_than_are_needed() -> None:
    takers, taken, returned = set(), 0, 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(20):
            takers.add(threading.get_ident())
            taken += 1
            yield number

    for _ in WorkerThreads(2).map(lambda number: number, items()):
        returned += 1
        assert taken <= returned + 4
    assert takers == {threading.get_ident()}
    assert returned == 20


def test_the_first_error_ends_it_after_all_running_calls() -> None:
    at_work, later = 0, threading.Event()

    def work(number: int) -> None:
        nonlocal at_work
        if number == 0:
            raise ValueError("the first")
        at_work += 1
        later.wait(0.05)
        at_work -= 1

    threads = WorkerThreads(2)
    with pytest.raises(ValueError, match="the first"):
        list(threads.map(work, range(50)))
    assert at_work == 0
    assert list(threads.map(abs, [-1, -2])) == [1, 2]


def test_threads_count_and_differentiate_as_the_caller() -> None:
    def modes(_: int) -> tuple[int, bool]:
        return torch.get_num_threads(), torch.is_grad_enabled()

    threads = WorkerThreads(2)
    for count in (1, 2, 1):
        with torch_threads(count):
            assert set(threads.map(modes, range(4))) == {(count, True)}
            with torch.no_grad():
                assert set(threads.map(modes, range(4))) == {(count, False)}
