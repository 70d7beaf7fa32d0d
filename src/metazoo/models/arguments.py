"""The values that an architecture may be given."""

from typing import Annotated

from pydantic import Field, StringConstraints

_Word = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{0,100}$")]
_Number = Annotated[float, Field(allow_inf_nan=False)]
Argument = bool | int | _Number | _Word | Annotated[tuple[bool | int | _Number | _Word, ...], Field(max_length=64)]
"""A number, a word or a yes or no, or several of them; what an architecture takes is its own affair."""
