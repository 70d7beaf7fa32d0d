"""What is wrong with what stands in a file, in a few words."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from metazoo.errors import ArtefactError, MetazooError, UsageError, only_printable, shown

_LONGEST = 300
_MOST_PROBLEMS = 5
_WORDING = {
    "extra_forbidden": "is unknown",
    "missing": "is missing",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must hold values by name",
    "model_type": "must hold values by name",
}
"""In place of what pydantic says in the terms of Python."""


def first_problem(error: ValidationError, *, with_value: bool = False) -> str:
    """The first thing wrong, as `place: what`, in at most 300 printable characters.

    Args:
        error: that the schema has raised.
        with_value: whether to end with what was found instead, `, not 'VALUE'`; a mapping is never repeated.
    """
    return _problem(error.errors(include_url=False, include_context=False)[0], with_value)


def all_problems(error: ValidationError) -> str:
    """What is wrong as `first_problem` says it, one after the other; of more than five the number of the others."""
    problems = [_problem(found, True) for found in error.errors(include_url=False, include_context=False)]
    more = len(problems) - _MOST_PROBLEMS
    return "; ".join(problems[:_MOST_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")


def _problem(found: Any, with_value: bool) -> str:
    place = ".".join(map(str, found["loc"]))
    what = _WORDING.get(found["type"]) or str(found["msg"]).removeprefix("Value error, ")
    text = f"{place}: {what}" if place else what
    value = repr(str(found["input"])[:80])
    if with_value and not isinstance(found["input"], Mapping) and value not in text:
        text += f", not {value}"
    return only_printable(text, _LONGEST)


def remedy_for_unknown(key: object, known: Iterable[str], prefix: str = "") -> str:
    """What to say of a key that is none of `known`: the one that was probably meant, or all that there are."""
    known, wanted = list(known), str(key)
    begun = [name for name in known if len(wanted) > 2 and name.startswith(wanted)]
    close = begun or difflib.get_close_matches(wanted, known, n=1)
    return f"did you mean {prefix}{close[0]}?" if close else f"there is {', '.join(known)}"


def check_format_version(
    place: object, found: object, readable: int, error: type[MetazooError] = ArtefactError
) -> None:
    """Raise `error` unless the format version `found` in `place`, a file for one, is the `readable` one."""
    if found != readable:
        raise error(f"{place} has format version {shown(found)}, this metazoo reads {readable}; update metazoo")


def read_mapping(path: Path, subject: str, example: str, most_bytes: int = 1_000_000) -> dict[Any, Any]:
    """The content of a YAML file that holds values by name; nothing in it can run code or fill the memory.

    Args:
        path: of the file.
        subject: what it describes, with its article, for the errors.
        example: a line of it, likewise.
        most_bytes: size of the largest file that is read.

    Raises:
        UsageError: it is missing, cannot be read, is too large, is not YAML, or is no mapping.
    """
    remedy = f"give a YAML file that describes {subject}"
    try:
        if path.stat().st_size > most_bytes:
            raise UsageError(f"{path} is larger than a description of {subject} can be; give the right file")
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)  # noqa: S506 - a safe loader
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist; {remedy}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}; {remedy}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
        raise UsageError(f"{path} is not valid YAML: {only_printable(reason, 300)}") from error
    if not isinstance(content, dict | None):
        raise UsageError(f"{path} must hold options by name, such as `{example}`, not {type(content).__name__}")
    return content or {}


def read_value(text: str, subject: str) -> Any:
    """A value written as YAML, such as `400` or `[1, 2]`.

    Raises:
        UsageError: the text is not valid YAML; it names `subject`.
    """
    try:
        return yaml.load(text, Loader=_PlainLoader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UsageError(subject, f"{shown(text)!r} is not valid YAML", "quote it") from error


class _PlainLoader(yaml.SafeLoader):
    """YAML without anchors, whose copies of copies can fill the memory, and without a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.YAMLError(f"{key.value[:80]!r} stands twice, again in line {key.start_mark.line + 1}")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("anchors and aliases are not read; write the value out")
        return super().compose_node(parent, index)
