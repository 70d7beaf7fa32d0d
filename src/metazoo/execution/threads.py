"""Threads: number of torch threads, and calls in several threads of this process."""

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
    """Let torch use `count` threads (at least 1) within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@final
class WorkerThreads:
    """Threads of this process for parallel calls, each with as many torch threads as the caller uses.

    Small networks gain more from them than from torch threads, which synchronise after every small operation. The
    number of worker threads does not change results.

    Args:
        count: number of threads, at least 1; with 1, the calling thread does all calls.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count) if count > 1 else None

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield `function` of each item, in order, with at most `2 * count` items taken ahead.

        The calling thread iterates over the items. The first error ends the iteration after all running calls.
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
"""The calling thread alone."""


def threads_for(workers: int) -> WorkerThreads:
    """Worker threads that use `workers` torch threads in total, with the current number of torch threads each."""
    return WorkerThreads(max(1, workers // torch.get_num_threads()))


def _first(pending: deque[Future[Result]]) -> Result:
    result = pending[0].result()  # popped only afterwards, since the wait may be interrupted
    pending.popleft()
    return result


def _called(caller: tuple[int, bool], function: Callable[[Item], Result], item: Item) -> Result:
    """Call `function(item)` with the thread-local state of torch in the calling thread."""
    threads, gradients = caller
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    with torch.set_grad_enabled(gradients):
        return function(item)


Module = TypeVar("Module", bound=nn.Module)


@final
class ThreadCopies(Generic[Module]):
    """Copies of a module, one per thread, with shared tensors.

    `torch.func.functional_call` and `metazoo.features.batch_norm` change the module itself during a call, so two
    threads must not use one module at once.

    Args:
        module: module to copy when a thread first asks for its copy; copies do not change it.
    """

    def __init__(self, module: Module) -> None:
        self._module, self._copies = module, threading.local()

    @property
    def own(self) -> Module:
        """Copy of the calling thread."""
        found: Module | None = getattr(self._copies, "own", None)
        if found is None:
            tensors = itertools.chain(self._module.parameters(), self._module.buffers())
            found = copy.deepcopy(self._module, {id(tensor): tensor for tensor in tensors})
            self._copies.own = found
        return found
