"""All options of a preset as YAML, each with a comment."""

import inspect
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from metazoo.plugins import Registry
from metazoo.runs.config import RunConfig

_INDENT = "  "


def options_listing(config: RunConfig) -> str:
    """Text of a `config.yaml` equal to `config`, with a comment on every option.

    A run may leave out of its own file what it does not change.
    """
    head = {"method": config.method.name, "preset": config.preset, "seed": config.seed}
    lines = [f"# {config.method.reference}", *(_entry(key, value) for key, value in head.items())]
    return "\n".join([*lines, *_lines(config.options, "")]) + "\n"


def _lines(options: BaseModel, indent: str) -> list[str]:
    lines, dumped = [], options.model_dump(mode="json")
    for name, field in type(options).model_fields.items():
        value = getattr(options, name)
        if isinstance(value, BaseModel):
            said = field.description or inspect.cleandoc(type(value).__doc__ or "").partition("\n")[0]
            lines += [] if indent else [""]
            lines += [f"{indent}{name}:  # {said}", *_lines(value, indent + _INDENT)]
        else:
            said = "; ".join(part for part in (_choices(field), field.description) if part)
            lines.append(indent + _entry(name, dumped[name]) + (f"  # {said}" if said else ""))
    return lines


def _entry(name: str, value: Any) -> str:
    dumped = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return f"{name}: {dumped.rstrip().removesuffix('...').rstrip()}"  # a single value ends in the mark of a document


def _choices(field: FieldInfo) -> str:
    """Names that an option of names accepts."""
    names = [name for kind in _kinds(field.annotation) if get_origin(kind) is Literal for name in get_args(kind)]
    for validator in field.metadata:
        registry = getattr(getattr(validator, "func", None), "__self__", None)
        names += registry.names() if isinstance(registry, Registry) else ()
    return " | ".join(map(str, names)) if len(names) > 1 else ""


def _kinds(annotation: Any) -> tuple[Any, ...]:
    return (annotation,) if get_origin(annotation) is Literal else get_args(annotation)
