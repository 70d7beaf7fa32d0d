"""Libraries that are optional, imported only once something of them is asked for."""

import importlib
from typing import Any

from metazoo.errors import UsageError


def import_library(name: str, module: str) -> Any:
    """A module of an optional library.

    Raises:
        UsageError: the library is not installed; the extra is named.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"this needs {name}; install the extra `metazoo[{name}]`") from error
