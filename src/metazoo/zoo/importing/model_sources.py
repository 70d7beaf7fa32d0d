"""Sources of imported models: timm, torchvision, the Hugging Face Hub, local files and folders.

A source first gives a description of the model; its weights are fetched after everything else is checked.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from metazoo.errors import UsageError, shown
from metazoo.models import ONNX, OperatorGraph, import_library
from metazoo.storage.tensor_files import write_tensors
from metazoo.text import absolute_path, expanded_path, local_path
from metazoo.zoo.importing.checkpoint import SUFFIXES, check_file
from metazoo.zoo.importing.download import download
from metazoo.zoo.importing.hub_files import hub_file, hub_name, hub_repository
from metazoo.zoo.importing.model_description import ModelDescription, described, numbered, read_sidecar, weights_stem
from metazoo.zoo.importing.onnx_file import SUFFIX, read_model
from metazoo.zoo.importing.onnx_graph import convert, onnx_input
from metazoo.zoo.importing.pretrained_folder import CONFIG, LARGEST_CONFIG, PROCESSOR, WEIGHTS, pretrained_folder
from metazoo.zoo.importing.transformers_source import OTHER_REPOSITORY, label_problem, transformers_fields

_LIBRARY_SOURCE = re.compile(r"(timm|torchvision):([A-Za-z0-9_]{1,80})(?:\.([A-Za-z0-9_]{1,80}))?")
_LIBRARIES = ("timm", "torchvision")
_HELP = "give timm:NAME, torchvision:NAME, hf:OWNER/NAME, a weights file, an ONNX file or a folder of save_pretrained"
# Default poolings of architectures; a wrong one shows in the tensors.
_POOLINGS = (None, "", "avg", "token", "map")
IMAGENET = "imagenet-1k"
"""Alias for the names of the 1000 classes, in their usual order."""


@dataclass(frozen=True)
class Source:
    """Source of one model.

    Attributes:
        name: name of the source, for messages and the contract.
        stem: default name of the model.
        description: description of the model by its source.
        fetch: function from a temporary folder and a largest size in bytes to the weights file.
        doubts: reasons why the source does not state a field, by the name of the field.
        graph: function from the channels, the side of the images and the number of classes to the graph of the
            network, for a source that holds one; to be called before `fetch`.
        origin: file that the weights are converted from; None if the weights file is original.
    """

    name: str
    stem: str
    description: ModelDescription
    fetch: Callable[[Path, int], Path]
    doubts: Mapping[str, str] = field(default_factory=dict)
    graph: Callable[[int, int, int], OperatorGraph] | None = None
    origin: Path | None = None


def find_source(source: str, weights: Path | None = None, *, pretrained: bool = False) -> Source:
    """Find a source and its description of the model, without reading weights.

    Args:
        source: `timm:NAME[.TAG]` or `torchvision:NAME[.WEIGHTS]`, where the second part names published weights;
            `hf:OWNER/NAME[@REVISION]`, a model of timm or transformers; or the path of a weights file, or of a folder
            of `save_pretrained` of timm or transformers.
        weights: weights file for a model of a library, instead of published weights.
        pretrained: whether to download the published weights of a model of a library.

    Raises:
        UsageError: the source does not exist, is not supported, or cannot be reached.
        ArtefactError: the description cannot be read.
    """
    kind = local_path(source).partition(":")[0]
    if kind in _LIBRARIES:
        return _of_library(source, weights, pretrained)
    if weights is not None or pretrained:
        raise UsageError(shown(source), "has its own weights", "omit --weights and --pretrained")
    if kind == "hf":
        return _of_hub(source)
    return _of_file(expanded_path(source))


def absolute_source(source: str, folder: Path) -> str:
    """Source that does not depend on the current folder: its absolute path, or the name of a model as it is.

    Args:
        source: see `find_source`; or the name of a model of a zoo, a text with neither a separator nor the suffix of a
            weights or ONNX file. A file or folder of such a name is `./NAME`.
        folder: folder of relative paths.

    Raises:
        UsageError: see `expanded_path`.
    """
    if local_path(source).partition(":")[0] in (*_LIBRARIES, "hf"):
        return source
    path = Path(source)
    is_name = path.name == source and source[:1] != "~" and path.suffix.lower() not in (*SUFFIXES, SUFFIX)
    return source if is_name else absolute_path(source, folder)


def _of_library(source: str, weights: Path | None, pretrained: bool) -> Source:
    match = _LIBRARY_SOURCE.fullmatch(source)
    if match is None:
        raise UsageError(shown(source), "not the name of a model", _HELP)
    if pretrained and weights is not None:
        raise UsageError(source, "both --weights and --pretrained", "omit one of them")
    if not pretrained and weights is None:
        raise UsageError(source, "missing weights", "give a file with --weights, or --pretrained to download them")
    library, name, tag = match.groups()
    _check_name(library, name)
    find = _published_timm if library == "timm" else _published_torchvision
    tag, fields, fetch = find(name, tag, pretrained) if tag or pretrained else (None, {}, None)
    full = f"{name}.{tag}" if tag else name
    source, stem = f"{library}:{full}", f"{library}-{full}"
    description = described({"architecture": f"{library}:{name}"} | fields, source)
    if weights is not None:
        check_file(weights)
        beside = read_sidecar(weights)
        description = description if beside is None else beside.over(description)
        return Source(source, stem, description, lambda _folder, _most: weights)
    if fetch is None:
        raise UsageError(source, "has no published weights to download", "give a file with --weights")
    return Source(source, stem, description, fetch)


def _check_name(library: str, name: str) -> None:
    if library == "timm":
        timm = import_library("timm", "timm")
        known = [name] if timm.is_model(name) else timm.list_models()  # the list lacks former names
    else:
        models = import_library("torchvision", "torchvision.models")
        known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean {library}:{close[0]}?" if close else "see its list_models()"
        raise UsageError(library, f"no image classifier {name!r}", remedy)


_Published = tuple[str | None, dict[str, Any], Callable[[Path, int], Path] | None]


def _published_timm(name: str, tag: str | None, fetched: bool) -> _Published:
    timm = import_library("timm", "timm")
    full = f"{name}.{tag}" if tag else name
    try:
        config = timm.get_pretrained_cfg(full, allow_unregistered=False)
    except (RuntimeError, ValueError) as error:
        raise UsageError("timm", f"no weights {full!r}", "see `timm.list_pretrained()`") from error
    if config is None:
        raise UsageError("timm", f"no weights of {name}", "see `timm.list_pretrained()`")
    fields = _timm_fields(config.to_dict(), f"timm:{full}")
    hub = config.hf_hub_id
    if not hub or not fetched:
        return config.tag or tag, fields, None
    commit = hub_repository(hub, None).commit
    fields["revision"] = commit
    return config.tag or tag, fields, lambda _folder, most: hub_file(hub, commit, WEIGHTS, most)


def _timm_fields(config: Mapping[str, Any], subject: str) -> dict[str, Any]:
    """Description from timm's record of published weights."""
    fields: dict[str, Any] = {"licence": config.get("license"), "crop": config.get("crop_pct")}
    fields |= {key: config.get(key) for key in ("mean", "std", "interpolation")}
    size = config.get("input_size")
    if isinstance(size, list | tuple) and len(size) == 3 and size[1] == size[2] and isinstance(size[1], int):
        fields |= {"input_size": size[1], "channels": size[0]}
        crop = fields["crop"]
        if isinstance(crop, int | float) and 0.01 < crop <= 1:
            fields["resize"] = int(size[1] / crop)
    names = config.get("label_names")
    if isinstance(names, list | tuple):
        fields["classes"] = numbered([str(name) for name in names])
    if config.get("label_offset"):
        raise UsageError(subject, "label_offset is not supported", "choose another model")
    return fields


def _published_torchvision(name: str, tag: str | None, fetched: bool) -> _Published:
    models = import_library("torchvision", "torchvision.models")
    known = models.get_model_weights(name)
    if tag is not None and tag not in known.__members__:
        raise UsageError(
            "torchvision", f"no weights {tag!r} of {name}", f"choose one of {', '.join(known.__members__)}"
        )
    weights = known[tag] if tag is not None else known.DEFAULT
    transforms = weights.transforms()
    side, resize = transforms.crop_size[0], transforms.resize_size[0]
    fields = {"mean": tuple(transforms.mean), "std": tuple(transforms.std), "input_size": side, "channels": 3}
    fields |= {"resize": resize, "crop": min(1.0, side / resize), "interpolation": transforms.interpolation.value}
    fields["classes"] = numbered(list(weights.meta["categories"]))
    return weights.name, fields, (lambda folder, most: download(weights.url, folder, most)) if fetched else None


def _of_hub(source: str) -> Source:
    name, revision = hub_name(source)
    repository = hub_repository(name, revision)
    subject = f"hf:{name}"
    config = repository.read_json(CONFIG, LARGEST_CONFIG)
    fields = _repository_fields(config, lambda: repository.read_json(PROCESSOR, LARGEST_CONFIG, optional=True), subject)
    fields["licence"] = fields.get("licence") or repository.licence
    fields["revision"] = repository.commit
    return Source(
        subject,
        name.replace("/", "-"),
        described(fields, subject),
        lambda _folder, most: hub_file(name, repository.commit, WEIGHTS, most),
        label_problem(config),
    )


def _of_folder(path: Path) -> Source:
    folder = pretrained_folder(path)
    config = folder.read_json(CONFIG)
    fields = _repository_fields(config, lambda: folder.read_json(PROCESSOR), str(path))
    description = described(fields | {"revision": folder.commit}, str(path))
    beside = read_sidecar(path)
    description = description if beside is None else beside.over(description)
    return Source(path.absolute().name, folder.stem, description, folder.weights, label_problem(config))


def _repository_fields(
    config: Mapping[str, Any], read_processor: Callable[[], Mapping[str, Any]], subject: str
) -> dict[str, Any]:
    """Description from the files of a folder or repository of timm or transformers."""
    if isinstance(config.get("architecture"), str):
        return _timm_repository_fields(config, subject)
    if "architectures" in config or "model_type" in config:
        return transformers_fields(config, read_processor(), subject)
    raise UsageError(subject, "config.json is not of a timm or transformers model", OTHER_REPOSITORY)


def _timm_repository_fields(config: Mapping[str, Any], subject: str) -> dict[str, Any]:
    architecture = config["architecture"]
    if _LIBRARY_SOURCE.fullmatch(f"timm:{architecture}") is None or "." in architecture:
        raise UsageError(subject, f"impossible architecture {architecture[:80]!a} of timm", OTHER_REPOSITORY)
    arguments = config.get("model_args") or {}
    arguments = dict(arguments) if isinstance(arguments, dict) else {"model_args": None}
    for pooling in (config.get("global_pool"), arguments.pop("global_pool", None)):
        if pooling not in _POOLINGS:
            raise UsageError(subject, f"global_pool {shown(pooling)} is not supported", OTHER_REPOSITORY)
    side, channels = arguments.pop("img_size", None), arguments.pop("in_chans", None)
    arguments.pop("num_classes", None)  # those of the names, which the weights must fit
    if arguments:
        problem = f"changes of the architecture (model_args: {shown(next(iter(arguments)))}) are not supported"
        raise UsageError(subject, problem, OTHER_REPOSITORY)
    inner = config.get("pretrained_cfg", config)
    inner = dict(inner) if isinstance(inner, dict) else {}
    if side is not None:
        # The size of the published weights, which these may be fine-tuned from, is recorded as well.
        sides = side if isinstance(side, list) else [side, side]
        inner["input_size"] = [channels or 3, *sides]
    fields = _timm_fields(inner, subject)
    fields |= {} if channels is None else {"channels": channels}
    names = config.get("label_names")
    if isinstance(names, list):
        fields["classes"] = numbered([str(label) for label in names])
    return fields | {"architecture": f"timm:{architecture}"}


def _of_file(path: Path) -> Source:
    if not path.exists() and ":" in str(path):
        raise UsageError(shown(path), "not a source of models", _HELP)
    if path.is_dir():
        return _of_folder(path)
    if path.suffix.lower() == SUFFIX:
        return _of_onnx(path)
    check_file(path)
    return Source(path.name, weights_stem(path), read_sidecar(path) or ModelDescription(), lambda _folder, _most: path)


def _of_onnx(path: Path) -> Source:
    if not path.is_file():
        raise UsageError(path, "not a file", "give an ONNX file")
    model = read_model(path)
    found = onnx_input(path, model)
    own = ModelDescription(architecture=ONNX, input_size=found.side, channels=found.channels)  # pyright: ignore[reportArgumentType]
    beside = read_sidecar(path)
    weights: dict[str, Tensor] = {}

    def graph(channels: int, side: int, classes: int) -> OperatorGraph:
        for option, fixed, given in (("--input-size", found.side, side), ("--channels", found.channels, channels)):
            if fixed is not None and fixed != given:
                raise UsageError(path, f"its {option} is {fixed}, not {given}", f"omit {option}, or export it again")
        made, tensors = convert(path, model, channels, side, classes)
        weights.update(tensors)
        return made

    def fetch(folder: Path, _most: int) -> Path:
        write_tensors(folder / WEIGHTS, weights)
        return folder / WEIGHTS

    description = own if beside is None else beside.over(own)
    return Source(path.name, path.stem, description, fetch, graph=graph, origin=path)


def library_version(architecture: str) -> str | None:
    """Library that builds `architecture`, with its version; None for metazoo's own architectures."""
    library, colon, _ = architecture.partition(":")
    return f"{library} {version(library)}" if colon else None


def imagenet_classes() -> tuple[str, ...]:
    """Names of the 1000 classes of ImageNet, from timm."""
    data = import_library("timm", "timm.data")
    return numbered(list(data.ImageNetInfo(IMAGENET).label_descriptions()))
