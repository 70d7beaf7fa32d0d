"""The folder of a few-shot classifier: `classifier.json` and `model.safetensors`, whole or not there."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from metazoo.adapt.stored import other_kind, silent
from metazoo.errors import ArtefactError, UsageError
from metazoo.features.batch_norm import BatchNormMode
from metazoo.features.heads import HeadKind
from metazoo.models import ClassifierSpec
from metazoo.storage.artefacts import flush_folder, read_json, write_json
from metazoo.storage.tensor_files import read_tensors, write_tensors
from metazoo.storage.validation import check_format_version, first_problem

FORMAT_VERSION = 1
CARD, WEIGHTS = "classifier.json", "model.safetensors"


class ClassifierCard(BaseModel):
    """What `classifier.json` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["metazoo-classifier"] = "metazoo-classifier"
    format_version: Literal[1] = FORMAT_VERSION
    head: str
    kind: HeadKind
    batch_norm: BatchNormMode
    mirrored: bool = Field(default=False, description="whether features are means over an image and its mirror image")
    domains: dict[str, float] = Field(
        default={}, description="share of each that the task was taken to be of; empty if none"
    )
    class_names: tuple[str, ...] = Field(min_length=2)
    joint: bool = Field(description="whether features are the networks' normalised ones side by side")
    networks: tuple[ClassifierSpec, ...] = Field(min_length=1)
    weights_sha256: str
    source: str = ""

    @model_validator(mode="after")
    def _check(self) -> "ClassifierCard":
        if len(set(self.class_names)) < len(self.class_names):
            raise ValueError("a class name stands twice")
        if self.weighed and not self.domains:
            raise ValueError("several networks must be joint, or of domains")
        return self

    @property
    def weighed(self) -> bool:
        """Whether features are several networks', each weighed by its share."""
        return len(self.networks) > 1 and not self.joint


def check_out(folder: Path | str, overwrite: bool) -> None:
    """Say before the work what would keep a classifier from being written to `folder`.

    Raises:
        UsageError: `folder` is a file, holds anything but a classifier, or holds one that is not to be replaced.
    """
    folder = Path(folder).resolve()
    _recover(folder)
    _check_replaceable(folder)
    if (folder / CARD).exists() and not overwrite:
        raise UsageError(f"{folder} holds a classifier already; give another folder, or --overwrite it")


def write_classifier(folder: Path | str, card: ClassifierCard, tensors: Mapping[str, Tensor]) -> None:
    """Write both files to a folder beside `folder`, which then takes its place; parents are made.

    An earlier classifier is replaced. It stays if anything fails.

    Raises:
        UsageError: `folder` is a file, or holds anything but a classifier.
        ArtefactError: it cannot be written.
    """
    folder = Path(folder).resolve()
    if not folder.name:
        raise UsageError(f"{folder} cannot be a classifier folder; choose another")
    temporary, former = (folder.with_name(f".{folder.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    try:
        check_out(folder, overwrite=True)
        sha256 = write_tensors(temporary / WEIGHTS, tensors)
        written = card.model_copy(update={"weights_sha256": sha256})
        write_json(temporary / CARD, written.model_dump(mode="json", exclude=silent(card)))
        _take_place(temporary, folder, former)
    except OSError as error:
        raise ArtefactError(f"cannot write {folder}: {error.strerror or error}; choose another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_classifier(folder: Path | str) -> tuple[ClassifierCard, dict[str, Tensor]]:
    """Read both files and check the weights' hash.

    Raises:
        UsageError: `folder` does not exist, or is a run, a zoo or a meta-model.
        ArtefactError: a file is missing, damaged, changed or of another format version.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; give a classifier folder as adapt writes it")
    if not (folder / CARD).exists() and (found := other_kind(folder)):
        raise UsageError(f"{folder} is {found}, not a classifier; make one of it by `metazoo adapt {folder} ...`")
    card = _read_card(folder / CARD)
    return card, read_tensors(folder / WEIGHTS, card.weights_sha256)


def _read_card(path: Path) -> ClassifierCard:
    content = read_json(path)
    if isinstance(content, dict) and content.get("format") == "metazoo-classifier":
        check_format_version(path, content.get("format_version"), FORMAT_VERSION)
    try:
        return ClassifierCard.model_validate(content)
    except ValidationError as error:
        raise ArtefactError(f"{path} is not a classifier ({first_problem(error)}); adapt again") from error


def _check_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    try:
        names = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
        if names:
            _read_card(folder / CARD)
    except (OSError, ArtefactError) as error:
        raise UsageError(f"{folder} exists and is not a classifier folder; choose another or remove it") from error
    foreign = sorted(names - {CARD, WEIGHTS})
    if foreign:
        raise UsageError(f"{folder} holds {foreign[0]} besides a classifier; choose another folder or move it away")


def _take_place(temporary: Path, folder: Path, former: Path) -> None:
    replaces = folder.exists()
    if replaces:
        folder.rename(former)
    try:
        temporary.rename(folder)
    except BaseException:
        if replaces:
            former.rename(folder)
        raise
    flush_folder(folder.parent)
    shutil.rmtree(former, ignore_errors=True)


def _recover(folder: Path) -> None:
    """Tidy what a killed process left beside `folder`; the former classifier comes back if it had been moved away."""
    for left in folder.parent.glob(".*"):
        name, _, kind = left.name.rpartition(".")
        name, _, process = name.rpartition(".")
        if name != f".{folder.name}" or kind not in ("tmp", "old") or not process.isdecimal():
            continue
        if int(process) != os.getpid() and psutil.pid_exists(int(process)):
            continue
        if kind == "old" and not folder.exists():
            left.rename(folder)
        else:
            shutil.rmtree(left, ignore_errors=True)
