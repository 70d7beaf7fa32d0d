"""Modules that several threads call with parameters of their own."""

import copy
import itertools
import threading
from typing import Generic, TypeVar, final

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


@final
class ThreadCopies(Generic[Module]):
    """One module as often as threads ask for it, all with the same tensors.

    `torch.func.functional_call` puts parameters into the module itself for the length of a call, as does
    `metazoo.learn.batch_norm` with flags and hooks, so no two threads may do so to one module at once.

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
