"""Threads: how many torch uses for a piece of work, and calls that several threads make at once."""

import contextlib
import copy
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar, final

import torch
from torch import nn

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads (at least 1) for the length of the block, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@final
class WorkerThreads:
    """Threads of this process that make calls at once, each with as many torch threads as the caller uses.

    Networks of this field gain more by it than by torch threads, which meet after every small operation; and as every
    call is computed as it would be alone, the number of worker threads changes no result.

    Args:
        count: at least 1; a single one is the caller's own.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count) if count > 1 else None

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """`function` of each item, in their order; at most twice as many are at work or waiting as there are threads.

        Items are taken by the calling thread. The first error ends the iteration, once no call is at work any more.
        """
        if self._pool is None:
            yield from map(function, items)
            return
        caller = torch.get_num_threads(), torch.is_grad_enabled()
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(self._pool.submit(_called, caller, function, item))
                if len(pending) == 2 * self.count:
                    yield _first(pending)
            while pending:
                yield _first(pending)
        finally:
            for future in pending:
                future.cancel()
            wait(pending)


CALLING_THREAD = WorkerThreads(1)
"""No other thread."""


def threads_for(workers: int) -> WorkerThreads:
    """Worker threads that together have one torch thread for each of so many workers, as torch is set now."""
    return WorkerThreads(max(1, workers // torch.get_num_threads()))


def _first(pending: deque[Future[Result]]) -> Result:
    result = pending[0].result()  # which stays there if the wait is broken off
    pending.popleft()
    return result


def _called(caller: tuple[int, bool], function: Callable[[Item], Result], item: Item) -> Result:
    """What torch keeps a thread at a time is made that of the caller."""
    threads, gradients = caller
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    with torch.set_grad_enabled(gradients):
        return function(item)


Module = TypeVar("Module", bound=nn.Module)


@final
class ThreadCopies(Generic[Module]):
    """One module as often as threads ask for it, all with the same tensors.

    `torch.func.functional_call` puts parameters into the module itself for the length of a call, as does
    `metazoo.features.batch_norm` with flags and hooks, so no two threads may do so to one module at once.

    Args:
        module: copied as it is when a thread first asks; it is never changed through its copies.
    """

    def __init__(self, module: Module) -> None:
        self._module, self._copies = module, threading.local()

    @property
    def own(self) -> Module:
        """The calling thread's."""
        found: Module | None = getattr(self._copies, "own", None)
        if found is None:
            tensors = itertools.chain(self._module.parameters(), self._module.buffers())
            found = copy.deepcopy(self._module, {id(tensor): tensor for tensor in tensors})
            self._copies.own = found
        return found
