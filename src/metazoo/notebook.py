"""Objects and progress in Jupyter notebooks.

The module imports nothing heavy. IPython is used only if it runs already.
"""

import importlib
import sys
from collections.abc import Callable
from typing import Any

from metazoo.errors import MetazooError


class ShownInNotebook:
    """Base class of objects that a notebook shows as tables; `metazoo.report.notebook_tables` makes them.

    That module knows all of these classes, so they find it by its name.
    """

    def _repr_html_(self) -> str | None:
        """Tables as HTML without scripts and links; None, so that the plain text is shown, if a file is damaged."""
        try:
            return importlib.import_module("metazoo.report.notebook_tables").html_of(self)
        except MetazooError:
            return None


def updating_line() -> Callable[[str], None] | None:
    """Function that shows a text in one line of the current notebook cell; each text replaces the last one.

    None outside of notebooks, also in an IPython terminal.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if getattr(shell, "kernel", None) is None:
        return None
    display: Any = importlib.import_module("IPython.display").display
    handle = None

    def show(text: str) -> None:
        nonlocal handle
        content = {"text/plain": text}
        if handle is None:
            handle = display(content, raw=True, display_id=True)
        else:
            handle.update(content, raw=True)

    return show
