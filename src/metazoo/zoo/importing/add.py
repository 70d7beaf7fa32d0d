"""Adding models that were trained elsewhere: `metazoo zoo add`."""

import contextlib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from metazoo.choices import MODEL_EXAMPLE
from metazoo.errors import MetazooError, UsageError, ZooError
from metazoo.models import ImageClassifier, network_with_weights, network_without_weights
from metazoo.storage.artefacts import sha256_of_file
from metazoo.zoo.contract import ModelContract, Provenance, checked_contract
from metazoo.zoo.contract_files import NAME as MARK
from metazoo.zoo.importing.checkpoint import SUFFIXES, most_bytes, own_state, read_checkpoint
from metazoo.zoo.importing.model_description import ModelDescription, described, read_sidecar
from metazoo.zoo.importing.model_sources import Source, find_source, library_version
from metazoo.zoo.weights import unsound
from metazoo.zoo.zoo_folder import Zoo

_LONGEST_NAME = 100


@dataclass(frozen=True)
class Addition:
    """What became of one file of a folder; `text` is the name of the model, or what is wrong."""

    file: str
    status: Literal["added", "present", "problem"]
    text: str


def add_model(
    zoo: Path | str,
    source: str,
    *,
    weights: Path | str | None = None,
    pretrained: bool = False,
    **said: Any,
) -> ModelContract:
    """Add one model to the zoo at `zoo`, which is made if there is nothing.

    Its weights are checked, stored as safetensors, and tried on random images before the zoo holds it.

    Args:
        zoo: the folder.
        source: `timm:NAME[.TAG]`, `torchvision:NAME[.WEIGHTS]`, `hf:OWNER/NAME[@REVISION]`, or the path of a file of
            weights: .safetensors, or .pt, .pth or .bin that hold tensors alone. A .yaml or .json file of the same name
            beside a local file may describe the model, see `metazoo.zoo.importing.model_description`.
        weights: local file for a model of a library.
        pretrained: fetch the published weights of a model of a library.
        **said: fields of `ModelDescription`; they go before what a file says, and that before the source.

    Raises:
        UsageError: there is no such source, it is not supported or cannot be reached, something that must be known of
            the model is not (the option that says it is named) or impossible, or the zoo has a model of that name.
        ArtefactError: a file is damaged, too large, or holds other things than tensors.
        ZooError: the weights do not fit the architecture, are not finite, or do not give one logit a class.
        RunError: another process is writing to this zoo.
    """
    given = described(said, "what is given")
    found = find_source(source, None if weights is None else Path(weights).expanduser(), pretrained=pretrained)
    return _add(_Destination(Path(zoo)), found, given)


def add_folder(zoo: Path | str, folder: Path | str, **said: Any) -> list[Addition]:
    """Add every file of weights that lies in `folder` with a .yaml or .json file of its name beside it.

    Models that the zoo has from the same file are kept, so that an interrupted call can be repeated. What is
    wrong with one file does not keep the others out. From the first model that is new on, the zoo is held for writing.

    Args:
        zoo: its folder, made if there is nothing.
        folder: folder with the files.
        **said: fields of `ModelDescription` for all of them; they go before what the files beside them say.

    Returns:
        One for each file of weights, by name.

    Raises:
        UsageError: `folder` is no folder, holds no weights, one name is given to all, or `zoo` is something else.
        ArtefactError: the zoo cannot be read or written.
    """
    folder = Path(folder).expanduser()
    given = described(said, "what is given")
    if given.name is not None:
        raise UsageError("the models of a folder cannot all have one name; say `name` in the files beside them")
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise UsageError(f"{folder} cannot be listed: {error.strerror}; give a folder with weights") from error
    if not files:
        raise UsageError(f"{folder} holds no weights ({', '.join(SUFFIXES)}); give another folder")
    with contextlib.ExitStack() as held:
        destination = _Destination(Path(zoo), held)
        return [_addition(destination, folder, path, given) for path in files]


class _Destination:
    """The zoo that models go to, read once, and made once one comes; then it is held by `held`, if that is given."""

    def __init__(self, folder: Path, held: contextlib.ExitStack | None = None) -> None:
        self.folder, self._held, self._is_held = folder, held, False
        self._zoo = Zoo.open(folder) if (folder / MARK).exists() else None

    def find(self, name: str) -> ModelContract | None:
        """The model of this name, capitals aside."""
        return None if self._zoo is None else self._zoo.find(name)

    def add(self, name: str, classifier: ImageClassifier, **said: Any) -> ModelContract:
        """As `Zoo.add`."""
        if self._zoo is None:
            self._zoo = Zoo.create(self.folder)
        if self._held is not None and not self._is_held:
            self._held.enter_context(self._zoo.writing())
            self._is_held = True
        return self._zoo.add(name, classifier, **said)


def _addition(zoo: _Destination, folder: Path, path: Path, given: ModelDescription) -> Addition:
    try:
        for each in (path, *(path.with_suffix(suffix) for suffix in (".yaml", ".yml", ".json"))):
            if each.exists() and not each.resolve().is_relative_to(folder.resolve()):
                raise UsageError(f"{each} leads out of the folder through a link; put the file itself there")
        if read_sidecar(path) is None:
            remedy = f"write {path.stem}.yaml, such as {MODEL_EXAMPLE}"
            raise UsageError(path, "no file beside it describes the model", remedy)
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
    name, spec = _name(known, source), known.spec(source.name)
    assert known.classes is not None
    assert known.domain is not None
    if zoo.find(name) is not None:
        raise UsageError(f"{zoo.folder} has a model {name!r} already; choose another name with --name")
    empty = network_without_weights(spec)
    with tempfile.TemporaryDirectory() as folder:
        most = most_bytes(empty)
        path = source.fetch(Path(folder), most)
        state = own_state(read_checkpoint(path, most), empty)
        sha256 = sha256_of_file(path)
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
    checked_contract(name=name, spec=spec, weights_sha256="0" * 64, **contract)  # before a zoo is made for it
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
        raise UsageError(f"{source.name!a} gives the model no name; give one with --name")
    return safe


def _try(classifier: ImageClassifier, subject: str) -> None:
    spec = classifier.spec
    shape = (2, spec.channels, spec.input_size, spec.input_size)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            features, logits = classifier.features(images), classifier(images)
    except Exception as error:  # whatever a library says of an input size that does not suit
        reason = " ".join(str(error).split())[:200]
        raise ZooError(
            f"{subject} cannot be run on {spec.input_size} pixels ({reason}); give another --input-size"
        ) from error
    if features.shape != (2, classifier.network.feature_size) or logits.shape != (2, spec.classes):
        raise ZooError(f"{subject} gives outputs of another shape than one logit a class; take another model")
    if not bool(logits.isfinite().all()):
        raise ZooError(f"{subject} gives outputs that are not finite; take another model")
