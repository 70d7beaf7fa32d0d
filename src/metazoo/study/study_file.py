"""Study files: methods, zoos and seeds to compare on one protocol, as YAML; see `EXAMPLE`.

Relative paths are relative to the file. `docs/study.schema.json` is the JSON schema.
"""

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from metazoo.choices import DEFAULT_HEAD, Control
from metazoo.data import absolute_image_source
from metazoo.errors import UsageError
from metazoo.features.heads import HEADS
from metazoo.methods.base import check_takes_unlabelled
from metazoo.methods.registry import get_method
from metazoo.runs.config import resolve_config
from metazoo.storage.validation import first_problem, read_mapping
from metazoo.text import absolute_path
from metazoo.zoo import TrainingConfig

EXAMPLE = """\
title: What grouping adds
description: Three methods on one zoo of glyph classifiers.
data: glyphs:greek  # classes that no model has seen
zoos:
  latin:
    build:
      - {data: "glyphs:latin", arch: conv4, models: 6, width: 16, training: {epochs: 10}}
rows:
  - {name: tgr, method: tgr, preset: quick}
  - {name: distillation, method: zoo-distillation, preset: quick}
  - {name: ensemble, method: zoo-ensemble}
  - {name: random weights, method: random, own_head: {head: fine-tune}}
seeds: [0, 1]
protocol: {shots: [1, 5], episodes: 400}
reference: distillation"""
"""Example of a study file on the embedded data."""

_LARGEST_FILE = 1_000_000
_NO_PATH = re.compile(r"(timm|torchvision|hf):.*")


def file_name(text: str) -> str:
    """Part of a path made of a name."""
    return re.sub(r"[^A-Za-z0-9._+=,-]+", "-", text)


def _check_folders(names: Iterable[str], things: str) -> None:
    """Check that names give different folders and files, also where case does not matter."""
    first: dict[str, str] = {}
    for name in names:
        folder = file_name(name).casefold()
        if folder in first:
            other = first[folder]
            how = f"are called {name!r}" if other == name else f"share a folder name, {other!r} and {name!r}"
            raise ValueError(f"two {things} {how}")
        first[folder] = name


def _check_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._+=,-]{0,79}", text) or text.endswith((" ", ".")):
        raise ValueError("a name has 1 to 80 letters (A to Z), digits, spaces or . _ + = , - and begins with a letter")
    return text


Name = Annotated[str, AfterValidator(_check_name)]
HeadName = Annotated[str, AfterValidator(HEADS.validate)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
ImageSources = Annotated[dict[Name, str], Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ZooPart(_Part):
    """Models that the study trains for a zoo; see `metazoo.build_zoo`."""

    data: str = Field(description="images to train on: a pack, a folder, a published data set or glyphs")
    arch: str = Field(default="conv4", description="architecture of the models")
    models: int = Field(ge=1, description="number of models")
    ways: int = Field(default=5, ge=2, description="classes per model")
    seed: Seed = 0
    domain: str | None = Field(default=None, description="domain of the images; null: the name of the data")
    width: int | None = Field(default=None, ge=1, description="width of the architecture; null: its own")
    input_size: int | None = Field(default=None, ge=8, le=1024, description="side of the input; null: of the images")
    images_per_class: int = Field(default=100, ge=2, description="images rendered per glyph")
    control: Control | None = Field(default=None, description="type of control models")
    training: TrainingConfig = TrainingConfig()


class StudyZoo(_Part):
    """Zoo of a study: an existing folder, or parts to build; and the images that measure it."""

    path: str | None = Field(default=None, description="folder of an existing zoo")
    build: tuple[ZooPart, ...] = Field(default=(), description="parts to train, into one zoo")
    data: str | ImageSources | None = Field(
        default=None, description="images of unseen classes, or several by name; null: the data of the study"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> "StudyZoo":
        if (self.path is None) is (not self.build):
            raise ValueError("give either path or build")
        _check_folders(self.data if isinstance(self.data, dict) else (), "image sets")
        return self


class Protocol(_Part):
    """Evaluation of every row, on one list of episodes for each image set and number of shots."""

    ways: int = Field(default=5, ge=2, description="classes per episode")
    shots: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 5), min_length=1)
    queries: int = Field(default=15, ge=1, description="query images per class")
    side: int | None = Field(
        default=None,
        ge=8,
        le=1024,
        description="side in pixels of images whose source has none of its own; null: the largest input of the zoo",
    )
    episodes: int = Field(default=1000, ge=2, description="episodes per list")
    seed: Seed = Field(default=0, description="seed of the episodes")
    head: HeadName = Field(default=DEFAULT_HEAD, description="head of all rows")
    batch_norm: Literal["running", "support", "query"] = "running"
    mirror: bool = Field(default=False, description="whether features are means over an image and its mirror image")

    @field_validator("shots")
    @classmethod
    def _check_shots(cls, shots: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(shots)) < len(shots):
            raise ValueError("a number of shots is given twice")
        return shots


class OwnHead(_Part):
    """Second evaluation of a row, with the head of its paper."""

    head: HeadName
    batch_norm: Literal["running", "support", "query"] = "running"


class Curve(_Part):
    """Measurement of every row while it learns, on the first episodes of the lists.

    It watches and does not select: the final meta-model is the row. Its time counts as time of the cell.
    """

    every: int = Field(ge=1, description="steps of learning between two measurements")
    episodes: int = Field(default=100, ge=2, description="episodes of a measurement")
    head: HeadName | None = Field(default=None, description="head of the curve; null: that of the protocol")
    batch_norm: Literal["support", "query"] = Field(
        default="support", description="stored statistics exist only after learning"
    )


class Row(_Part):
    """Row of the table: a method with its options. A grid makes one row for each combination of values."""

    name: Name
    method: str = "tgr"
    preset: str | None = None
    set: dict[str, Any] = Field(default={}, description="options that differ from the preset, such as learning.steps")
    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(
        default={}, description="values by option; one row for each combination, named after its values"
    )
    unlabelled: str | None = Field(
        default=None,
        description="unlabelled images to learn from: a folder, a source of images, or its name; the row is then "
        "label-free, not data-free",
    )
    own_head: OwnHead | None = Field(default=None, description="second evaluation, with a head of the row's own")
    zoos: tuple[Name, ...] | None = Field(default=None, min_length=1, description="zoos of this row; null: all")
    seeds: tuple[Seed, ...] | None = Field(
        default=None, min_length=1, description="training seeds of this row; null: all"
    )

    @model_validator(mode="after")
    def _check(self) -> "Row":
        own = next((key for key in ("method", "preset", "seed") if key in self.set or key in self.grid), None)
        if own is not None:
            raise ValueError(f"{own} is no option of set or grid: write {'seeds' if own == 'seed' else own} in the row")
        return self

    def expanded(self) -> "list[Row]":
        """Rows of the grid; the row itself if it has none."""
        rows = []
        for values in itertools.product(*self.grid.values()):
            chosen = dict(zip(self.grid, values, strict=True))
            words = [f"{key.rpartition('.')[2]}={_word(value)}" for key, value in chosen.items()]
            update = {"name": _check_name(" ".join([self.name, *words])), "set": self.set | chosen, "grid": {}}
            rows.append(self.model_copy(update=update))
        return rows


def _word(value: Any) -> str:
    if isinstance(value, int | float):
        return json.dumps(value)
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", value if isinstance(value, str) else json.dumps(value)).strip("-")


class StudyFile(_Part):
    """Content of a study file."""

    title: str = Field(default="", max_length=200)
    description: str = Field(default="", max_length=5000, description="paragraph above the table")
    sources: dict[Name, str] = Field(
        default={},
        description="sources of images or backbones by name; every `data`, `unlabelled` and path in `set` may be such "
        "a name instead",
    )
    data: str | ImageSources | None = Field(
        default=None, description="images of classes that no model has seen, or several by name"
    )
    zoos: dict[Name, StudyZoo] = Field(min_length=1)
    rows: tuple[Row, ...] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1, description="training seeds")
    protocol: Protocol = Protocol()
    curve: Curve | None = Field(default=None, description="accuracy while learning, in `curves.csv`; null: none")
    reference: Name | None = Field(default=None, description="row that the others are compared with; null: the first")

    @field_validator("rows")
    @classmethod
    def _expand(cls, rows: tuple[Row, ...]) -> tuple[Row, ...]:
        return tuple(expanded for row in rows for expanded in row.expanded())

    @model_validator(mode="after")
    def _check(self) -> "StudyFile":
        names = [row.name for row in self.rows]
        _check_folders(names, "rows")
        _check_folders(self.zoos, "zoos")
        _check_folders(self.data if isinstance(self.data, dict) else (), "image sets")
        if self.reference is not None and self.reference not in names:
            raise ValueError(f"reference {self.reference!r} is none of the rows {', '.join(names)}")
        for row in self.rows:
            unknown = sorted(set(row.zoos or ()) - set(self.zoos))
            if unknown:
                raise ValueError(f"row {row.name!r} names zoo {unknown[0]!r}, which is none of {', '.join(self.zoos)}")
        missing = [name for name, zoo in self.zoos.items() if zoo.data is None and self.data is None]
        if missing:
            raise ValueError(f"zoo {missing[0]!r} has no data to measure on, and the study has none")
        return self

    @property
    def reference_row(self) -> str:
        """Name of the row that the others are compared with."""
        return self.reference or self.rows[0].name

    def data_of(self, zoo: str) -> dict[str, str]:
        """Sources of the images that measure a zoo, by name."""
        data = self.zoos[zoo].data or self.data
        assert data is not None
        return {"": data} if isinstance(data, str) else dict(data)


def read_study(path: Path | str, sources: Mapping[str, str] | None = None) -> StudyFile:
    """Read and check a study file, with every configuration that it names.

    Args:
        path: path of the file.
        sources: sources of images by name, which replace those of the file; relative to the current folder.

    Raises:
        UsageError: the file is missing or not a study, a method, preset, option or head does not exist, or the study
            has no source of such a name.
    """
    path = Path(path)
    content = read_mapping(path, "a study", "title: my study", _LARGEST_FILE)
    return study_from(content, str(path), path.parent, sources)


def study_from(
    content: Mapping[str, Any],
    subject: str = "study",
    folder: Path = Path(),
    sources: Mapping[str, str] | None = None,
) -> StudyFile:
    """Check a study given as a mapping; see `read_study`.

    Args:
        content: content of a study file.
        subject: subject of errors.
        folder: folder of relative paths.
        sources: sources of images by name, which replace those of the study; relative to the current folder.
    """
    try:
        study = StudyFile.model_validate(dict(content))
    except ValidationError as error:
        raise UsageError(subject, first_problem(error, with_value=True), "see docs/study.schema.json") from error
    for row in study.rows:
        try:
            config = resolve_config(row.set, method=row.method, preset=row.preset)
            if row.unlabelled is not None:
                check_takes_unlabelled(config.method, config.options)
        except UsageError as error:
            raise UsageError(f"{subject}: row {row.name!r}: {error.subject}", error.problem, error.remedy) from error
    unknown = next((name for name in sources or {} if name not in study.sources), None)
    if unknown is not None:
        known = ", ".join(study.sources) or "none"
        raise UsageError(subject, f"has no source {unknown!r}", f"its sources are: {known}")
    return _with_absolute_sources(study, folder, sources or {})


def _with_absolute_sources(study: StudyFile, folder: Path, sources: Mapping[str, str]) -> StudyFile:
    """Study whose sources are absolute paths or names of data sets."""

    def absolute(text: str, folder: Path) -> str:
        return text if _NO_PATH.fullmatch(text) else absolute_image_source(text, folder)

    named = {name: absolute(text, folder) for name, text in study.sources.items()}
    named |= {name: absolute(text, Path()) for name, text in sources.items()}

    def source(text: str) -> str:
        return named.get(text) or absolute(text, folder)

    def all_sources(data: str | dict[str, str] | None) -> str | dict[str, str] | None:
        return {name: source(text) for name, text in data.items()} if isinstance(data, dict) else data and source(data)

    def own(row: Row) -> Row:
        method = get_method(row.method)
        given = {key: row.set[key] for key in method.paths if isinstance(row.set.get(key), str)}
        paths = method.absolute_paths({key: named.get(text, text) for key, text in given.items()}, folder)
        return row.model_copy(
            update={"set": row.set | paths, "unlabelled": None if row.unlabelled is None else source(row.unlabelled)}
        )

    zoos = {
        name: zoo.model_copy(
            update={
                "path": None if zoo.path is None else absolute_path(zoo.path, folder),
                "data": all_sources(zoo.data),
                "build": tuple(part.model_copy(update={"data": source(part.data)}) for part in zoo.build),
            }
        )
        for name, zoo in study.zoos.items()
    }
    rows = tuple(map(own, study.rows))
    return study.model_copy(update={"sources": named, "data": all_sources(study.data), "zoos": zoos, "rows": rows})


def study_yaml(study: StudyFile) -> str:
    """Text of a study file, with every value."""
    return yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
