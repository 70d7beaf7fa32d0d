"""Options of a preset as commented YAML."""

import inspect
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from metazoo.plugins import Registry
from metazoo.runs.config import RunConfig

_INDENT = "  "


def options_text(config: RunConfig) -> str:
    """Text of a `config.yaml` equal to `config`, with a comment on every option.

    Options that equal the preset may be omitted from the file of a run.
    """
    head = {"method": config.method.name, "preset": config.preset, "seed": config.seed}
    lines = [f"# {config.method.reference}", *(_entry(key, value) for key, value in head.items())]
    return "\n".join([*lines, *_lines(config.options, "")]) + "\n"


def _lines(options: BaseModel, indent: str) -> list[str]:
    lines, dumped = [], options.model_dump(mode="json")
    for name, field in type(options).model_fields.items():
        value = getattr(options, name)
        if isinstance(value, BaseModel):
            comment = field.description or inspect.cleandoc(type(value).__doc__ or "").partition("\n")[0]
            lines += [] if indent else [""]
            lines += [f"{indent}{name}:  # {comment}", *_lines(value, indent + _INDENT)]
        else:
            comment = "; ".join(part for part in (_choices(field), field.description) if part)
            lines.append(indent + _entry(name, dumped[name]) + (f"  # {comment}" if comment else ""))
    return lines


def _entry(name: str, value: Any) -> str:
    dumped = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return f"{name}: {dumped.rstrip().removesuffix('...').rstrip()}"  # PyYAML ends a scalar with `...`


def _choices(field: FieldInfo) -> str:
    """Accepted names of an option."""
    names = [name for part in _parts(field.annotation) if get_origin(part) is Literal for name in get_args(part)]
    for validator in field.metadata:
        registry = getattr(getattr(validator, "func", None), "__self__", None)
        names += registry.names() if isinstance(registry, Registry) else ()
    return " | ".join(map(str, names)) if len(names) > 1 else ""


def _parts(annotation: Any) -> tuple[Any, ...]:
    return (annotation,) if get_origin(annotation) is Literal else get_args(annotation)
