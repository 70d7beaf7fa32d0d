"""Frozen backbone: any pre-trained network as the meta-model, with its weights as they are.

A network pre-trained on a large data set, frozen, with class prototypes of its features (head `nearest-mean`; Chen et
al., "A Closer Look at Few-shot Classification", ICLR 2019; Wang et al., "SimpleShot", 2019) is what most people use
where no zoo is at hand, and a strong rival of every meta-model. It is a model of the zoo, or a network on the user's
disk in any form that a zoo can add; nothing is downloaded. Differences: the images are resized to the input of the
network without the margin of its own preprocessing, and the head is chosen when a task is adapted, as for every
meta-model.

The meta-model contains the whole network, so it works without the file. The record `backbone.json` keeps the source,
its SHA-256, and the classes that the network was trained on, of which `evaluate` and studies warn as of those of the
zoo. A network from disk uses no model of the zoo.
"""

import hashlib
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, final

from pydantic import BaseModel, ConfigDict, Field

from metazoo.choices import MODEL_EXAMPLE
from metazoo.errors import UsageError, shown
from metazoo.methods.base import Method, Origin, Requirements
from metazoo.models import ImageClassifier
from metazoo.pipeline.layout import BACKBONE
from metazoo.pipeline.workspace import Workspace
from metazoo.storage.artefacts import sha256_of_file
from metazoo.text import absolute_path, expanded_path, some_of
from metazoo.zoo import ModelContract, Zoo
from metazoo.zoo.importing.model_description import OPTIONS, ModelDescription
from metazoo.zoo.importing.model_sources import Source, absolute_source, find_source
from metazoo.zoo.importing.preparation import ModelRequest, Ready, prepare

_LIBRARIES = ("timm", "torchvision")


class FrozenBackboneConfig(BaseModel):
    """Options of the network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str | None = Field(
        default=None,
        description="network: the name of a model of the zoo; a weights or ONNX file, described by a .yaml file beside "
        "it (docs/models.md); a folder of save_pretrained, as ./FOLDER; or timm:NAME.TAG or torchvision:NAME.TAG, with "
        "weights",
    )
    weights: str | None = Field(default=None, description="weights file of a timm: or torchvision: network")
    classes: int | None = Field(
        default=None, ge=1, le=1_000_000, description="outputs of the network; null: those that its source states"
    )
    input_size: int | None = Field(
        default=None, ge=1, le=1024, description="side of the input in pixels; null: the one that its source states"
    )


@final
class FrozenBackbone(Method):
    """One pre-trained network, the method `frozen-backbone`."""

    name = "frozen-backbone"
    title = "Frozen backbone"
    reference = "a pre-trained network as it is, as in SimpleShot, Wang et al. 2019"
    is_random = False
    uses = "backbone"
    presets: ClassVar[Mapping[str, BaseModel]] = {"default": FrozenBackboneConfig()}
    requires = Requirements(white_box=False)
    paths: ClassVar[Mapping[str, Callable[[str, Path], str]]] = {"backbone": absolute_source, "weights": absolute_path}

    def uses_in(self, zoo: Zoo, config: FrozenBackboneConfig) -> Origin:
        """`weights` if the network is a model of the zoo."""
        return "backbone" if _model_of(zoo, config) is None else "weights"

    def inputs(self, zoo: Zoo, config: FrozenBackboneConfig) -> Mapping[str, str]:  # noqa: D102
        if _model_of(zoo, config) is not None:
            return {}
        source = _source(zoo, config)
        with tempfile.TemporaryDirectory() as folder:
            weights = sha256_of_file(source.origin or source.fetch(Path(folder), sys.maxsize))
        description = source.description.model_dump_json(exclude_none=True).encode()
        return {"backbone": weights, "description of the backbone": hashlib.sha256(description).hexdigest()}

    def check(self, zoo: Zoo, config: FrozenBackboneConfig, seed: int) -> None:  # noqa: D102
        contract = _model_of(zoo, config)
        if contract is None:
            _read(zoo, config)
        elif not contract.is_white_box:
            raise UsageError(f"model {contract.name!r}", "has no weights to make a backbone of", "choose another")

    def train(self, workspace: Workspace, config: FrozenBackboneConfig) -> ImageClassifier:  # noqa: D102
        contract = _model_of(workspace.zoo, config)
        if contract is not None:
            return workspace.zoo.teacher(contract.name).classifier.requires_grad_(False)
        ready = _read(workspace.zoo, config)
        origin = {key: getattr(ready.provenance, key) for key in ("source", "source_sha256", "revision", "licence")}
        classes = ready.known.classes if config.classes is None else None
        workspace.folder.write_json(BACKBONE, {"format_version": 1, **origin, "class_names": classes})
        return ready.classifier.requires_grad_(False)


def _model_of(zoo: Zoo, config: FrozenBackboneConfig) -> ModelContract | None:
    """Contract of a model of the zoo; None for a network from disk."""
    if config.backbone is None:
        raise UsageError("backbone", "missing", "name a model of the zoo or a file, such as --set backbone=resnet.pth")
    contract = zoo.find(config.backbone)
    given = next((name for name in ("weights", "classes", "input_size") if getattr(config, name) is not None), None)
    if contract is not None and given is not None:
        remedy = f"omit {given}, or write ./{config.backbone} for a file of that name"
        raise UsageError(given, f"does not apply to the model {contract.name!r} of the zoo", remedy)
    return contract


def _source(zoo: Zoo, config: FrozenBackboneConfig) -> Source:
    text = absolute_source(config.backbone or "", Path())
    kind = text.partition(":")[0]
    weights = None if config.weights is None else expanded_path(config.weights)
    if kind == "hf":
        raise UsageError(
            shown(text), "is not on the disk, and a run downloads nothing", "download it and give its folder"
        )
    if kind in _LIBRARIES:
        if weights is None:
            raise UsageError("weights", f"missing, and {shown(text)} has none itself", "add --set weights=FILE")
        return find_source(text, weights)
    if weights is not None:
        raise UsageError("weights", f"does not apply to {shown(text)}, which has its own", "omit it")
    if not Path(text).is_absolute():
        names = some_of([contract.name for contract in zoo])
        remedy = f"choose one of {names}, or write ./{shown(text)} for a file or folder"
        raise UsageError(f"backbone {shown(text)!r}", "is no model of the zoo", remedy)
    return find_source(text)


def _read(zoo: Zoo, config: FrozenBackboneConfig) -> Ready:
    """Read a network from disk with all checks that `metazoo zoo add` makes."""
    source = _source(zoo, config)
    names = None if config.classes is None else tuple(map(str, range(config.classes)))
    # The domain of images and the names of classes are the zoo's, and no part of a network.
    given = ModelDescription(classes=names, input_size=config.input_size, domain="backbone")
    known = given.over(source.description)
    missing = [field for field in OPTIONS if getattr(known, field) is None]
    if missing not in ([], ["architecture"]):  # the architecture may follow from the tensors
        doubts = [f"{field} ({source.doubts[field]})" if field in source.doubts else field for field in missing]
        options = [f"--set {field}=NUMBER" for field in ("classes", "input_size") if field in missing]
        beside = f"describe it in a .yaml file of the same name beside it, such as {MODEL_EXAMPLE}"
        remedy = f"give {' and '.join(options)}" if len(options) == len(missing) else beside
        raise UsageError(source.name, f"does not state {', '.join(doubts)}", remedy)
    return prepare(zoo.folder, ModelRequest(source, given, False, {}), lambda _name: None)
