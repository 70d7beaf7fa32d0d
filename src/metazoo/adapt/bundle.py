"""Bundles: folders with `bundle.json`, `model.safetensors` and a card, `README.md`.

Meta-models and few-shot classifiers have the same format. Folders of version 0.1 can be read too.
"""

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import psutil
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from metazoo.adapt.support_record import HeldOutRecord, SupportImage, Version, check_versions
from metazoo.errors import ArtefactError, UsageError
from metazoo.features.batch_norm import BatchNormMode
from metazoo.features.heads import HeadKind, extra_tensor
from metazoo.models import ClassifierSpec, ImageClassifier, Network, network_with_weights, network_without_weights
from metazoo.storage.artefacts import flush_folder, read_bytes, read_json, write_json, write_text
from metazoo.storage.tensor_files import read_tensors, write_tensors
from metazoo.storage.validation import check_format_version, first_problem
from metazoo.zoo.weights import unsound

FORMAT = "metazoo-bundle"
FORMAT_VERSION = 2
DESCRIPTION, WEIGHTS, CARD = "bundle.json", "model.safetensors", "README.md"
FILES = (DESCRIPTION, CARD, WEIGHTS)
"""All files of a bundle. None holds an image."""
_FORMER_DESCRIPTIONS, _FORMER_CARD, _FORMER_VERSION = ("meta-model.json", "classifier.json"), "card.md", 1
_LARGEST_HEADER = 1 << 20
_OTHER_FOLDERS = {"run.json": "a run", "zoo.json": "a zoo"}


class BundleDescription(BaseModel):
    """Content of `bundle.json`, as far as all bundles have it in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    noun: ClassVar[str]
    example: ClassVar[str]
    remedy: ClassVar[str]

    format: Literal["metazoo-bundle"] = "metazoo-bundle"
    format_version: Literal[2] = FORMAT_VERSION
    networks: tuple[ClassifierSpec, ...] = Field(min_length=1)
    weights_sha256: str = ""

    @property
    def prefixes(self) -> list[str]:
        """Prefixes of tensor names, one per network."""
        return [f"networks.{index}." for index in range(len(self.networks))]

    def other_tensors(self, feature_sizes: Sequence[int]) -> dict[str, Tensor]:
        """Expected tensors besides those of the networks, on the meta device.

        Args:
            feature_sizes: feature sizes, one per network.
        """
        raise NotImplementedError


class MetaModelDescription(BundleDescription):
    """Content of `bundle.json` of a meta-model."""

    noun = "a meta-model"
    example = "a meta-model folder, such as RUN/meta-model"
    remedy = "restore both files"

    kind: Literal["meta-model"] = "meta-model"
    joint: bool = Field(
        default=False, description="whether features are the normalised features of all networks, concatenated"
    )
    method: str
    preset: str
    seed: int
    domains: tuple[str, ...] = Field(default=(), description="domains with a network each; none or at least two")
    general: tuple[float, ...] = Field(
        default=(),
        description="share of the general network (the last one) in each domain; empty without one",
    )

    unlabelled: int = Field(default=0, ge=0, description="number of unlabelled images that it learned from")
    validated: bool = Field(default=False, description="whether labelled validation images directed its run")

    @model_validator(mode="after")
    def _check(self) -> "MetaModelDescription":
        if self.joint and self.domains:
            raise ValueError("joint features have no domains")
        if not self.joint and len(self.networks) != max(1, len(self.domains) + any(self.general)):
            raise ValueError(f"{len(self.networks)} networks do not fit {len(self.domains)} domains")
        if self.general and len(self.general) != len(self.domains):
            raise ValueError(f"{len(self.general)} general shares do not fit {len(self.domains)} domains")
        return self

    @property
    def prefixes(self) -> list[str]:
        """Prefixes of tensor names, one per network; a single network has an empty prefix."""
        return super().prefixes if len(self.networks) > 1 else [""]

    def other_tensors(self, feature_sizes: Sequence[int]) -> dict[str, Tensor]:
        """Expected weight of the domain recogniser, if there are several domains."""
        count = len(self.domains)
        return {"recogniser.weight": torch.empty(count * feature_sizes[0] + 1, count, device="meta")} if count else {}


class ClassifierDescription(BundleDescription):
    """Content of `bundle.json` of a few-shot classifier."""

    noun = "a classifier"
    example = "a classifier folder, made by metazoo adapt"
    remedy = "adapt again"

    kind: Literal["classifier"] = "classifier"
    head: str
    head_kind: HeadKind
    batch_norm: BatchNormMode
    mirrored: bool = Field(default=False, description="whether features are means over an image and its mirror image")
    domains: dict[str, float] = Field(default={}, description="shares of the domains in the task; empty if none")
    class_names: tuple[str, ...] = Field(min_length=2)
    joint: bool = Field(description="whether features are the normalised features of all networks, concatenated")
    source: str = ""
    temperature: float = Field(default=1.0, gt=0, description="number by which logits are divided")
    threshold: float | None = Field(default=None, description="familiarity below which an image is of no class")
    false_rejection: float = Field(
        default=0.05, gt=0, lt=1, description="share of known images that `threshold` rejects"
    )
    held_out: HeldOutRecord | None = None
    support: tuple[SupportImage, ...] = Field(default=(), description="support images, whose features are stored")
    has_support_images: bool = Field(default=False, description="whether the support images are stored as well")
    versions: tuple[Version, ...] = Field(default=(), description="versions, of which the last is the current one")
    licences: tuple[str, ...] = Field(default=(), description="licences of the source models; empty if none is known")

    @model_validator(mode="after")
    def _check(self) -> "ClassifierDescription":
        if len(set(self.class_names)) < len(self.class_names):
            raise ValueError(f"duplicate class name {Counter(self.class_names).most_common(1)[0][0]!r}")
        if self.is_weighted and not self.domains:
            raise ValueError("several networks need joint features or domains")
        check_versions(self.versions, self.class_names, len(self.support))
        return self

    @property
    def is_weighted(self) -> bool:
        """Whether features are concatenated from several networks, each weighted by its share."""
        return len(self.networks) > 1 and not self.joint

    def other_tensors(self, feature_sizes: Sequence[int]) -> dict[str, Tensor]:
        """Expected tensors of the head."""
        weight = torch.empty(len(self.class_names), sum(feature_sizes), device="meta")
        extra = extra_tensor(self.head_kind)
        head = {"weight": weight, **({extra: weight[:, 0]} if extra else {})}
        head |= {"scale": weight[0]} if self.is_weighted else {}
        tensors = {f"head.{name}": tensor for name, tensor in head.items()}
        if self.support:
            tensors["support.features"] = torch.empty(len(self.support), sum(feature_sizes), device="meta")
        if self.has_support_images:
            side = max(spec.input_size for spec in self.networks)
            shape = (len(self.support), 3, side, side)
            tensors["support.images"] = torch.empty(shape, dtype=torch.uint8, device="meta")
        return tensors


Description = TypeVar("Description", bound=BundleDescription)
_KINDS: tuple[type[BundleDescription], ...] = (MetaModelDescription, ClassifierDescription)


@dataclass(frozen=True, eq=False)
class Bundle(Generic[Description]):
    """The content of a bundle.

    Attributes:
        description: content of `bundle.json`; writing adds the hash of the weights.
        networks: frozen networks in evaluation mode; on the CPU after reading.
        tensors: tensors besides those of the networks.
        card: Markdown text; empty if there is none.
    """

    description: Description
    networks: Sequence[ImageClassifier]
    tensors: Mapping[str, Tensor]
    card: str

    def write(self, folder: Path | str) -> tuple[str, ...]:
        """Write the bundle completely or not at all, and replace an earlier bundle of the same kind.

        Files are written to a temporary folder beside `folder`, which is then renamed. Parent folders are made.

        Returns:
            Names of the files.

        Raises:
            UsageError: `folder` is a file, or holds anything but such a bundle.
            ArtefactError: `folder` cannot be written, or a tensor has values with which it could not be read.
        """
        folder = Path(folder).resolve()
        if not folder.name:
            raise UsageError(folder, f"cannot be {self.description.noun} folder", "choose another folder")
        temporary, former = (folder.with_name(f".{folder.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
        tensors = dict(self.tensors)
        for prefix, own in zip(self.description.prefixes, self.networks, strict=True):
            tensors |= {f"{prefix}{name}": tensor for name, tensor in own.network.state_dict().items()}
        try:
            check_out(folder, type(self.description), overwrite=True)
            problem = unsound(tensors, tensors)
            if problem is not None:
                remedy = "lower the learning rate, or choose another method or head"
                raise ArtefactError(folder, f"is not written, because its model {problem}", remedy)
            sha256 = write_tensors(temporary / WEIGHTS, tensors)
            write_text(temporary / CARD, self.card)
            written = self.description.model_copy(update={"weights_sha256": sha256})
            # Omitted where they say nothing, so that former versions can read the bundle.
            omitted = {name for name in ("unlabelled", "validated", "licences") if not getattr(written, name, None)}
            if isinstance(written, MetaModelDescription) and not written.joint:
                omitted.add("joint")
            write_json(temporary / DESCRIPTION, written.model_dump(mode="json", exclude=omitted))
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
        except OSError as error:
            problem = f"cannot be written ({error.strerror or error})"
            raise ArtefactError(folder, problem, "choose another folder") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return WEIGHTS, CARD, DESCRIPTION


def read_bundle(folder: Path | str, kind: type[Description]) -> Bundle[Description]:
    """Read a bundle and check the hash, the shapes and the values of its tensors.

    Args:
        folder: folder of the bundle.
        kind: expected type of its description.

    Raises:
        UsageError: `folder` does not exist, or is a run, a zoo or another kind of bundle.
        ArtefactError: a file is missing, damaged or changed, has another format version, or does not fit the other.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(folder, "is not a folder", f"give {kind.example}")
    path = description_file(folder) or folder / DESCRIPTION
    other = None if path.is_file() else next((n for f, n in _OTHER_FOLDERS.items() if (folder / f).is_file()), None)
    if other is not None:
        raise UsageError(folder, f"is {other}, not {kind.noun}", f"give {kind.example}")
    return _read(folder, path, description_of(path, kind, folder))


def description_of(path: Path, kind: type[Description], subject: object) -> Description:
    """Read the description of a bundle.

    Args:
        path: file of the description.
        kind: expected type; `BundleDescription` stands for any.
        subject: subject of the error for another kind of bundle.

    Raises:
        UsageError: it describes another kind of bundle.
        ArtefactError: it is missing, damaged, or has another format version.
    """
    description = _read_description(path)
    if isinstance(description, kind):
        return description
    raise UsageError(subject, f"is {description.noun}, not {kind.noun}", f"give {kind.example}")


def most_weights(path: Path, description: BundleDescription) -> int:
    """Size in bytes of the largest weights file that is read for the description in `path`.

    Raises:
        ArtefactError: a network cannot be built.
    """
    expected = _expected(description, _shapes(path, description)).values()
    return sum(tensor.numel() * tensor.element_size() for tensor in expected) + _LARGEST_HEADER


def description_file(folder: Path) -> Path | None:
    """Path of the description of a bundle of this version or of 0.1; None if there is none."""
    return next((folder / name for name in (DESCRIPTION, *_FORMER_DESCRIPTIONS) if (folder / name).is_file()), None)


def check_out(folder: Path | str, kind: type[BundleDescription], *, overwrite: bool) -> None:
    """Check, before any work, that a bundle of `kind` can be written to `folder`.

    Raises:
        UsageError: `folder` is a file, holds anything but such a bundle, or holds one and `overwrite` is False.
    """
    folder = Path(folder).resolve()
    _recover(folder)
    if not folder.exists():
        return
    refusal = UsageError(folder, f"exists and is not {kind.noun} folder", "choose another folder or remove this one")
    try:
        names = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
        if names and not isinstance(_read_description(description_file(folder) or folder / DESCRIPTION), kind):
            raise refusal
    except (OSError, ArtefactError) as error:
        raise refusal from error
    foreign = sorted(names - {*FILES, *_FORMER_DESCRIPTIONS, _FORMER_CARD})
    if foreign:
        raise UsageError(folder, f"holds {foreign[0]} besides {kind.noun}", "choose another folder or move it away")
    if names and not overwrite:
        raise UsageError(folder, f"already holds {kind.noun}", "choose another folder or give --overwrite")


def _expected(description: BundleDescription, shapes: Sequence[Network]) -> dict[str, Tensor]:
    """All tensors of the weights file by name, on the meta device."""
    expected = description.other_tensors([shape.feature_size for shape in shapes])
    for prefix, shape in zip(description.prefixes, shapes, strict=True):
        expected |= {f"{prefix}{name}": tensor for name, tensor in shape.state_dict().items()}
    return expected


def _shapes(path: Path, description: BundleDescription) -> list[Network]:
    """Networks without weights of the description in `path`."""
    try:
        return [network_without_weights(spec) for spec in description.networks]
    except UsageError as error:
        problem = f"has a network that cannot be built ({error.subject}: {error.problem})"
        remedy = ", or ".join(filter(None, (error.remedy, description.remedy)))
        raise ArtefactError(path, problem, remedy) from error


def _read(folder: Path, path: Path, description: Description) -> Bundle[Description]:
    shapes = _shapes(path, description)
    expected = _expected(description, shapes)
    tensors = read_tensors(folder / WEIGHTS, description.weights_sha256)
    problem = unsound(tensors, expected)
    if problem is not None:
        raise ArtefactError(folder / WEIGHTS, f"does not fit {path.name}: it {problem}", description.remedy)
    networks, others = [], dict(tensors)
    for prefix, spec, shape in zip(description.prefixes, description.networks, shapes, strict=True):
        own = network_with_weights(spec, {name: others.pop(f"{prefix}{name}") for name in shape.state_dict()})
        networks.append(ImageClassifier(spec, own).to(memory_format=torch.channels_last).eval().requires_grad_(False))  # pyright: ignore[reportCallIssue]
    card = folder / (CARD if path.name == DESCRIPTION else _FORMER_CARD)
    text = read_bytes(card).decode(errors="replace") if card.is_file() else ""
    return Bundle(description, networks, others, text)


def _read_description(path: Path) -> BundleDescription:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ArtefactError(path, "does not describe a bundle", "restore the file or make the bundle again")
    if content.get("format") == FORMAT:
        check_format_version(path, content.get("format_version"), FORMAT_VERSION)
    elif path.name in _FORMER_DESCRIPTIONS:
        check_format_version(path, content.get("format_version"), _FORMER_VERSION)
        content = _converted(content)
    kind = next((kind for kind in _KINDS if kind.model_fields["kind"].default == content.get("kind")), _KINDS[0])
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise ArtefactError(path, f"does not describe {kind.noun} ({first_problem(error)})", kind.remedy) from error


def _converted(content: dict[str, Any]) -> dict[str, Any]:
    """Convert a description of version 0.1 to the current format."""
    former = content.get("format")
    content = {key: value for key, value in content.items() if key not in ("format", "format_version")}
    if former == "metazoo-classifier":
        return content | {"kind": "classifier", "head_kind": content.get("kind")}
    if former != "metazoo-meta-model":
        return content | {"format": former}
    lists = [value if isinstance(value, list) else [] for value in map(content.get, ("domains", "general"))]
    networks = [content.pop("spec", None)] * max(1, len(lists[0]) + any(lists[1]))
    return content | {"kind": "meta-model", "preset": content.pop("setting", None), "networks": networks}


def _recover(folder: Path) -> None:
    """Remove what killed processes left beside `folder`, and restore the former bundle if one had moved it away."""
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
