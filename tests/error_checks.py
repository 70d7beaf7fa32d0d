"""Assertions on the fields of errors, so that their wording is free."""

import contextlib
from collections.abc import Iterator
from typing import TypeVar

import pytest

from metazoo.errors import MetazooError

_Error = TypeVar("_Error", bound=MetazooError)


@contextlib.contextmanager
def raises(
    error_type: type[_Error], *, subject: str = "", problem: str = "", remedy: str = ""
) -> Iterator[pytest.ExceptionInfo[_Error]]:
    """Like `pytest.raises`, for an error whose fields contain these texts.

    Args:
        error_type: exact type of the error or one of its bases.
        subject: text that its subject contains, such as the name of a file, model or option.
        problem: text that its problem contains, such as a value from the test's input.
        remedy: text that its remedy contains, such as the name of an option.
    """
    with pytest.raises(error_type) as caught:
        yield caught
    for field, text in (("subject", subject), ("problem", problem), ("remedy", remedy)):
        assert text in getattr(caught.value, field), (field, str(caught.value))
