"""Adding of models that were trained elsewhere: `metazoo zoo add`."""

import contextlib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from metazoo.choices import MODEL_EXAMPLE
from metazoo.errors import MetazooError, UsageError, ZooError, shown
from metazoo.models import ImageClassifier, network_with_weights, network_without_weights
from metazoo.storage.artefacts import sha256_of_file
from metazoo.zoo.contract import ModelContract, Provenance, checked_contract
from metazoo.zoo.contract_files import NAME as MARK
from metazoo.zoo.importing.checkpoint import SUFFIXES, most_bytes, own_state, read_checkpoint
from metazoo.zoo.importing.model_description import ModelDescription, described, read_sidecar
from metazoo.zoo.importing.model_sources import Source, find_source, library_version
from metazoo.zoo.importing.onnx_file import SUFFIX as ONNX_SUFFIX
from metazoo.zoo.weights import unsound
from metazoo.zoo.zoo_folder import Zoo

_LONGEST_NAME = 100


@dataclass(frozen=True)
class Addition:
    """Result for one file of a folder; `text` is the name of the model, or the problem."""

    file: str
    status: Literal["added", "present", "problem"]
    text: str


def add_model(
    zoo: Path | str,
    source: str,
    *,
    weights: Path | str | None = None,
    pretrained: bool = False,
    **fields: Any,
) -> ModelContract:
    """Add one model to the zoo at `zoo`, which is created if it does not exist.

    The weights are checked, run on random images, and stored as safetensors.

    Args:
        zoo: folder of the zoo.
        source: `timm:NAME[.TAG]`, `torchvision:NAME[.WEIGHTS]`, `hf:OWNER/NAME[@REVISION]`, or the path of a file of
            weights (.safetensors, or .pt, .pth, .th or .bin that contain only tensors) or an .onnx file. A .yaml or
            .json file of the same name beside a local file may describe the model, see
            `metazoo.zoo.importing.model_description`.
        weights: local weights file for a model of a library.
        pretrained: whether to download the published weights of a model of a library.
        **fields: fields of `ModelDescription`, which override a description file, which overrides the source.

    Raises:
        UsageError: the source does not exist, is not supported or cannot be reached, a required field is missing or
            impossible, or the zoo has a model of that name.
        ArtefactError: a file is damaged, too large, or contains other objects than tensors.
        ZooError: the weights do not fit the architecture, are not finite, or do not give one logit per class.
        RunError: another process is writing to the zoo.
    """
    given = described(fields, "description")
    found = find_source(source, None if weights is None else Path(weights).expanduser(), pretrained=pretrained)
    return _add(_Destination(Path(zoo)), found, given)


def add_folder(zoo: Path | str, folder: Path | str, **fields: Any) -> list[Addition]:
    """Add every weights file in `folder`, each described by a .yaml or .json file of the same name.

    Models already added from the same file are kept, so that an interrupted call can be repeated. Problems of one file
    do not stop the others. The zoo is locked for writing from the first new model.

    Args:
        zoo: folder of the zoo, created if it does not exist.
        folder: folder with weights and description files.
        **fields: fields of `ModelDescription` for all models, which override the description files.

    Returns:
        One result for each weights file, sorted by name.

    Raises:
        UsageError: `folder` is not a folder or holds no weights, `name` is given, or `zoo` is not a zoo.
        ArtefactError: the zoo cannot be read or written.
    """
    folder = Path(folder).expanduser()
    given = described(fields, "description")
    if given.name is not None:
        raise UsageError(
            "name", "several models of a folder cannot share one", "give `name` in their description files"
        )
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (*SUFFIXES, ONNX_SUFFIX))
    except OSError as error:
        raise UsageError(folder, f"cannot be listed: {error.strerror}", "give a folder with weights") from error
    if not files:
        raise UsageError(folder, f"holds no weights ({', '.join(SUFFIXES)})", "give another folder")
    with contextlib.ExitStack() as held:
        destination = _Destination(Path(zoo), held)
        return [_addition(destination, folder, path, given) for path in files]


class _Destination:
    """Zoo to add to: read once, created with its first model, and from then on locked within `held`, if given."""

    def __init__(self, folder: Path, held: contextlib.ExitStack | None = None) -> None:
        self.folder, self._held, self._is_held = folder, held, False
        self._zoo = Zoo.open(folder) if (folder / MARK).exists() else None

    def find(self, name: str) -> ModelContract | None:
        """Contract of the model of this name, ignoring capitals; None if there is none."""
        return None if self._zoo is None else self._zoo.find(name)

    def add(self, name: str, classifier: ImageClassifier, **fields: Any) -> ModelContract:
        """Add a model; see `Zoo.add`."""
        if self._zoo is None:
            self._zoo = Zoo.create(self.folder)
        if self._held is not None and not self._is_held:
            self._held.enter_context(self._zoo.writing())
            self._is_held = True
        return self._zoo.add(name, classifier, **fields)


def _addition(zoo: _Destination, folder: Path, path: Path, given: ModelDescription) -> Addition:
    try:
        for each in (path, *(path.with_suffix(suffix) for suffix in (".yaml", ".yml", ".json"))):
            if each.exists() and not each.resolve().is_relative_to(folder.resolve()):
                raise UsageError(each, "a link leads out of the folder", "replace it by the file itself")
        if read_sidecar(path) is None:
            remedy = f"write {path.stem}.yaml, such as {MODEL_EXAMPLE}"
            raise UsageError(path, "no description file", remedy)
        source = find_source(str(path.absolute()))
        name = _name(given.over(source.description), source)
        present = zoo.find(name)
        if present is not None and _came_from(present, path):
            return Addition(path.name, "present", name)
        return Addition(path.name, "added", _add(zoo, source, given).name)
    except MetazooError as error:
        return Addition(path.name, "problem", str(error))


def _add(zoo: _Destination, source: Source, given: ModelDescription) -> ModelContract:
    known = given.over(source.description)
    name = _name(known, source)
    if zoo.find(name) is not None:
        raise UsageError(zoo.folder, f"already has model {name!r}", "choose another name with --name")
    spec = known.spec(source.name, source.graph)
    assert known.classes is not None
    assert known.domain is not None
    empty = network_without_weights(spec)
    with tempfile.TemporaryDirectory() as folder:
        most = most_bytes(empty)
        path = source.fetch(Path(folder), most)
        state = own_state(read_checkpoint(path, most), empty)
        sha256 = sha256_of_file(source.origin or path)
        problem = unsound(state, empty.state_dict())
        if problem is not None:
            raise ZooError(
                source.name,
                f"does not fit {spec.architecture} with {spec.classes} classes, {spec.input_size} pixels and "
                f"{spec.channels} channels: it {problem}",
                "check --arch, --classes and --input-size",
            )
        classifier = ImageClassifier(spec, network_with_weights(spec, state)).eval()
    _try(classifier, source.name)
    provenance = Provenance(
        source=source.name,
        source_sha256=sha256,
        revision=known.revision,
        licence=known.licence,
        library=library_version(spec.architecture),
        resize=known.resize,
        crop=known.crop,
        interpolation=known.interpolation,
    )
    contract: dict[str, Any] = {"class_names": known.classes, "domain": known.domain, "accuracy": known.accuracy}
    contract |= {"recovered_images": known.recovered_images or "show", "provenance": provenance}
    checked_contract(name=name, spec=spec, weights_sha256="0" * 64, **contract)  # before the zoo is created
    return zoo.add(name, classifier, **contract)


def _came_from(present: ModelContract, path: Path) -> bool:
    most = most_bytes(network_without_weights(present.spec))
    if present.provenance is None or path.stat().st_size > most:
        return False
    return present.provenance.source_sha256 == sha256_of_file(path)


def _name(known: ModelDescription, source: Source) -> str:
    if known.name is not None:
        return known.name
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", source.stem)[:_LONGEST_NAME].strip("._-")
    if not safe:
        raise UsageError(shown(source.name), "no name of a model can be made of it", "give --name")
    return safe


def _try(classifier: ImageClassifier, subject: str) -> None:
    spec = classifier.spec
    shape = (2, spec.channels, spec.input_size, spec.input_size)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            features, logits = classifier.features(images), classifier(images)
            alone = torch.cat([classifier(image[None]) for image in images])
    except Exception as error:  # libraries raise any error for an unsuitable input size
        reason = " ".join(str(error).split())[:200]
        problem = f"cannot be run on {spec.input_size} pixels ({reason})"
        raise ZooError(subject, problem, "give another --input-size") from error
    if features.shape != (2, classifier.network.feature_size) or logits.shape != (2, spec.classes):
        problem = f"outputs of shape {[*logits.shape]} are not one logit per class from its features"
        raise ZooError(subject, problem, "choose another model")
    if not bool(logits.isfinite().all()):
        raise ZooError(subject, "outputs are not finite", "choose another model")
    if not torch.allclose(alone, logits, rtol=1e-2, atol=1e-2 * float(logits.abs().max())):
        raise ZooError(subject, "outputs for an image depend on the other images of its batch", "choose another model")
