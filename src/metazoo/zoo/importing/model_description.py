"""Descriptions of models to be added, from the source, from a file beside the weights, or from the user.

The file has the name of the weights file, or of the folder, with the suffix .yaml or .json, and contains any fields of
`ModelDescription`:

    architecture: timm:convnext_atto
    classes: [cat, dog]
    input_size: 32
    mean: [0.485, 0.456, 0.406]
    std: [0.229, 0.224, 0.225]
    domain: pets

A single number as `mean` or `std` applies to every channel.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from metazoo.choices import MODEL_EXAMPLE, Permission
from metazoo.errors import UsageError, shown
from metazoo.models import ONNX, Argument, ClassifierSpec, OperatorGraph
from metazoo.storage.validation import all_problems, first_problem, read_mapping, remedy_for_unknown
from metazoo.zoo.contract import ModelName, ShortText

SIDECARS = (".yaml", ".yml", ".json")
# Enough for ten thousand class names; reading a megabyte of YAML takes seconds.
_LARGEST_SIDECAR = 500_000
OPTIONS = {
    "architecture": "--arch",
    "classes": "--classes",
    "input_size": "--input-size",
    "mean": "--mean",
    "std": "--std",
    "domain": "--domain",
}
"""Required fields and their options."""
_LARGEST_STATISTIC = 2.0


def _one_for_all(value: Any) -> Any:
    return (value,) if isinstance(value, int | float) else value


PixelStatistics = Annotated[tuple[float, ...], BeforeValidator(_one_for_all)]


class ModelDescription(BaseModel):
    """Properties of a model to be added; None stands for an unknown value. See `ModelContract`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ModelName | None = None
    architecture: ShortText | None = None
    arguments: dict[str, Argument] | None = None
    classes: tuple[ShortText, ...] | None = Field(default=None, min_length=1, max_length=1_000_000)
    input_size: int | None = Field(default=None, ge=1, le=1024)
    channels: Literal[1, 3] | None = None
    mean: PixelStatistics | None = Field(default=None, description="channel means of images in [0, 1]")
    std: PixelStatistics | None = Field(default=None, description="channel deviations of images in [0, 1]")
    domain: ShortText | None = None
    accuracy: float | None = Field(default=None, ge=0, le=100)
    recovered_images: Permission | None = None
    licence: ShortText | None = None
    revision: ShortText | None = None
    resize: int | None = None
    crop: float | None = None
    interpolation: ShortText | None = None
    state_dict: ShortText | None = Field(default=None, description="key of the weights in a file with several")

    def over(self, other: "ModelDescription") -> "ModelDescription":
        """Copy with unknown values taken from `other`."""
        return other.model_copy(update={key: value for key, value in self if value is not None})

    def spec(
        self,
        subject: str,
        doubts: Mapping[str, str] | None = None,
        graph: Callable[[int, int, int], OperatorGraph] | None = None,
    ) -> ClassifierSpec:
        """Specification to build the model with.

        Args:
            subject: subject of errors.
            doubts: reasons for missing fields, by their names.
            graph: function from channels, input size and number of classes to the graph of the architecture onnx.

        Raises:
            UsageError: a required field is missing, or a value is impossible.
        """
        missing = [field for field in OPTIONS if getattr(self, field) is None]
        reasons = {field: f" ({reason})" for field, reason in (doubts or {}).items()}
        unknown = [f"{OPTIONS[field]}{reasons.get(field, '')}" for field in missing]
        if unknown:
            raise UsageError(
                subject, f"missing {', '.join(unknown)}", f"give them, or a .yaml file such as {MODEL_EXAMPLE}"
            )
        if graph is not None and self.architecture != ONNX:
            raise UsageError(subject, f"--arch {shown(self.architecture)} is not that of an ONNX file", "omit --arch")
        for option, value in (("--state-dict", self.state_dict), ("--arguments", self.arguments)):
            if graph is not None and value:
                raise UsageError(subject, f"{option} does not apply to an ONNX file", "omit it")
        assert self.classes is not None
        assert self.input_size is not None
        channels = self.channels or 3
        values = {"architecture": self.architecture, "arguments": self.arguments or {}, "classes": len(self.classes)}
        values |= {"input_size": self.input_size, "channels": channels}
        for field in ("mean", "std"):
            given: tuple[float, ...] = getattr(self, field)
            if any(abs(value) > _LARGEST_STATISTIC for value in given):
                values_given = ", ".join(f"{value:g}" for value in given)
                raise UsageError(
                    subject,
                    f"--{field} {values_given} is for pixels up to 255, but images are in [0, 1]",
                    "divide it by 255",
                )
            values[field] = given * channels if len(given) == 1 else given
        if graph is not None:
            found = graph(channels, self.input_size, len(self.classes))
            values |= {"graph": found, "arguments": {"graph": found.sha256}}
        try:
            return ClassifierSpec.model_validate(values)
        except ValidationError as error:
            raise UsageError(subject, f"cannot be built: {first_problem(error)}", "change that value") from error


def described(values: Mapping[Any, Any], subject: str) -> ModelDescription:
    """Make a description of unchecked values.

    Args:
        values: values by the names of fields.
        subject: subject of errors.

    Raises:
        UsageError: a name is unknown, a value is out of bounds, or YAML read a class name as a number or truth value.
    """
    known = ModelDescription.model_fields
    unknown = [key for key in values if key not in known]
    if unknown:
        problem = f"unknown {', '.join(shown(key) for key in unknown[:5])}"
        raise UsageError(subject, problem, remedy_for_unknown(unknown[0], known))
    classes = values.get("classes")
    for number, name in enumerate(classes if isinstance(classes, list | tuple) else (), start=1):
        if isinstance(name, bool | int | float | None):
            spelled = {"False": "no", "True": "yes", "None": "null"}.get(str(name), str(name))
            raise UsageError(subject, f"class {number} was read as YAML `{spelled}`", "quote it")
    try:
        return ModelDescription.model_validate(dict(values))
    except ValidationError as error:
        raise UsageError(subject, f"impossible values: {all_problems(error)}", "correct them") from error


def weights_stem(weights: Path) -> str:
    """Name of a weights file without its suffix, which may be `.pth.tar`; or the name of a folder."""
    if weights.is_dir():
        return weights.absolute().name
    return re.sub(r"\.(pth|pt)$", "", weights.stem) if weights.suffix.lower() == ".tar" else weights.stem


def sidecars(weights: Path) -> list[Path]:
    """Paths that a description file of `weights` may have."""
    return [weights.absolute().with_name(f"{weights_stem(weights)}{suffix}") for suffix in SIDECARS]


def read_sidecar(weights: Path) -> ModelDescription | None:
    """Read the description file beside `weights`; None if there is none.

    Raises:
        UsageError: the file cannot be read or is not a description, or there are several.
    """
    found = [path for path in sidecars(weights) if path.is_file()]
    if len(found) > 1:
        raise UsageError(found[0], f"{found[1].name} also describes {weights.name}", "delete one of them")
    return described(read_description(found[0]), str(found[0])) if found else None


def read_description(path: Path) -> dict[Any, Any]:
    """Read the values of a description file; UsageError if it cannot be read or is not a mapping."""
    return read_mapping(path, "a model", "domain: pets", _LARGEST_SIDECAR)


def numbered(names: list[str]) -> tuple[str, ...]:
    """Make class names unique by numbering duplicates: crane, crane (2)."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(unique)
