"""Where models are imported from: timm, torchvision, the Hugging Face Hub, local files.

A source says what it knows of the model first, and gives the weights once everything else is settled.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from metazoo.errors import UsageError
from metazoo.models import import_library
from metazoo.text import local_path
from metazoo.zoo.importing.checkpoint import check_file
from metazoo.zoo.importing.download import download, hub_file, hub_repository
from metazoo.zoo.importing.model_description import ModelDescription, described, numbered, read_sidecar
from metazoo.zoo.importing.transformers_source import said_by_transformers

_LIBRARY_SOURCE = re.compile(r"(timm|torchvision):([A-Za-z0-9_]{1,80})(?:\.([A-Za-z0-9_]{1,80}))?")
_LARGEST_CONFIG = 20_000_000
_HELP = "give timm:NAME, torchvision:NAME, hf:OWNER/NAME or a file of weights"
# Those that architectures have by themselves; the tensors tell whether it is the right one of them.
_POOLINGS = (None, "", "avg", "token", "map")
WEIGHTS, _PROCESSOR = "model.safetensors", "preprocessor_config.json"
"""Of a repository on the hub."""
IMAGENET = "imagenet-1k"
"""Stands for the names of the 1000 classes, in their usual order."""


@dataclass(frozen=True)
class Source:
    """One model that can be imported.

    Attributes:
        name: name to show and keep.
        stem: a name for the model, from that of the source.
        description: description by the source itself.
        fetch: function from a folder for downloads and a largest size in bytes to the file of weights.
    """

    name: str
    stem: str
    description: ModelDescription
    fetch: Callable[[Path, int], Path]


def find_source(source: str, weights: Path | None = None, *, pretrained: bool = False) -> Source:
    """Look up what a source says of its model; no weights are read.

    Args:
        source: `timm:NAME[.TAG]` or `torchvision:NAME[.WEIGHTS]`, where the second part names published weights;
            `hf:OWNER/NAME[@REVISION]`, a model of timm or transformers; or the path of a file of weights.
        weights: file with the weights of a model of a library, instead of published ones.
        pretrained: whether to fetch the published weights of a model of a library.

    Raises:
        UsageError: there is no such source, it is not supported, or cannot be reached.
        ArtefactError: what it says cannot be read.
    """
    kind = local_path(source).partition(":")[0]
    if kind in ("timm", "torchvision"):
        return _of_library(source, weights, pretrained)
    if weights is not None or pretrained:
        raise UsageError(f"{source[:100]!r} brings its own weights; leave --weights and --pretrained out")
    if kind == "hf":
        return _of_hub(source)
    return _of_file(Path(source).expanduser())


def _of_library(source: str, weights: Path | None, pretrained: bool) -> Source:
    match = _LIBRARY_SOURCE.fullmatch(source)
    if match is None:
        raise UsageError(f"{source[:100]!r} is no name of a model; {_HELP}")
    if pretrained == (weights is not None):
        raise UsageError(f"{source} needs weights: give a file with --weights, or --pretrained to fetch published ones")
    library, name, tag = match.groups()
    _check_name(library, name)
    find = _published_timm if library == "timm" else _published_torchvision
    tag, said, fetch = find(name, tag, pretrained) if tag or pretrained else (None, {}, None)
    full = f"{name}.{tag}" if tag else name
    source, stem = f"{library}:{full}", f"{library}-{full}"
    description = described({"architecture": f"{library}:{name}"} | said, source)
    if weights is not None:
        check_file(weights)
        beside = read_sidecar(weights)
        description = description if beside is None else beside.over(description)
        return Source(source, stem, description, lambda _folder, _most: weights)
    if fetch is None:
        raise UsageError(f"{source} has no published weights that can be fetched; give a file with --weights")
    return Source(source, stem, description, fetch)


def _check_name(library: str, name: str) -> None:
    if library == "timm":
        timm = import_library("timm", "timm")
        known = [name] if timm.is_model(name) else timm.list_models()  # which lacks former names
    else:
        models = import_library("torchvision", "torchvision.models")
        known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean {library}:{close[0]}?" if close else "see its list_models()"
        raise UsageError(f"{library} has no image classifier {name!r}; {remedy}")


_Published = tuple[str | None, dict[str, Any], Callable[[Path, int], Path] | None]


def _published_timm(name: str, tag: str | None, fetched: bool) -> _Published:
    timm = import_library("timm", "timm")
    full = f"{name}.{tag}" if tag else name
    try:
        config = timm.get_pretrained_cfg(full, allow_unregistered=False)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"timm has no weights {full!r}; see `timm.list_pretrained()`") from error
    if config is None:
        raise UsageError(f"timm has no weights of {name}; see `timm.list_pretrained()`")
    said = _said_by_timm(config.to_dict(), f"timm:{full}")
    hub = config.hf_hub_id
    if not hub or not fetched:
        return config.tag or tag, said, None
    commit = hub_repository(hub, None).commit
    said["revision"] = commit
    return config.tag or tag, said, lambda _folder, most: hub_file(hub, commit, WEIGHTS, most)


def _said_by_timm(config: Mapping[str, Any], subject: str) -> dict[str, Any]:
    """What timm's record of published weights says."""
    said: dict[str, Any] = {"licence": config.get("license"), "crop": config.get("crop_pct")}
    said |= {key: config.get(key) for key in ("mean", "std", "interpolation")}
    size = config.get("input_size")
    if isinstance(size, list | tuple) and len(size) == 3 and size[1] == size[2] and isinstance(size[1], int):
        said |= {"input_size": size[1], "channels": size[0]}
        crop = said["crop"]
        if isinstance(crop, int | float) and 0.01 < crop <= 1:
            said["resize"] = int(size[1] / crop)
    names = config.get("label_names")
    if isinstance(names, list | tuple):
        said["classes"] = numbered([str(name) for name in names])
    if config.get("label_offset"):
        raise UsageError(f"{subject} leaves out some of its outputs, which is not supported; take another model")
    return said


def _published_torchvision(name: str, tag: str | None, fetched: bool) -> _Published:
    models = import_library("torchvision", "torchvision.models")
    known = models.get_model_weights(name)
    if tag is not None and tag not in known.__members__:
        raise UsageError(f"torchvision has no weights {tag!r} of {name}; it has {', '.join(known.__members__)}")
    weights = known[tag] if tag is not None else known.DEFAULT
    transforms = weights.transforms()
    side, resize = transforms.crop_size[0], transforms.resize_size[0]
    said = {"mean": tuple(transforms.mean), "std": tuple(transforms.std), "input_size": side, "channels": 3}
    said |= {"resize": resize, "crop": min(1.0, side / resize), "interpolation": transforms.interpolation.value}
    said["classes"] = numbered(list(weights.meta["categories"]))
    return weights.name, said, (lambda folder, most: download(weights.url, folder, most)) if fetched else None


def _of_hub(source: str) -> Source:
    match = re.fullmatch(r"hf:([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@([\w][\w./-]{0,99}))?", source, re.A)
    if match is None or ".." in source:
        raise UsageError(f"{source[:100]!r} names no repository; give hf:OWNER/NAME or hf:OWNER/NAME@REVISION")
    name, revision = match.groups()
    repository = hub_repository(name, revision)
    subject = f"hf:{name}"
    config = repository.read_json("config.json", _LARGEST_CONFIG)
    if isinstance(config.get("architecture"), str):
        said = _said_by_timm_repository(config, subject)
    elif "architectures" in config or "model_type" in config:
        said = said_by_transformers(config, repository.read_json(_PROCESSOR, _LARGEST_CONFIG, optional=True), subject)
    else:
        raise UsageError(f"{subject} is not a model of timm or transformers, which its config.json must say")
    said["licence"] = said.get("licence") or repository.licence
    said["revision"] = repository.commit
    return Source(
        subject,
        name.replace("/", "-"),
        described(said, subject),
        lambda _folder, most: hub_file(name, repository.commit, WEIGHTS, most),
    )


def _said_by_timm_repository(config: Mapping[str, Any], subject: str) -> dict[str, Any]:
    architecture = config["architecture"]
    if _LIBRARY_SOURCE.fullmatch(f"timm:{architecture}") is None or "." in architecture:
        raise UsageError(f"{subject} names an architecture {architecture[:80]!a} that timm cannot have; give another")
    if config.get("model_args"):
        raise UsageError(f"{subject} changes its architecture (model_args), which is not supported; give another")
    if config.get("global_pool") not in _POOLINGS:
        raise UsageError(f"{subject} pools its features in another way (global_pool), which is not supported")
    inner = config.get("pretrained_cfg", config)
    said = _said_by_timm(inner if isinstance(inner, dict) else {}, subject)
    names = config.get("label_names")
    if isinstance(names, list):
        said["classes"] = numbered([str(label) for label in names])
    return said | {"architecture": f"timm:{architecture}"}


def _of_file(path: Path) -> Source:
    if not path.exists() and ":" in str(path):
        raise UsageError(f"{str(path)[:100]!r} is no source; {_HELP}")
    check_file(path)
    return Source(path.name, path.stem, read_sidecar(path) or ModelDescription(), lambda _folder, _most: path)


def library_version(architecture: str) -> str | None:
    """The library that builds `architecture`, with its version; None for metazoo's own."""
    library, colon, _ = architecture.partition(":")
    return f"{library} {version(library)}" if colon else None


def imagenet_classes() -> tuple[str, ...]:
    """The names of the 1000 classes of ImageNet, as timm has them."""
    data = import_library("timm", "timm.data")
    return numbered(list(data.ImageNetInfo(IMAGENET).label_descriptions()))
