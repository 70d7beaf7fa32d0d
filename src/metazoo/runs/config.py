"""The one YAML file that describes a run."""

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
from metazoo.renamed import new_preset, renamed_arguments
from metazoo.storage.validation import check_format_version, first_problem, read_mapping, read_value, remedy_for_unknown

FORMAT_VERSION = 1
_MARK = "format_version"
# Sections of version 0.1 that no longer exist: the option that gave them an effect, and its value without one.
_FORMER = {"selection": ("validation", None), "source": ("kind", "recovered")}


@dataclass(frozen=True)
class RunConfig:
    """Complete description of a run; every option has a value.

    Attributes:
        method: learning method.
        preset: preset of the method, whose values hold where no other is given.
        seed: source of all randomness of the run.
        options: options of the method, of the type of the preset.
        former: options of a run that a former version began and that changed what it did, which are no longer known;
            such a run can be reported and not continued.
    """

    method: Method
    preset: str
    seed: int
    options: BaseModel
    former: Mapping[str, Any] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        """Content of `config.yaml`."""
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
    """Complete a description of a run.

    Args:
        options: a YAML file or its content: `method`, `preset`, `seed`, and the options of the method that differ from
            the preset, such as `{"learning": {"steps": 500}}` or `{"learning.steps": 500}`.
        method: method, overrides that of `options`; `tgr` if neither is given.
        preset: preset, overrides that of `options`; `default` if neither is given.
        seed: seed, overrides that of `options`; 0 if neither is given.
        begun: whether `options` are those of a run that has begun. An option that is missing did not exist then; it
            has the default of its class, which does what was done before, and not that of the preset.

    Raises:
        UsageError: an unknown method, preset or option, or a value of another type or range; the file and the option
            are named.
    """
    if isinstance(options, Path | str):
        place, given = str(options), read_mapping(Path(options), "a run", "seed: 0")
    else:
        place, given = "the options", dict(options or {})
    check_format_version(place, given.pop(_MARK, FORMAT_VERSION), FORMAT_VERSION, UsageError)
    given = nested(place, given)
    chosen = get_method(str(method or given.pop("method", None) or "tgr"))
    if "setting" in given and "preset" not in given:
        given["preset"] = given.pop("setting")
        if not begun:
            message(f"warning: {place}: setting is now called preset, and will be removed")
    named = str(preset or given.pop("preset", None) or "default")
    former, named = named, new_preset(named, chosen.presets)
    if former != named and not begun:
        message(f"warning: preset {former} is now called {named}; the former name will be removed")
    if named not in chosen.presets:
        raise UsageError(chosen.name, f"unknown preset {shown(named)}", f"choose one of {', '.join(chosen.presets)}")
    counted = seed if seed is not None else given.pop("seed", 0)
    if not isinstance(counted, int) or isinstance(counted, bool) or not 0 <= counted < 2**63:
        raise UsageError(f"{place}: seed must be a whole number of at least 0, not {shown(counted)}")
    overridden = {key: value for key, value in given.items() if key not in ("method", "preset", "seed")}
    schema = type(chosen.presets[named])
    removed = _without_former(overridden, schema, begun)
    for key in overridden:
        knowing = [name for name, options in chosen.presets.items() if key in type(options).model_fields]
        if knowing and named not in knowing:
            raise UsageError(f"{place}: unknown option {key}: not of the preset {named}, but of {', '.join(knowing)}")
    _check_keys(place, schema, overridden)
    complete = overridden if begun else merged(chosen.presets[named].model_dump(), overridden)
    try:
        validated = schema.model_validate(complete)
    except ValidationError as error:
        raise UsageError(f"{place}: {first_problem(error, with_value=True)}") from error
    return RunConfig(chosen, named, counted, validated, removed)


def _without_former(given: dict[str, Any], schema: type[BaseModel], begun: bool) -> dict[str, Any]:
    """Take the sections of former versions out of `given`, except those that change what a new run would do.

    Returns:
        Sections that changed what the run did which has begun.
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


def nested(place: str, given: Mapping[Any, Any], prefix: str = "") -> dict[Any, Any]:
    """Options with dotted keys, such as `recovery.iterations: 400`, as sections of options.

    Raises:
        UsageError: an option is given twice, with dots and in its section; `place` and the option are named.
    """
    result: dict[Any, Any] = {}
    for key, value in given.items():
        first, dot, rest = key.partition(".") if isinstance(key, str) else (key, "", "")
        inner = {rest: value} if dot else value
        path = f"{prefix}{first}"
        if isinstance(inner, Mapping):
            inner = nested(place, inner, f"{path}.")
        result[first] = _joined(place, path, result[first], inner) if first in result else inner
    return result


def _joined(place: str, path: str, one: Any, other: Any) -> Any:
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        raise UsageError(f"{place}: {shown(path)}", "given twice, with dots and in its section", "remove one of them")
    both = {key: _joined(place, f"{path}.{key}", one[key], other[key]) for key in one.keys() & other.keys()}
    return {**one, **other, **both}


def with_settings(config: Path | str | None, settings: Sequence[str]) -> Mapping[str, Any] | Path | str | None:
    """Options of a YAML file overridden by `settings`, such as `recovery.iterations=400`; values are YAML.

    Raises:
        UsageError: a setting is not KEY=VALUE with a YAML value, or the file cannot be read.
    """
    if not settings:
        return config
    values = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not key or not equals:
            raise UsageError("--set", f"{shown(setting)!r} is not KEY=VALUE", "write --set recovery.iterations=400")
        values[key] = read_value(text, f"--set {key}")
    stored = {} if config is None else read_mapping(Path(config), "a run", "seed: 0")
    return merged(nested(str(config), stored), nested("--set", values))


def _check_keys(place: str, model: type[BaseModel], given: Mapping[Any, Any], prefix: str = "") -> None:
    for key, value in given.items():
        if key not in model.model_fields:
            remedy = remedy_for_unknown(key, model.model_fields, prefix)
            raise UsageError(f"{place}: unknown option {prefix}{shown(key)}; {remedy}")
        inner = model.model_fields[key].annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel) and isinstance(value, Mapping):
            _check_keys(place, inner, value, f"{prefix}{key}.")


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `base`, replaced by those of `over` one by one at every level."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result
