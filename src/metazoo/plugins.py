"""Open registries: what the library can be extended with, by name.

An extension is a module that registers what it adds. It is imported because an installed package names it as an entry
point, or because the caller asks for it (`load_plugin`, `--plugin`). Nothing in a data file names a module to import.
"""

import difflib
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, final, overload

from metazoo.errors import UsageError

Value = TypeVar("Value")
Given = TypeVar("Given")

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
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"plug-in {name[:100]!r} cannot be imported ({_reason(error)}); give the name of an installed package or "
            "module"
        ) from error
    _modules.setdefault(name)


def unknown_name(noun: str, name: str, known: tuple[str, ...]) -> str:
    """Error message on a `name` that is none of the `known` names of a `noun`, such as `head`."""
    close = difflib.get_close_matches(name, known, n=1)
    meant = f" (did you mean {close[0]}?)" if close else ""
    return (
        f"unknown {noun} {name[:100]!r}; choose one of {', '.join(known)}{meant}, or load the package that registers "
        "it (--plugin PACKAGE, metazoo.load_plugin)"
    )


@final
class Registry(Generic[Value]):
    """Values by name, in the order of registration. Iterating gives the values, those of entry points included.

    Args:
        noun: word for one value in errors, such as `architecture`.
        group: entry points of other packages, such as `metazoo.architectures`, each loaded when its name is first
            asked for; None if there are none.
        values: built-in values, which cannot be replaced.
        base: class of the values, which have an attribute `name`; a subclass is registered as its instance.
        also: names that are understood elsewhere, for errors.
    """

    def __init__(
        self,
        noun: str,
        group: str | None = None,
        *,
        values: Mapping[str, Value] | None = None,
        base: type | None = None,
        also: tuple[str, ...] = (),
    ) -> None:
        self._noun, self._group, self._base, self._also = noun, group, base, also
        self._values: dict[str, Value] = dict(values or {})
        self._owners: dict[str, str | None] = {}

    @overload
    def register(self, name: str, value: Value) -> Value: ...

    @overload
    def register(self, name: str) -> Callable[[Given], Given]: ...

    def register(self, name: str, value: Any = None) -> Any:
        """Add `value`, which is returned; without one, return a decorator that does.

        A module may replace what it has registered itself, as when it is reloaded or a notebook cell is run again.

        Raises:
            UsageError: the name is empty, longer than 100 characters or has a colon or a character that cannot be
                printed; another module has registered a value of this name; or the value is of another class.
        """
        if value is None:
            return lambda given: self.register(name, given)
        self._add(name, value, _registering_module())
        return value

    def register_named(self, value: Given) -> Given:
        """Add `value`, an object or a class of one, under its attribute `name`, and return it; a class decorator too.

        Raises:
            UsageError: as `register`.
        """
        self._add(str(getattr(value, "name", "")), value, _registering_module())
        return value

    def find(self, name: str) -> Value | None:
        """The value of that name; None if there is none.

        Raises:
            UsageError: the entry point of that name cannot be loaded, or two packages have one.
        """
        if name not in self._values:
            self._load(name)
        return self._values.get(name)

    def get(self, name: str) -> Value:
        """The value of that name.

        Raises:
            UsageError: there is none; or as `find`.
        """
        found = self.find(name)
        if found is None:
            raise UsageError(self._unknown(name))
        return found

    def validate(self, name: str) -> str:
        """Return `name` if it is registered: a validator for options that hold a name.

        Raises:
            ValueError: it is not.
            UsageError: as `find`.
        """
        if self.find(name) is None:
            raise ValueError(self._unknown(name))
        return name

    def names(self) -> tuple[str, ...]:
        """All names; those of entry points come last and are not loaded."""
        return tuple(dict.fromkeys((*self._values, *(entry.name for entry in self._entry_points()))))

    def __iter__(self) -> Iterator[Value]:
        return (self.get(name) for name in self.names())

    def _unknown(self, name: str) -> str:
        return unknown_name(self._noun, name, (*self.names(), *self._also))

    def _add(self, name: str, value: Any, owner: str | None) -> None:
        if not 0 < len(name) <= 100 or not name.isprintable() or name != name.strip() or ":" in name:
            raise UsageError(
                f"{name[:100]!r} cannot be the name of {self._noun} {value!r}; give 1 to 100 printable characters, "
                "without a colon, that neither begin nor end with a space"
            )
        if name in self._values and (owner is None or self._owners.get(name) != owner):
            brought = self._owners.get(name) or "metazoo"
            raise UsageError(f"{self._noun} {name!r} is registered already, by {brought}; choose another name")
        if self._base is not None:
            value = value() if isinstance(value, type) else value
            if not isinstance(value, self._base) or getattr(value, "name", None) != name:
                raise UsageError(f"{self._noun} {name!r} must be a {self._base.__name__} of that name, not {value!r}")
        self._values[name], self._owners[name] = value, owner
        if owner is not None:
            _modules.setdefault(owner)

    def _entry_points(self) -> tuple[EntryPoint, ...]:
        return () if self._group is None else tuple(entry_points(group=self._group))

    def _load(self, name: str) -> None:
        entries = {entry.value: entry for entry in self._entry_points() if entry.name == name}
        if len(entries) > 1:
            raise UsageError(f"several packages have {self._noun} {name!r}: {', '.join(sorted(entries))}; remove one")
        for entry in entries.values():
            try:
                value = entry.load()
                if name not in self._values:  # importing the module may have registered it
                    self._add(name, value, entry.module)
            except Exception as error:
                raise UsageError(
                    f"{self._noun} {name!r} of {entry.value} cannot be loaded ({_reason(error)}); update or remove "
                    "that package"
                ) from error


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _registering_module() -> str | None:
    """The module outside this package whose code is registering something; None if it is this package itself."""
    frame = sys._getframe(1)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        package = name.partition(".")[0]
        if package == "metazoo" and frame.f_code.co_name == "<module>":
            return None
        if package != "metazoo" and package not in sys.stdlib_module_names:
            return name
        frame = frame.f_back
    return None
