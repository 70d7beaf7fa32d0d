"""Transfer of units of work to other processes, and of results back.

This module does not import torch, which takes seconds. A process imports it with the first unit that needs it.
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
    """Function and the units to call it with.

    Attributes:
        function: module-level function or `functools.partial` of one.
        units: arguments of the calls.
        name_of: function for the name of a unit in errors.
        threads: number of torch threads per call.
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
        """Whether the function or something registered is defined in `__main__`, which no other process imports."""
        function: Any = getattr(self.function, "func", self.function)
        return "__main__" in (getattr(function, "__module__", None), *registered_modules())

    def do_here(self, index: int, check: Callable[[], None]) -> Result:
        """Do a unit in this process; `check_stop` within it calls `check`."""
        from metazoo.execution.threads import torch_threads  # imports torch, which takes seconds

        with torch_threads(self.threads), stopped_by(check):
            return _called(self.function, self.units[index], self.name(index))

    def packed(self, index: int) -> bytes:
        """Pack a unit with everything that `do_packed` needs in another process.

        Raises:
            RunError: the unit cannot be pickled.
        """
        name = self.name(index)
        try:
            # Not the pickling of multiprocessing, which passes tensors through shared memory: a container may lack it,
            # and a worker must outlive it. Pickles connect processes of one program only; no file holds them.
            content = pickle.dumps((self.function, self.units[index]))
        except Exception as error:
            raise RunError(name, f"cannot be pickled ({error})", "use a module-level function") from error
        return pickle.dumps((name, self.threads, sys.path, registered_modules(), content))

    def unpacked(self, index: int, answer: bytes) -> Result:
        """Return the result in an answer of `do_packed`, or raise its error."""
        try:
            succeeded, value = pickle.loads(answer)  # noqa: S301 - sent by a process of this program
        except Exception as error:
            problem = f"result cannot be unpickled ({type(error).__name__}: {error})"
            raise RunError(self.name(index), problem, "use plain results") from error
        if not succeeded:
            raise value
        return value


def do_packed(task: bytes) -> bytes:
    """Do a packed unit from another process, and pack its result or error."""
    name = "unit of work"
    try:
        name, threads, path, modules, content = pickle.loads(task)  # noqa: S301 - sent by a process of this program
        sys.path.extend(entry for entry in path if entry not in sys.path)
        for module in modules:
            _import(module)
        function, unit = pickle.loads(content)  # noqa: S301 - sent by a process of this program
        # Unpickling has imported the module of the function, and torch if the module uses it.
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.set_num_threads(threads)
        result = _called(function, unit, name)
        if torch is None and "torch" in sys.modules:
            raise RunError(name, "imports torch too late to set its threads", "import torch at the top of the module")
        return pickle.dumps((True, result))
    except MetazooError as error:
        return _packed(error)
    except Exception as error:
        problem = f"unit or result cannot be pickled ({error})"
        return _packed(RunError(name, problem, "use a module-level function with plain results"))


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:
        problem = f"import failed in another process ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        raise RunError(f"plugin {module!r}", problem, "use a module that its name can import, or one worker") from error


def _called(function: Callable[[Unit], Result], unit: Unit, name: str) -> Result:
    """Call `function(unit)`, with other errors than MetazooError converted to a RunError that names the unit."""
    try:
        return function(unit)
    except MetazooError:
        raise
    except (Exception, SystemExit) as error:
        raise RunError(name, f"{type(error).__name__}: {error}") from error


def _packed(error: MetazooError) -> bytes:
    if error.__cause__ is not None:
        error.add_note("In the worker process:\n" + "".join(traceback.format_exception(error.__cause__)).rstrip())
    try:
        packed = pickle.dumps((False, error))
        pickle.loads(packed)  # noqa: S301 - notices errors that cannot be unpickled
    except Exception:
        packed = pickle.dumps((False, RunError(str(error))))
    return packed
