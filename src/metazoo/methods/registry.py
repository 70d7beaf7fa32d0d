"""Methods by name. A new one is a line here."""

from metazoo.errors import UsageError
from metazoo.methods.base import Method
from metazoo.methods.tgr import TaskGroupingsRegularization

METHODS: tuple[Method, ...] = (TaskGroupingsRegularization(),)


def get_method(name: str) -> Method:
    """The method of that name.

    Raises:
        UsageError: there is none.
    """
    for method in METHODS:
        if method.name == name:
            return method
    raise UsageError(f"unknown method {name!r}; choose one of {', '.join(method.name for method in METHODS)}")
