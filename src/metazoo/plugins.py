"""Registries of extensions by name.

An extension is a module that registers objects. It is imported as the entry point of an installed package, or on
request (`load_plugin`, `--plugin`). Data files never name a module to import.
"""

import contextlib
import difflib
import importlib
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, final, overload

from metazoo.errors import UsageError

Value = TypeVar("Value")
Given = TypeVar("Given")

_modules: dict[str, None] = {}
_registries: "weakref.WeakSet[Registry[Any]]" = weakref.WeakSet()


def registered_modules() -> tuple[str, ...]:
    """Names of the modules outside this package that have registered objects, in the order of registration.

    `__main__` is included if a script has registered objects; other processes cannot import it.
    """
    return tuple(_modules)


def load_plugin(name: str) -> None:
    """Import a module or package that registers extensions.

    Raises:
        UsageError: the module does not exist, or its import fails.
    """
    try:
        with _all_or_nothing():
            importlib.import_module(name)
    except (Exception, SystemExit) as error:
        problem = f"cannot be imported ({_reason(error)})"
        raise UsageError(
            f"plug-in {name[:100]!r}", problem, "give the name of an installed package or module"
        ) from error
    _modules.setdefault(name)


def unknown_name(noun: str, name: str, known: tuple[str, ...]) -> str:
    """Error message on an unknown name of a `noun`, such as `head`."""
    return "; ".join(_unknown(noun, name, known))


def _unknown(noun: str, name: str, known: tuple[str, ...]) -> tuple[str, str]:
    """Problem and remedy of an unknown name."""
    close = difflib.get_close_matches(name, known, n=1)
    meant = f" (did you mean {close[0]}?)" if close else ""
    load = "load the package that registers it (--plugin PACKAGE, metazoo.load_plugin)"
    return f"unknown {noun} {name[:100]!r}", f"choose one of {', '.join(known)}{meant}, or {load}"


@final
class Registry(Generic[Value]):
    """Values by name, in the order of registration; iteration yields the values, including those of entry points.

    Args:
        noun: word for one value in errors, such as `architecture`.
        group: group of entry points, such as `metazoo.architectures`, each loaded when its name is first used; None:
            no entry points.
        values: built-in values, which cannot be replaced.
        base: base class of the values, which have an attribute `name`; a subclass is registered as its instance.
        also: further valid names, for errors.
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
        _registries.add(self)

    @overload
    def register(self, name: str, value: Value) -> Value: ...

    @overload
    def register(self, name: str) -> Callable[[Given], Given]: ...

    def register(self, name: str, value: Any = None) -> Any:
        """Register and return a value; without `value`, return a decorator.

        A module may replace its own registrations, for instance when it is reloaded.

        Raises:
            UsageError: the name is empty, longer than 100 characters, or contains a colon or unprintable characters;
                another module has registered the name; or the value has another class.
        """
        if value is None:
            return lambda given: self.register(name, given)
        self._add(name, value, _registering_module())
        return value

    def register_named(self, value: Given) -> Given:
        """Register and return an object or class under its attribute `name`; usable as a class decorator.

        Raises:
            UsageError: see `register`.
        """
        self._add(str(getattr(value, "name", "")), value, _registering_module())
        return value

    def find(self, name: str) -> Value | None:
        """Value of a name; None if the name is unknown.

        Raises:
            UsageError: the entry point of the name cannot be loaded, or two packages have one.
        """
        if name not in self._values:
            self._load(name)
        return self._values.get(name)

    def get(self, name: str) -> Value:
        """Value of a name.

        Raises:
            UsageError: the name is unknown, or see `find`.
        """
        found = self.find(name)
        if found is None:
            raise UsageError(self._noun, *_unknown(self._noun, name, self._known()))
        return found

    def validate(self, name: str) -> str:
        """Return a name if it is registered; validator of options.

        Raises:
            ValueError: the name is unknown.
            UsageError: see `find`.
        """
        if self.find(name) is None:
            raise ValueError(unknown_name(self._noun, name, self._known()))
        return name

    def names(self) -> tuple[str, ...]:
        """All names; entry points come last and are not loaded."""
        return tuple(dict.fromkeys((*self._values, *(entry.name for entry in self._entry_points()))))

    def __iter__(self) -> Iterator[Value]:
        return (self.get(name) for name in self.names())

    def _known(self) -> tuple[str, ...]:
        return (*self.names(), *self._also)

    def _add(self, name: str, value: Any, owner: str | None) -> None:
        if not 0 < len(name) <= 100 or not name.isprintable() or name != name.strip() or ":" in name:
            remedy = "give 1 to 100 printable characters, without colons and without spaces at the ends"
            raise UsageError(f"{self._noun} {value!r}", f"cannot have the name {name[:100]!r}", remedy)
        if name in self._values and (owner is None or self._owners.get(name) != owner):
            owner = self._owners.get(name) or "metazoo"
            raise UsageError(f"{self._noun} {name!r}", f"is already registered by {owner}", "choose another name")
        if self._base is not None:
            value = value() if isinstance(value, type) else value
            if not isinstance(value, self._base) or getattr(value, "name", None) != name:
                problem = f"must be a {self._base.__name__} with this name, not {value!r}"
                raise UsageError(f"{self._noun} {name!r}", problem, "register an instance or subclass")
        self._values[name], self._owners[name] = value, owner
        if owner is not None:
            _modules.setdefault(owner)

    def _entry_points(self) -> tuple[EntryPoint, ...]:
        return () if self._group is None else tuple(entry_points(group=self._group))

    def _load(self, name: str) -> None:
        entries = {entry.value: entry for entry in self._entry_points() if entry.name == name}
        if len(entries) > 1:
            problem = f"is an entry point of several packages: {', '.join(sorted(entries))}"
            raise UsageError(f"{self._noun} {name!r}", problem, "remove one of them")
        for entry in entries.values():
            try:
                with _all_or_nothing():
                    value = entry.load()
                    if name not in self._values:  # importing the module may have registered it
                        self._add(name, value, entry.module)
            except (Exception, SystemExit) as error:
                problem = f"cannot be loaded from {entry.value} ({_reason(error)})"
                raise UsageError(f"{self._noun} {name!r}", problem, "update or remove that package") from error


@contextlib.contextmanager
def _all_or_nothing() -> Iterator[None]:
    """Undo all registrations within the block if it fails."""
    before = [(registry, dict(registry._values), dict(registry._owners)) for registry in _registries]
    modules = dict(_modules)
    try:
        yield
    except BaseException:
        for registry, values, owners in before:
            registry._values, registry._owners = values, owners
        _modules.clear()
        _modules.update(modules)
        raise


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _registering_module() -> str | None:
    """Name of the module outside this package that registers an object; None for this package."""
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
