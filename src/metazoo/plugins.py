"""Open registries: what the library can be extended with, by name.

An extension is one module that registers what it adds. It is imported because another package is installed that names
it as an entry point, or because the caller asks for it (`load_plugin`, `--plugin`). Nothing in a data file is ever
imported.
"""

import difflib
import importlib
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar, final

from metazoo.errors import UsageError

Value = TypeVar("Value")

_modules: dict[str, None] = {}


def registered_modules() -> tuple[str, ...]:
    """Names of the modules outside this package that have registered something, in the order of registration.

    `__main__` is among them where a script has registered something of its own; no other process can import that one.
    """
    return tuple(_modules)


def load_plugin(name: str) -> None:
    """Import the module or package `name`, which registers what it adds.

    Raises:
        UsageError: there is no such module, or importing it fails.
    """
    try:
        importlib.import_module(name)
    except Exception as error:
        raise UsageError(
            f"plugin {name[:100]!r} cannot be imported ({type(error).__name__}: {' '.join(str(error).split())[:200]}); "
            "give the name of an installed package or module"
        ) from error
    _modules.setdefault(name)


@final
class Registry(Generic[Value]):
    """Values by name, in the order of registration; those of entry points are loaded when they are asked for.

    Args:
        noun: of one value, for errors, such as `architecture`.
        group: of the entry points of other packages, such as `metazoo.architectures`; None: there are none.
    """

    def __init__(self, noun: str, group: str | None = None) -> None:
        self._noun, self._group = noun, group
        self._values: dict[str, Value] = {}

    def register(self, name: str, value: Value) -> Value:
        """Add a value; it is returned.

        Raises:
            UsageError: another value has this name.
        """
        if self._values.get(name, value) is not value:
            raise UsageError(f"there is a {self._noun} {name!r} already; register it under another name")
        self._values[name] = value
        owner = _registering_module()
        if owner is not None:
            _modules.setdefault(owner)
        return value

    def decorator(self, name: str) -> Callable[[Value], Value]:
        """A decorator that registers what it stands above."""
        return lambda value: self.register(name, value)

    def find(self, name: str) -> Value | None:
        """The value of that name; None if there is none."""
        if name not in self._values:
            for entry in self._entries():
                if entry.name == name:
                    self._load(entry)
        return self._values.get(name)

    def get(self, name: str) -> Value:
        """The value of that name.

        Raises:
            UsageError: there is none, or the entry point that names it cannot be loaded.
        """
        found = self.find(name)
        if found is None:
            close = difflib.get_close_matches(name, self.names(), n=1)
            meant = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(self.names())}"
            raise UsageError(
                f"unknown {self._noun} {name[:100]!r}; {meant} One of another package needs --plugin PACKAGE"
            )
        return found

    def names(self) -> tuple[str, ...]:
        """All names, those of entry points last; no entry point is loaded for it."""
        return tuple(dict.fromkeys((*self._values, *(entry.name for entry in self._entries()))))

    def _entries(self) -> tuple[EntryPoint, ...]:
        return () if self._group is None else tuple(entry_points(group=self._group))

    def _load(self, entry: EntryPoint) -> None:
        try:
            value = entry.load()
        except Exception as error:
            raise UsageError(
                f"{self._noun} {entry.name!r} of {entry.value} cannot be loaded ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}); update or remove that package"
            ) from error
        _modules.setdefault(entry.module)
        self._values.setdefault(entry.name, value)


def _registering_module() -> str | None:
    """The module outside this package whose code is registering something; None if it is this package itself."""
    frame = sys._getframe(1)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name.partition(".")[0] != __name__.partition(".")[0]:
            return None if name.partition(".")[0] in sys.stdlib_module_names - {"__main__"} else name
        if frame.f_code.co_name == "<module>":
            return None  # a module of this package registers what it brings
        frame = frame.f_back
    return None
