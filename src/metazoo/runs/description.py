"""Description of a run in its folder, and comparison with a later call."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from metazoo.data import UnlabelledImages
from metazoo.errors import RunError, UsageError
from metazoo.execution.compute import Compute
from metazoo.methods.base import unlabelled_options
from metazoo.pipeline.layout import CONFIG, DESCRIPTION, FINISHED, UNLABELLED
from metazoo.renamed import new_preset
from metazoo.runs.config import RunConfig, resolve_config
from metazoo.storage.artefacts import read_bytes
from metazoo.storage.manifest import NAME as MANIFEST
from metazoo.storage.run_folder import RunFolder, names_in
from metazoo.storage.validation import check_format_version
from metazoo.zoo import Zoo

FORMAT_VERSION = 1


def check_run_folder(out: Path, resume: bool) -> None:
    """Check that a run can begin or resume in a folder.

    Raises:
        UsageError: the folder holds other files, or a run although `resume` is False.
    """
    held = names_in(out, "a run folder")
    if not held:
        return
    # A run writes its configuration first, and nothing else until the manifest lists its description.
    foreign = next((name for name in held if name not in (CONFIG, DESCRIPTION, MANIFEST)), None)
    begins = foreign is None and (out / CONFIG).is_file()
    if not begins and not ((out / DESCRIPTION).is_file() and RunFolder(out).has(DESCRIPTION)):
        raise UsageError(out, f"holds {foreign or held[0]!r} and is not a run", "choose a new or empty folder")
    if not resume:
        raise UsageError(out, "holds a run already", "resume it with --resume, or choose another folder")


def recorded_compute(folder: RunFolder, device: str | None, precision: str | None) -> tuple[str | None, str | None]:
    """Given device and precision, by default those that the run began with."""
    if not folder.has(DESCRIPTION):
        return device, precision
    begun = folder.read_json(DESCRIPTION)
    return device or begun.get("device", "cpu"), precision or begun.get("precision", "float32")


def begun_config(
    out: Path, method: str | None = None, preset: str | None = None, seed: int | None = None
) -> RunConfig | None:
    """Configuration of the run in a folder; None if there is no run.

    Raises:
        RunError: the run was begun with another method, preset or seed (unless None), or by a version of metazoo with
            other options.
        ArtefactError: the description has changed.
    """
    folder = RunFolder(out)
    if not folder.has(DESCRIPTION):
        return None
    begun = _begun_with(folder, folder.read_json(DESCRIPTION))
    found = {"method": begun.method.name, "preset": begun.preset, "seed": begun.seed}
    preset = None if preset is None else new_preset(preset, begun.method.presets)
    for name, given in (("method", method), ("preset", preset), ("seed", seed)):
        if given is not None and given != found[name]:
            raise _begun_otherwise(folder, name)
    return begun


def _begun_otherwise(folder: RunFolder, what: str) -> RunError:
    return RunError(folder.path, f"was begun with another {what}", "give the same, or choose another folder")


def begin(
    folder: RunFolder,
    zoo: Zoo,
    config: RunConfig,
    threads: int,
    compute: Compute,
    images: bool,
    unlabelled: UnlabelledImages | None = None,
) -> dict[str, Any]:
    """Write the description of a run into its folder, or compare it with the stored one; returns the description.

    Raises:
        UsageError: the folder holds the configuration of another run.
        RunError: the run has another configuration, zoo, other inputs of its method or other unlabelled images, or
            `images` is False and was True.
        ArtefactError: the description has changed or has another format version.
    """
    if not folder.has(DESCRIPTION):
        inputs = dict(config.method.inputs(zoo, config.options))
        text, path = config.as_yaml(), folder.path / CONFIG
        if path.exists() and read_bytes(path) != text.encode():
            raise UsageError(path, "belongs to another run", "choose a new or empty folder")
        folder.write_text(CONFIG, text)
        description = {
            "format_version": FORMAT_VERSION,
            "zoo": {"path": str(zoo.folder.resolve()), "sha256": zoo.sha256, "models": len(zoo)},
            "threads": threads,
            "device": compute.device,
            "precision": compute.precision,
            "images": images,
            "versions": {
                "metazoo": version("metazoo"),
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "machine": {"system": platform.platform(), "processor": platform.machine()},
        }
        if unlabelled is not None:
            description["unlabelled"] = _described(config, unlabelled)
        uses = config.method.uses_in(zoo, config.options)
        if uses != "images":
            description["uses"] = uses
        if inputs:
            description["inputs"] = inputs
        if config.method.requires_in(config.options).labelled_validation:
            description["validated"] = True
        folder.write_json(DESCRIPTION, description)
        return description
    is_finished = any(map(folder.has, FINISHED))
    description = folder.read_json(DESCRIPTION)
    check_format_version(folder.path / DESCRIPTION, description.get("format_version"), FORMAT_VERSION)
    other = _first_difference(_begun_with(folder, description).as_record(), config.as_record())
    if other is not None:
        raise _begun_otherwise(folder, other)
    if description["zoo"]["sha256"] != zoo.sha256:
        problem = f"was begun with another zoo, or {zoo.folder} has changed since"
        raise RunError(folder.path, problem, "choose another folder")
    inputs = description.get("inputs", {})
    changed = None if is_finished else _first_difference(inputs, dict(config.method.inputs(zoo, config.options)))
    if changed is not None:
        raise RunError(folder.path, f"began before the {changed} changed", "restore it, or choose another folder")
    if description.get("images", True) and not images:
        forbid = f"forbid images with `metazoo zoo set {zoo.folder} --recovered-images keep`"
        raise RunError(folder.path, "was begun without --no-images", f"omit --no-images and {forbid}")
    begun = description.get("unlabelled")
    is_copied = folder.has(UNLABELLED) or is_finished
    if unlabelled is None and begun is not None and not is_copied:
        problem = "has not yet copied its unlabelled images"
        raise RunError(folder.path, problem, f"give them again: {begun['source']}")
    if unlabelled is not None and (begun is None or begun["source"] != unlabelled.identity):
        raise _begun_otherwise(folder, "choice of unlabelled images")
    if unlabelled is not None and not is_copied:
        # Nothing depends on them yet, and the user may have removed a damaged one.
        description["unlabelled"] = _described(config, unlabelled)
        folder.write_json(DESCRIPTION, description)
    return description


def _described(config: RunConfig, unlabelled: UnlabelledImages) -> dict[str, Any]:
    options = unlabelled_options(config.options)
    count = unlabelled.count if options is None else min(options.images, unlabelled.count)
    return {"images": count, "source": unlabelled.identity}


def _begun_with(folder: RunFolder, description: dict[str, Any]) -> RunConfig:
    """Stored configuration, with the former behaviour for options that did not exist then."""
    stored = yaml.safe_load(folder.read_text(CONFIG))
    try:
        return resolve_config(stored, begun=True)
    except UsageError as error:
        begun = description.get("versions", {}).get("metazoo", "of another version")
        problem = f"was begun by metazoo {begun}, which has other options ({error})"
        remedy = "repeat its --plugin options, continue with that version, or choose another folder"
        raise RunError(folder.path, problem, remedy) from error


def _first_difference(stored: Any, wanted: Any, prefix: str = "") -> str | None:
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for key in [*wanted, *(key for key in stored if key not in wanted)]:
            found = _first_difference(stored.get(key), wanted.get(key), f"{prefix}{key}.")
            if found is not None:
                return found
        return None
    return None if stored == wanted else prefix.rstrip(".")
