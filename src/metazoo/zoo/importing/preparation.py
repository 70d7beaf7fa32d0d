"""Preparation of a model that was trained elsewhere: its source is read, matched with a network, and tried."""

import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from metazoo.choices import MODEL_EXAMPLE
from metazoo.errors import UsageError, ZooError, shown
from metazoo.execution.progress import message
from metazoo.models import (
    ClassifierSpec,
    ImageClassifier,
    default_arguments,
    network_with_weights,
    network_without_weights,
)
from metazoo.storage.artefacts import sha256_of_file
from metazoo.zoo.contract import Provenance, checked_contract
from metazoo.zoo.importing.best_fit import DEFAULT_SIDE, Fit, best_fits, command_line
from metazoo.zoo.importing.checkpoint import is_sorted, most_bytes, read_checkpoint
from metazoo.zoo.importing.model_description import OPTIONS, ModelDescription
from metazoo.zoo.importing.model_sources import Source, library_version
from metazoo.zoo.importing.tensor_names import MatchedTensors, match_by_name, match_by_order

_LONGEST_NAME = 100
# More classes are not written into a command.
_MOST_CLASSES = 30
# Networks of torchvision with the names and shapes of built-in ones, but other strides, by architecture and width.
_OTHER_STRIDES = {
    "mobilenet-v2": {32: "mobilenet_v2"},
    "shufflenet-v2": {width: f"shufflenet_v2_x{size}" for width, size in
                      ((48, "0_5"), (116, "1_0"), (176, "1_5"), (244, "2_0"))},
}  # fmt: skip
# Four copies of the weights of the largest built-in architectures, in bytes.
_LARGEST_UNKNOWN = 1 << 30


@dataclass(frozen=True)
class ModelRequest:
    """Model to be prepared.

    Attributes:
        source: source of the model.
        given: description by the user.
        by_order: whether tensors whose names do not fit are taken in the order of the file.
        options: options that the user has given, see `given_options`; empty for a model of a folder.
    """

    source: Source
    given: ModelDescription
    by_order: bool
    options: Mapping[str, object]

    def remedy(self, **changes: object) -> str:
        """Advice to give these fields: a command with all that the user has given, or lines of a description file."""
        if not self.options and "by_order" in changes:
            return "add it alone with --by-order"
        if not self.options:
            return f"describe it by {', '.join(f'{key}: {value}' for key, value in changes.items() if value)}"
        names = {"architecture": "--arch", "arguments": "--arguments", "classes": "--classes", "by_order": "--by-order"}
        # CAPITALS stand for what is missing, and for what the user has given that is too long for a command.
        said, known = self.given, self.source.description
        placeholders = {
            option: option.strip("-").upper()
            for field, option in OPTIONS.items()
            if getattr(known, field) is None or getattr(said, field) is not None
        }
        given = {option: value for option, value in self.options.items() if value is not None}
        changed = {names[key]: value for key, value in changes.items()}
        zoo, source = given.pop("ZOO"), given.pop("SOURCE")
        return f"run `{command_line(zoo, str(source), placeholders | given | changed)}`"


@dataclass(frozen=True)
class Ready:
    """Checked model that can be added to a zoo."""

    name: str
    known: ModelDescription
    classifier: ImageClassifier
    tensors: MatchedTensors
    provenance: Provenance

    def contract_fields(self) -> dict[str, Any]:
        """Fields of the contract, without the name and those that follow from the classifier."""
        known = self.known
        fields: dict[str, Any] = {"class_names": known.classes, "domain": known.domain, "accuracy": known.accuracy}
        return fields | {"recovered_images": known.recovered_images or "show", "provenance": self.provenance}


def given_options(
    zoo: Path | str, source: str, weights: Path | str | None, given: ModelDescription, **switches: bool
) -> dict[str, object]:
    """Options of a command by name, None for those not given, with the zoo and the source as ZOO and SOURCE."""
    classes = given.classes
    if classes is not None and (len(classes) > _MOST_CLASSES or any("," in name for name in classes)):
        classes = None
    options: dict[str, object] = {"ZOO": zoo, "SOURCE": source, "--weights": weights, "--name": given.name}
    options |= {f"--{name.replace('_', '-')}": value or None for name, value in switches.items()}
    options |= {option: getattr(given, field) for field, option in OPTIONS.items()} | {"--classes": classes}
    options |= {"--arguments": given.arguments, "--channels": given.channels, "--licence": given.licence}
    return options | {"--recovered-images": given.recovered_images, "--state-dict": given.state_dict}


def prepare(zoo: Path, request: ModelRequest, find: Callable[[str], object]) -> Ready:
    """Make the classifier of a request, and all checks that need no change of the zoo.

    Args:
        zoo: folder of the zoo, for errors.
        request: source of the model.
        find: function from a name to the model of that name in the zoo; None if there is none.

    Raises:
        MetazooError: see `add_model`.
    """
    source = request.source
    known = request.given.over(source.description)
    name = model_name(known, source)
    if find(name) is not None:
        raise UsageError(zoo, f"already has model {name!r}", "choose another name with --name")
    with tempfile.TemporaryDirectory() as folder:
        tensors = None
        if known.architecture is None:
            path = source.fetch(Path(folder), _LARGEST_UNKNOWN)
            tensors = read_checkpoint(path, _LARGEST_UNKNOWN, known.state_dict)
            known = _identified(known, tensors, request)
        spec = known.spec(source.name, source.doubts, source.graph)
        empty = network_without_weights(spec)
        most = most_bytes(empty)
        path = source.fetch(Path(folder), most)
        tensors = read_checkpoint(path, most, known.state_dict) if tensors is None else tensors
        sha256 = sha256_of_file(source.origin or path)
        matched = match_by_name(tensors, empty)
        is_ordered = not is_sorted(path)
        if request.by_order and not matched.fits(empty.state_dict()):
            if not is_ordered:
                problem = "tensors of .safetensors files are in the order of their names, not of definition"
                raise UsageError(source.name, problem, "omit --by-order, or give the file that the script has written")
            matched = match_by_order(tensors, empty, source.name)
        problem = matched.problem(empty.state_dict())
        if problem is not None:
            raise does_not_fit(source.name, spec, problem, _advice(tensors, spec, request, is_ordered=is_ordered))
        classifier = ImageClassifier(spec, network_with_weights(spec, matched.state)).eval()
    try_classifier(classifier, source.name)
    provenance = Provenance(
        source=source.name,
        source_sha256=sha256,
        revision=known.revision,
        state_dict=known.state_dict,
        licence=known.licence,
        library=library_version(spec.architecture),
        resize=known.resize,
        crop=known.crop,
        interpolation=known.interpolation,
    )
    ready = Ready(name, known, classifier, matched, provenance)
    checked_contract(name=name, spec=spec, weights_sha256="0" * 64, **ready.contract_fields())
    return ready


def _identified(known: ModelDescription, tensors: Mapping[str, Tensor], request: ModelRequest) -> ModelDescription:
    """Description with the only built-in architecture that the tensors fit.

    Raises:
        UsageError: none or several fit, another required value is missing, or numbers of classes or channels differ.
    """
    subject, fits = request.source.name, best_fits(tensors, known.input_size or DEFAULT_SIDE)
    missing = [option for field, option in OPTIONS.items() if getattr(known, field) is None]
    if len(fits) != 1 or not fits[0].is_exact:
        problem = f"missing {', '.join(missing)}; its tensors fit {'several' if len(fits) > 1 else 'no'} architectures"
        like = f" (it is most like {' or '.join(map(str, fits))})" if fits else ""
        raise UsageError(subject, problem, f"give {missing[0]}{like}, or a .yaml file such as {MODEL_EXAMPLE}")
    (fit,) = fits
    other = _other_network(fit)
    if other is not None:
        problem = f"its tensors fit {fit}, and also the network of torchvision, whose strides differ"
        remedy = request.remedy(architecture=fit.architecture, arguments=fit.arguments)
        raise UsageError(subject, problem, f"for that of torchvision, give {other}; for stride 1 in the stem, {remedy}")
    if known.classes is not None and len(known.classes) != fit.classes:
        problem = f"looks like {fit}, but {len(known.classes)} are given"
        raise UsageError(subject, problem, f"give {fit.classes} class names, in the order of the outputs")
    arguments = {**fit.arguments, **(known.arguments or {})}
    found = {"architecture": fit.architecture, "arguments": arguments, "channels": known.channels or fit.channels}
    known = known.model_copy(update=found)
    if missing[1:]:
        problem = f"missing {', '.join(missing[1:])}; it looks like {fit}"
        raise UsageError(subject, problem, request.remedy(architecture=fit.architecture, arguments=fit.arguments))
    message(f"note: {shown(subject)} is taken as {fit}, which its tensors fit")
    return known


def _other_network(fit: Fit) -> str | None:
    """Source of the network of larger strides whose files look the same, if there is one."""
    names = _OTHER_STRIDES.get(fit.architecture)
    width = fit.arguments.get("width", default_arguments(fit.architecture).get("width"))
    return None if names is None else f"torchvision:{names.get(cast('int', width), 'NAME')} --weights FILE"


def _advice(tensors: Mapping[str, Tensor], spec: ClassifierSpec, request: ModelRequest, *, is_ordered: bool) -> str:
    """Remedy for tensors that do not fit: the command that would work, if there is one."""
    empty = network_without_weights(spec)
    if match_by_name(tensors, empty).fits(empty.state_dict()):
        return "choose another file"
    fits = best_fits(tensors, spec.input_size)
    if len(fits) > 1:
        return f"it looks like {' or '.join(map(str, fits))}; choose one of them with --arch"
    if fits and fits[0].is_exact:
        (fit,) = fits
        classes = {} if fit.classes == spec.classes else {"classes": f"FILE_OF_{fit.classes}_NAMES"}
        remedy = request.remedy(architecture=fit.architecture, arguments=fit.arguments, **classes)
        other = _other_network(fit)
        if other is not None:
            return f"it looks like {fit}, or the network of torchvision: for that, give {other}; else {remedy}"
        return f"it looks like {fit}: {remedy}"
    try:
        match_by_order(tensors if is_ordered else {}, empty, request.source.name)
    except ZooError:
        like = f"it is most like {fits[0]}; " if fits else ""
        return f"{like}check --arch, --classes and --input-size"
    remedy = request.remedy(architecture=spec.architecture, by_order=True)
    return f"its tensors fit in the order of the file; if it holds this network, {remedy}"


def model_name(known: ModelDescription, source: Source) -> str:
    """Name of the model, by default made of the name of its source.

    Raises:
        UsageError: no name can be made of the name of the source.
    """
    if known.name is not None:
        return known.name
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", source.stem)[:_LONGEST_NAME].strip("._-")
    if not safe:
        raise UsageError(shown(source.name), "no name of a model can be made of it", "give --name")
    return safe


def does_not_fit(subject: str, spec: ClassifierSpec, problem: str, remedy: str) -> ZooError:
    """Error for weights that are not those of a specification; `problem` is the first difference."""
    shape = f"{spec.classes} classes, {spec.input_size} pixels and {spec.channels} channels"
    return ZooError(subject, f"does not fit {spec.architecture} with {shape}: it {problem}", remedy)


def random_images(spec: ClassifierSpec, count: int) -> Tensor:
    """Images of noise, float [count, channels, side, side] in [0, 1], always the same."""
    shape = (count, spec.channels, spec.input_size, spec.input_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def try_classifier(classifier: ImageClassifier, subject: str) -> None:
    """Run a classifier on random images.

    Raises:
        ZooError: it cannot be run, or does not give one finite logit per class.
    """
    spec, images = classifier.spec, random_images(classifier.spec, 2)
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
