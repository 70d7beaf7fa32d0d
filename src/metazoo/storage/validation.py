"""Validation of YAML and JSON content, with short messages."""

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
"""Messages that replace those of pydantic, by type of the error."""


def first_problem(error: ValidationError, *, with_value: bool = False) -> str:
    """First problem of a failed validation, as `option: problem`, in at most 300 printable characters.

    Args:
        error: error of the schema.
        with_value: whether to end with the wrong value, `, not 'VALUE'`, unless it is a mapping.
    """
    return _problem(error.errors(include_url=False, include_context=False)[0], with_value)


def all_problems(error: ValidationError) -> str:
    """First five problems of a failed validation, and the number of the others; see `first_problem`."""
    problems = [_problem(found, True) for found in error.errors(include_url=False, include_context=False)]
    more = len(problems) - _MOST_PROBLEMS
    return "; ".join(problems[:_MOST_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")


def _problem(found: Any, with_value: bool) -> str:
    option = ".".join(map(str, found["loc"]))
    problem = _WORDING.get(found["type"]) or str(found["msg"]).removeprefix("Value error, ")
    text = f"{option}: {problem}" if option else problem
    value = repr(str(found["input"])[:80])
    if with_value and not isinstance(found["input"], Mapping) and value not in text:
        text += f", not {value}"
    return only_printable(text, _LONGEST)


def remedy_for_unknown(key: object, known: Iterable[str], prefix: str = "") -> str:
    """Remedy for an unknown key: the closest known key, or all known keys."""
    known, wanted = list(known), str(key)
    begun = [name for name in known if len(wanted) > 2 and name.startswith(wanted)]
    close = begun or difflib.get_close_matches(wanted, known, n=1)
    return f"did you mean {prefix}{close[0]}?" if close else f"choose one of {', '.join(known)}"


def check_format_version(
    subject: object, found: object, readable: int, error: type[MetazooError] = ArtefactError
) -> None:
    """Raise `error` if the format version found in a file is not the readable one."""
    if found != readable:
        raise error(subject, f"has format version {shown(found)}, this metazoo reads {readable}", "update metazoo")


def read_mapping(path: Path, subject: str, example: str, most_bytes: int = 1_000_000) -> dict[Any, Any]:
    """Read a YAML file of values by name; its content can neither run code nor fill the memory.

    Args:
        path: path of the file.
        subject: described object with its article, such as `a run`, for errors.
        example: example of a line, for errors.
        most_bytes: size of the largest file that is read.

    Raises:
        UsageError: the file is missing, cannot be read, is too large, or is not a YAML mapping.
    """
    remedy = f"give a YAML file that describes {subject}"
    try:
        if path.stat().st_size > most_bytes:
            raise UsageError(path, f"has more than {most_bytes:,} bytes", remedy)
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)  # noqa: S506 - a safe loader
    except FileNotFoundError as error:
        raise UsageError(path, "does not exist", remedy) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(path, f"cannot be read ({error})", remedy) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
        raise UsageError(path, f"is not valid YAML ({only_printable(reason, 300)})", remedy) from error
    if not isinstance(content, dict | None):
        problem = f"must hold options by name, such as `{example}`, not {type(content).__name__}"
        raise UsageError(path, problem, remedy)
    return content or {}


def read_value(text: str, subject: str) -> Any:
    """Read a value in YAML, such as `400` or `[1, 2]`.

    Raises:
        UsageError: the text is not valid YAML; `subject` is the subject of the error.
    """
    try:
        return yaml.load(text, Loader=_PlainLoader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UsageError(subject, f"{shown(text)!r} is not valid YAML", "quote it") from error


class _PlainLoader(yaml.SafeLoader):
    """Loader of YAML without duplicate keys and without anchors, whose nested copies can fill the memory."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.YAMLError(f"duplicate key {key.value[:80]!r} in line {key.start_mark.line + 1}")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("anchors and aliases are not allowed")
        return super().compose_node(parent, index)
