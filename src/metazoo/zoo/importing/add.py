"""Adding of models that were trained elsewhere: `metazoo zoo add`."""

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from metazoo.choices import MODEL_EXAMPLE
from metazoo.errors import MetazooError, UsageError, shown
from metazoo.models import ClassifierSpec, ImageClassifier, network_without_weights
from metazoo.storage.artefacts import sha256_of_file
from metazoo.zoo.contract import ModelContract
from metazoo.zoo.contract_files import NAME as MARK
from metazoo.zoo.importing.checkpoint import SUFFIXES, check_file, most_bytes
from metazoo.zoo.importing.foreign_files import FOREIGN_SUFFIXES
from metazoo.zoo.importing.model_description import (
    SIDECARS,
    ModelDescription,
    described,
    read_description,
    read_sidecar,
    sidecars,
    weights_stem,
)
from metazoo.zoo.importing.model_sources import Source, find_source
from metazoo.zoo.importing.onnx_file import SUFFIX as ONNX_SUFFIX
from metazoo.zoo.importing.preparation import ModelRequest, given_options, model_name, prepare
from metazoo.zoo.importing.pretrained_folder import is_pretrained
from metazoo.zoo.importing.tensor_names import MatchedTensors
from metazoo.zoo.zoo_folder import Zoo


@dataclass(frozen=True)
class Addition:
    """Result for one file of a folder; `text` is the name of the model, or the problem."""

    file: str
    status: Literal["added", "present", "problem"]
    text: str


@dataclass(frozen=True)
class Preview:
    """Model as `add_model` would add it.

    Attributes:
        name: name of the model.
        spec: specification of the classifier.
        tensors: tensors of the file under the names of the network.
    """

    name: str
    spec: ClassifierSpec
    tensors: MatchedTensors


def add_model(
    zoo: Path | str,
    source: str,
    *,
    weights: Path | str | None = None,
    pretrained: bool = False,
    by_order: bool = False,
    **fields: Any,
) -> ModelContract:
    """Add one model to the zoo at `zoo`, which is created if it does not exist.

    The weights are checked, run on random images, and stored as safetensors.

    Args:
        zoo: folder of the zoo.
        source: `timm:NAME[.TAG]`, `torchvision:NAME[.WEIGHTS]`, `hf:OWNER/NAME[@REVISION]`, or the path of a weights
            file, an .onnx file or a folder of `save_pretrained`, see docs/models.md. A .yaml or .json file of the same
            name beside it may describe the model, see `metazoo.zoo.importing.model_description`.
        weights: local weights file for a model of a library.
        pretrained: whether to download the published weights of a model of a library.
        by_order: whether tensors whose names do not fit are taken in the order of the file; see `match_by_order`.
        **fields: fields of `ModelDescription`, which override a description file, which overrides the source. Without
            `architecture`, it is the only built-in one that the tensors of the file fit.

    Raises:
        UsageError: the source does not exist, is not supported or cannot be reached, a required field is missing or
            impossible, or the zoo has a model of that name.
        ArtefactError: a file is damaged, too large, or contains other objects than tensors.
        ZooError: the weights do not fit the architecture, are not finite, or do not give one logit per class.
        RunError: another process is writing to the zoo.
    """
    return _add(_Destination(Path(zoo)), _request(zoo, source, weights, pretrained, by_order, fields))


def preview_model(
    zoo: Path | str,
    source: str,
    *,
    weights: Path | str | None = None,
    pretrained: bool = False,
    by_order: bool = False,
    **fields: Any,
) -> Preview:
    """Make all checks of `add_model` with the same arguments and describe its result; the zoo is not written.

    Raises:
        MetazooError: see `add_model`.
    """
    request = _request(zoo, source, weights, pretrained, by_order, fields)
    ready = prepare(Path(zoo), request, _Destination(Path(zoo)).find)
    return Preview(ready.name, ready.classifier.spec, ready.tensors)


def _request(
    zoo: Path | str,
    source: str,
    weights: Path | str | None,
    pretrained: bool,
    by_order: bool,
    fields: Mapping[str, Any],
) -> ModelRequest:
    given = described(fields, "description")
    found = find_source(source, None if weights is None else Path(weights).expanduser(), pretrained=pretrained)
    options = given_options(zoo, source, weights, given, pretrained=pretrained, by_order=by_order)
    return ModelRequest(found, given, by_order, options)


def add_folder(zoo: Path | str, folder: Path | str, **fields: Any) -> list[Addition]:
    """Add every weights file in `folder`, each described by a .yaml or .json file of the same name.

    Subfolders of `save_pretrained` describe themselves. Files of weights in formats that are not read, and description
    files without weights, are problems.

    Models already added from the same file are kept, so that an interrupted call can be repeated. Problems of one file
    do not stop the others. The zoo is locked for writing from the first new model.

    Args:
        zoo: folder of the zoo, created if it does not exist.
        folder: folder with weights and description files.
        **fields: fields of `ModelDescription` for all models, which override the description files.

    Returns:
        One result for each weights file, subfolder of `save_pretrained` and description file without either, sorted by
        name.

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
        paths = sorted(folder.iterdir())
        suffixes = {*SUFFIXES, ONNX_SUFFIX, *FOREIGN_SUFFIXES}
        files = [path for path in paths if path.suffix.lower() in suffixes or is_pretrained(path)]
    except OSError as error:
        raise UsageError(folder, f"cannot be listed: {error.strerror}", "give a folder with weights") from error
    if not files:
        raise UsageError(folder, f"holds no weights ({', '.join((*SUFFIXES, ONNX_SUFFIX))})", "give another folder")
    stems = {weights_stem(path) for path in files} | {path.stem for path in files}
    orphans = [path for path in paths if path.suffix.lower() in SIDECARS and path.stem not in stems]
    with contextlib.ExitStack() as held:
        destination = _Destination(Path(zoo), held)
        found = [_addition(destination, folder, path, given) for path in files]
    found += [addition for path in orphans if (addition := _orphan(path, paths)) is not None]
    return sorted(found, key=lambda addition: addition.file)


class _Destination:
    """Zoo to add to: read once, created with its first model, and from then on locked within `held`, if given."""

    def __init__(self, folder: Path, held: contextlib.ExitStack | None = None) -> None:
        self.folder, self._held, self._is_held = folder, held, False
        self._zoo = Zoo.open(folder) if (folder / MARK).exists() else None

    def find(self, name: str) -> ModelContract | None:
        """Contract of the model of this name, ignoring capitals; None if there is none."""
        return None if self._zoo is None else self._zoo.find(name)

    def store(self, name: str, classifier: ImageClassifier, **fields: Any) -> ModelContract:
        """Add a model; see `Zoo.store`."""
        if self._zoo is None:
            self._zoo = Zoo.create(self.folder)
        if self._held is not None and not self._is_held:
            self._held.enter_context(self._zoo.writing())
            self._is_held = True
        return self._zoo.store(name, classifier, **fields)


def _addition(zoo: _Destination, folder: Path, path: Path, given: ModelDescription) -> Addition:
    try:
        for each in (path, *sidecars(path)):
            if each.exists() and not each.resolve().is_relative_to(folder.resolve()):
                raise UsageError(each, "a link leads out of the folder", "replace it by the file itself")
        if not path.is_dir() and read_sidecar(path) is None:
            if path.suffix.lower() != ONNX_SUFFIX:
                check_file(path)
            remedy = f"write {weights_stem(path)}.yaml, such as {MODEL_EXAMPLE}"
            if is_pretrained(folder):
                remedy = f"add {folder} itself, without --from-folder"
            raise UsageError(path, "no description file", remedy)
        source = find_source(str(path.absolute()))
        name = model_name(given.over(source.description), source)
        present = zoo.find(name)
        if present is not None and _came_from(present, source):
            return Addition(path.name, "present", name)
        return Addition(path.name, "added", _add(zoo, ModelRequest(source, given, False, {})).name)
    except MetazooError as error:
        return Addition(path.name, "problem", str(error))


def _orphan(path: Path, beside: list[Path]) -> Addition | None:
    """Problem of a description file without weights; None for a file of another purpose."""
    try:
        is_description = not ModelDescription.model_fields.keys().isdisjoint(read_description(path))
    except UsageError as error:
        # Any program may write JSON.
        return None if path.suffix.lower() == ".json" else Addition(path.name, "problem", str(error))
    if not is_description:
        return None
    similar = [other.name for other in beside if other.stem == path.stem and other.suffix.lower() not in SIDECARS]
    reason = f"only {shown(similar[0])}, which is not read" if similar else "no file of weights has its name"
    error = UsageError(path, f"describes no weights: {reason}", "rename or delete it")
    return Addition(path.name, "problem", str(error))


def _add(zoo: _Destination, request: ModelRequest) -> ModelContract:
    ready = prepare(zoo.folder, request, zoo.find)
    return zoo.store(ready.name, ready.classifier, **ready.contract_fields())


def _came_from(present: ModelContract, source: Source) -> bool:
    if present.provenance is None:
        return False
    if source.origin is not None:
        return present.provenance.source_sha256 == sha256_of_file(source.origin)
    most = most_bytes(network_without_weights(present.spec))
    with tempfile.TemporaryDirectory() as folder:
        path = source.fetch(Path(folder), most)
        return path.stat().st_size <= most and present.provenance.source_sha256 == sha256_of_file(path)
