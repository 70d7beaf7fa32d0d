"""The one YAML file that describes a run."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from metazoo.errors import UsageError
from metazoo.methods.registry import Method, get_method

FORMAT_VERSION = 1
_LARGEST_FILE = 1_000_000
_MARK = "format_version"


@dataclass(frozen=True)
class RunConfig:
    """A run, fully described: every option has its value.

    Attributes:
        method: that learns.
        setting: of the method, whose values hold where nothing else is said.
        seed: that all randomness of the run is counted from.
        recipe: the method's options, an instance of `method.recipe_type`.
    """

    method: Method
    setting: str
    seed: int
    recipe: BaseModel

    def as_record(self) -> dict[str, Any]:
        """The content of a run's `config.yaml`."""
        head = {_MARK: FORMAT_VERSION, "method": self.method.name, "setting": self.setting, "seed": self.seed}
        return head | self.recipe.model_dump(mode="json")

    def as_yaml(self) -> str:
        """The text of a run's `config.yaml`."""
        return yaml.safe_dump(self.as_record(), sort_keys=False)


def resolve_config(
    options: Mapping[str, Any] | Path | str | None = None,
    *,
    method: str | None = None,
    setting: str | None = None,
    seed: int | None = None,
) -> RunConfig:
    """Complete a description of a run.

    Args:
        options: a YAML file or its content: `method`, `setting`, `seed`, and the options of the method that differ from
            the setting, such as `{"learning": {"steps": 500}}`.
        method: overrides that of `options`; `tgr` if neither says.
        setting: likewise; `default` if neither says.
        seed: likewise; 0 if neither says.

    Raises:
        UsageError: an unknown method, setting or option, or a value of another type or range; the file and the option
            are named.
    """
    place = str(options) if isinstance(options, Path | str) else "the options"
    given = _read(Path(options)) if isinstance(options, Path | str) else dict(options or {})
    version = given.pop(_MARK, FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise UsageError(f"{place} has format version {version}, this metazoo reads {FORMAT_VERSION}; update metazoo")
    chosen = get_method(str(method or given.pop("method", None) or "tgr"))
    named = str(setting or given.pop("setting", None) or "default")
    if named not in chosen.settings:
        raise UsageError(f"{chosen.name} has no setting {named!r}; choose one of {', '.join(chosen.settings)}")
    counted = seed if seed is not None else given.pop("seed", 0)
    if not isinstance(counted, int) or isinstance(counted, bool) or not 0 <= counted < 2**63:
        raise UsageError(f"{place}: seed must be a whole number of at least 0, not {counted!r}")
    overridden = {key: value for key, value in given.items() if key not in ("method", "setting", "seed")}
    _check_keys(place, chosen.recipe_type, overridden)
    merged = _merge(chosen.settings[named].model_dump(), overridden)
    try:
        recipe = chosen.recipe_type.model_validate(merged)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        option = ".".join(map(str, first["loc"]))
        problem = first["msg"].removeprefix("Value error, ")
        found = "" if isinstance(first["input"], Mapping) else f", not {str(first['input'])[:80]!r}"
        raise UsageError(f"{place}: {option}: {problem}{found}") from error
    return RunConfig(chosen, named, counted, recipe)


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise UsageError(f"{path} is larger than a description of a run can be; give the right file")
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)  # noqa: S506 - a safe loader
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist; give a YAML file that describes the run") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}; give a YAML file that describes the run") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UsageError(f"{path} is not valid YAML: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(content, dict | None):
        raise UsageError(f"{path} must hold options by name, such as `seed: 0`, not {type(content).__name__}")
    return content or {}


class _PlainLoader(yaml.SafeLoader):
    """YAML without anchors, whose copies of copies can fill the memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("anchors and aliases are not read; write the value out")
        return super().compose_node(parent, index)


def _check_keys(place: str, model: type[BaseModel], given: Mapping[Any, Any], prefix: str = "") -> None:
    for key, value in given.items():
        if key not in model.model_fields:
            close = difflib.get_close_matches(str(key), model.model_fields, n=1)
            remedy = f"did you mean {prefix}{close[0]}?" if close else f"there is {', '.join(model.model_fields)}"
            name = repr(str(key)[:80])[1:-1]  # without control characters
            raise UsageError(f"{place}: unknown option {prefix}{name}; {remedy}")
        inner = model.model_fields[key].annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel) and isinstance(value, Mapping):
            _check_keys(place, inner, value, f"{prefix}{key}.")


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
