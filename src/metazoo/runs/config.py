"""Configuration of a run, a YAML file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from metazoo.errors import UsageError, shown
from metazoo.execution.progress import message
from metazoo.methods.base import Method
from metazoo.methods.registry import get_method
from metazoo.renamed import FORMER_PRESET_KEY, new_preset, renamed_arguments
from metazoo.storage.validation import check_format_version, first_problem, read_mapping, read_value, remedy_for_unknown

FORMAT_VERSION = 1
_MARK = "format_version"
# Removed sections of version 0.1: the option that gives a section an effect, and its value without effect.
_FORMER = {"selection": ("validation", None), "source": ("kind", "recovered")}


@dataclass(frozen=True)
class RunConfig:
    """Complete configuration of a run; every option has a value.

    Attributes:
        method: learning method.
        preset: preset of the method, source of all values that are not given.
        seed: seed of all randomness of the run.
        options: options of the method, with the type of the preset.
        former: removed options of a former version that affect this run; the run can be reported but not resumed.
    """

    method: Method
    preset: str
    seed: int
    options: BaseModel
    former: Mapping[str, Any] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        """Content of `config.yaml` as a mapping."""
        head = {_MARK: FORMAT_VERSION, "method": self.method.name, "preset": self.preset, "seed": self.seed}
        return head | self.options.model_dump(mode="json") | dict(self.former)

    def as_yaml(self) -> str:
        """Text of `config.yaml`."""
        return yaml.safe_dump(self.as_record(), sort_keys=False)


@renamed_arguments(setting="preset")
def resolve_config(
    options: Mapping[str, Any] | Path | str | None = None,
    *,
    method: str | None = None,
    preset: str | None = None,
    seed: int | None = None,
    begun: bool = False,
) -> RunConfig:
    """Complete the configuration of a run.

    Args:
        options: YAML file or its content: `method`, `preset`, `seed`, and options of the method that differ from the
            preset, such as `{"learning": {"steps": 500}}` or `{"learning.steps": 500}`.
        method: method, overrides `options`; `tgr` if neither names one.
        preset: preset, overrides `options`; `default` if neither names one.
        seed: seed, overrides `options`; 0 if neither names one.
        begun: whether `options` are the stored configuration of a run. A missing option did not exist when the run
            began; it gets the default of its class, which keeps the former behaviour, instead of the preset's value.

    Raises:
        UsageError: a method, preset or option is unknown, or a value has a wrong type or range.
    """
    if isinstance(options, Path | str):
        subject, given = str(options), read_mapping(Path(options), "a run", "seed: 0")
    else:
        subject, given = "options", dict(options or {})
    check_format_version(subject, given.pop(_MARK, FORMAT_VERSION), FORMAT_VERSION, UsageError)
    given = nested(subject, given)
    chosen = get_method(str(method or given.pop("method", None) or "tgr"))
    if FORMER_PRESET_KEY in given and "preset" not in given:
        given["preset"] = given.pop(FORMER_PRESET_KEY)
        if not begun:
            message(f"warning: {subject}: {FORMER_PRESET_KEY} is now called preset; the former name will be removed")
    named = str(preset or given.pop("preset", None) or "default")
    former, named = named, new_preset(named, chosen.presets)
    if former != named and not begun:
        message(f"warning: preset {former} is now called {named}; the former name will be removed")
    if named not in chosen.presets:
        raise UsageError(chosen.name, f"unknown preset {shown(named)}", f"choose one of {', '.join(chosen.presets)}")
    counted = seed if seed is not None else given.pop("seed", 0)
    if not isinstance(counted, int) or isinstance(counted, bool) or not 0 <= counted < 2**63:
        problem = f"must be a whole number of at least 0, not {shown(counted)}"
        raise UsageError(f"{subject}: seed", problem, "choose another seed")
    overridden = {key: value for key, value in given.items() if key not in ("method", "preset", "seed")}
    schema = type(chosen.presets[named])
    removed = _without_former(overridden, schema, begun)
    for key in overridden:
        knowing = [name for name, options in chosen.presets.items() if key in type(options).model_fields]
        if knowing and named not in knowing:
            remedy = f"choose a preset that has it: {', '.join(knowing)}"
            raise UsageError(subject, f"unknown option {key} of preset {named}", remedy)
    _check_keys(subject, schema, overridden)
    complete = overridden if begun else merged(chosen.presets[named].model_dump(), overridden)
    try:
        validated = schema.model_validate(complete)
    except ValidationError as error:
        remedy = f"see `metazoo methods {chosen.name} --preset {named}`"
        raise UsageError(subject, first_problem(error, with_value=True), remedy) from error
    if not begun:
        # A run that is resumed in another folder has the same files.
        validated = validated.model_copy(update=chosen.absolute_paths(dict(validated), Path()))
    return RunConfig(chosen, named, counted, validated, removed)


def _without_former(given: dict[str, Any], schema: type[BaseModel], begun: bool) -> dict[str, Any]:
    """Remove the sections of former versions from `given`, except sections that would affect a new run.

    Returns:
        Removed sections that affect a run that has begun.
    """
    changed = {}
    for section, (option, neutral) in _FORMER.items():
        value = given.get(section)
        if section in schema.model_fields or not isinstance(value, Mapping):
            continue
        has_effect = value.get(option, neutral) != neutral
        if begun or not has_effect:
            del given[section]
        if begun and has_effect:
            changed[section] = value
    return changed


def nested(subject: str, given: Mapping[Any, Any], prefix: str = "") -> dict[Any, Any]:
    """Convert dotted keys, such as `recovery.iterations: 400`, to sections of options.

    Raises:
        UsageError: an option is given twice, with dots and in its section.
    """
    result: dict[Any, Any] = {}
    for key, value in given.items():
        first, dot, rest = key.partition(".") if isinstance(key, str) else (key, "", "")
        inner = {rest: value} if dot else value
        path = f"{prefix}{first}"
        if isinstance(inner, Mapping):
            inner = nested(subject, inner, f"{path}.")
        result[first] = _joined(subject, path, result[first], inner) if first in result else inner
    return result


def _joined(subject: str, path: str, one: Any, other: Any) -> Any:
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        raise UsageError(f"{subject}: {shown(path)}", "is given twice, with dots and in its section", "remove one")
    both = {key: _joined(subject, f"{path}.{key}", one[key], other[key]) for key in one.keys() & other.keys()}
    return {**one, **other, **both}


def with_overrides(config: Path | str | None, overrides: Sequence[str]) -> Mapping[str, Any] | Path | str | None:
    """Override options of a YAML file.

    Args:
        config: YAML file; None: no file.
        overrides: texts KEY=VALUE with a YAML value, such as `recovery.iterations=400`.

    Raises:
        UsageError: an override is not KEY=VALUE with a YAML value, or the file cannot be read.
    """
    if not overrides:
        return config
    values = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not key or not equals:
            raise UsageError("--set", f"{shown(override)!r} is not KEY=VALUE", "write --set recovery.iterations=400")
        values[key] = read_value(text, f"--set {key}")
    stored = {} if config is None else read_mapping(Path(config), "a run", "seed: 0")
    return merged(nested(str(config), stored), nested("--set", values))


def _check_keys(subject: str, model: type[BaseModel], given: Mapping[Any, Any], prefix: str = "") -> None:
    for key, value in given.items():
        if key not in model.model_fields:
            remedy = remedy_for_unknown(key, model.model_fields, prefix)
            raise UsageError(subject, f"unknown option {prefix}{shown(key)}", remedy)
        inner = model.model_fields[key].annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel) and isinstance(value, Mapping):
            _check_keys(subject, inner, value, f"{prefix}{key}.")


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `base`, overridden by `over` at every level."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result
