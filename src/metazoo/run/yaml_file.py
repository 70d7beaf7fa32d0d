"""Reading YAML that a user has written (JSON is YAML too)."""

from pathlib import Path
from typing import Any

import yaml

from metazoo.errors import UsageError, only_printable


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
