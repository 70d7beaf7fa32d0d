"""Units of work on their way to another process, and back as results.

Nothing here imports torch: that takes seconds, and a process does so with the first unit whose function needs it.
"""

import importlib
import pickle
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from metazoo.errors import MetazooError, RunError
from metazoo.execution.signals import stopped_by
from metazoo.plugins import registered_modules

Unit = TypeVar("Unit")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Work(Generic[Unit, Result]):
    """A function and the units it is called with.

    Attributes:
        function: module-level function, or a `functools.partial` of one.
        units: arguments of its calls.
        name_of: name of a unit in errors.
        threads: torch threads of each call.
    """

    function: Callable[[Unit], Result]
    units: Sequence[Unit]
    name_of: Callable[[Unit], str] = str
    threads: int = 1

    def name(self, index: int) -> str:
        """Name of a unit in errors."""
        return self.name_of(self.units[index])

    @property
    def needs_this_process(self) -> bool:
        """Whether the function, or something registered, is known to `__main__` alone, which no process imports."""
        function: Any = getattr(self.function, "func", self.function)
        return "__main__" in (getattr(function, "__module__", None), *registered_modules())

    def do_here(self, index: int, check: Callable[[], None]) -> Result:
        """The result of a unit, computed in this process; `check_stop` within it calls `check`."""
        from metazoo.execution.threads import torch_threads  # and torch, which takes seconds

        with torch_threads(self.threads), stopped_by(check):
            return _called(self.function, self.units[index], self.name(index))

    def packed(self, index: int) -> bytes:
        """A unit for `do_packed`, with all that another process must know.

        Raises:
            RunError: it cannot be pickled.
        """
        name = self.name(index)
        try:
            # Plain pickling, not multiprocessing's: that would pass tensors through shared memory, which a container
            # may lack and which a worker must outlive. It connects processes of one program; no file holds it.
            content = pickle.dumps((self.function, self.units[index]))
        except Exception as error:
            raise RunError(
                f"{name} cannot be sent to another process ({error}); give a module-level function"
            ) from error
        return pickle.dumps((name, self.threads, sys.path, registered_modules(), content))

    def unpacked(self, index: int, answer: bytes) -> Result:
        """The result in what `do_packed` has returned; an error is raised."""
        try:
            succeeded, value = pickle.loads(answer)  # noqa: S301 - sent by a process of this program
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            raise RunError(f"the result of {self.name(index)} cannot be received: {problem}") from error
        if not succeeded:
            raise value
        return value


def do_packed(task: bytes) -> bytes:
    """Do a unit that another process has packed, and pack its result or its error."""
    name = "a unit"
    try:
        name, threads, path, modules, content = pickle.loads(task)  # noqa: S301 - sent by the process that this one serves
        sys.path.extend(entry for entry in path if entry not in sys.path)
        for module in modules:
            _import(module)
        function, unit = pickle.loads(content)  # noqa: S301 - likewise
        # With the function came its module, and torch if that module uses it.
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.set_num_threads(threads)
        result = _called(function, unit, name)
        if torch is None and "torch" in sys.modules:
            raise RunError(f"{name} imports torch too late to set its threads; import it at the top of the module")
        return pickle.dumps((True, result))
    except MetazooError as error:
        return _packed(error)
    except Exception as error:
        remedy = "give a module-level function with plain results"
        return _packed(RunError(f"{name} or its result cannot travel between processes ({error}); {remedy}"))


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as error:
        problem = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        remedy = "use a module that can be imported by its name, or one worker"
        raise RunError(f"plugin {module!r} cannot be imported in another process ({problem}); {remedy}") from error


def _called(function: Callable[[Unit], Result], unit: Unit, name: str) -> Result:
    """`function(unit)`; whatever is no MetazooError becomes a RunError that names the unit."""
    try:
        return function(unit)
    except MetazooError:
        raise
    except (Exception, SystemExit) as error:
        raise RunError(f"{name} failed: {type(error).__name__}: {error}") from error


def _packed(error: MetazooError) -> bytes:
    if error.__cause__ is not None:
        error.add_note("In the worker process:\n" + "".join(traceback.format_exception(error.__cause__)).rstrip())
    try:
        packed = pickle.dumps((False, error))
        pickle.loads(packed)  # noqa: S301 - an error that cannot be rebuilt must be noticed on this side
    except Exception:
        packed = pickle.dumps((False, RunError(str(error))))
    return packed
