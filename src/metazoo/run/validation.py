"""What is wrong with what stands in a file, in a few words."""

from collections.abc import Mapping

from pydantic import ValidationError

from metazoo.errors import ArtefactError, MetazooError, shown

_LONGEST = 300


def first_problem(error: ValidationError, *, with_value: bool = False) -> str:
    """The first thing wrong, as `place: what`, in at most 300 printable characters.

    Args:
        error: that the schema has raised.
        with_value: whether to end with what was found instead, `, not 'VALUE'`; a mapping is never repeated.
    """
    first = error.errors(include_url=False, include_context=False)[0]
    text = f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg'].removeprefix('Value error, ')}"
    if with_value and not isinstance(first["input"], Mapping):
        text += f", not {str(first['input'])[:80]!r}"
    return "".join(character if character.isprintable() else "?" for character in text)[:_LONGEST]


def check_format_version(
    place: object, found: object, readable: int, error: type[MetazooError] = ArtefactError
) -> None:
    """Raise `error` unless the format version `found` in `place`, a file for one, is the `readable` one."""
    if found != readable:
        raise error(f"{place} has format version {shown(found)}, this metazoo reads {readable}; update metazoo")
