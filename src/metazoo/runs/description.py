"""Description of a run in its folder, and the check that a call means the same run."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from metazoo.errors import ArtefactError, RunError, UsageError
from metazoo.execution.compute import Compute
from metazoo.pipeline.layout import CONFIG, DESCRIPTION
from metazoo.renamed import new_preset
from metazoo.runs.config import RunConfig, resolve_config
from metazoo.storage.artefacts import read_bytes
from metazoo.storage.manifest import NAME as MANIFEST
from metazoo.storage.run_folder import RunFolder, names_in
from metazoo.zoo import Zoo

FORMAT_VERSION = 1


def check_run_folder(out: Path, resume: bool) -> None:
    """Check that a run may begin, or continue, in `out`.

    Raises:
        UsageError: it holds something else, or a run and `resume` is False.
    """
    held = names_in(out, "a run folder")
    if not held:
        return
    # A run begins with its configuration; nothing else is there until the manifest lists its description.
    foreign = next((name for name in held if name not in (CONFIG, DESCRIPTION, MANIFEST)), None)
    begins = foreign is None and (out / CONFIG).is_file()
    if not begins and not ((out / DESCRIPTION).is_file() and RunFolder(out).has(DESCRIPTION)):
        raise UsageError(out, f"holds {foreign or held[0]!r} and is not a run", "choose a new or empty folder")
    if not resume:
        raise UsageError(out, "holds a run already", "continue it with --resume, or choose another folder")


def recorded_compute(folder: RunFolder, device: str | None, precision: str | None) -> tuple[str | None, str | None]:
    """Device and precision that are asked for, or else those that the run began with."""
    if not folder.has(DESCRIPTION):
        return device, precision
    begun = folder.read_json(DESCRIPTION)
    return device or begun.get("device", "cpu"), precision or begun.get("precision", "float32")


def begun_config(
    out: Path, method: str | None = None, preset: str | None = None, seed: int | None = None
) -> RunConfig | None:
    """Configuration that the run in `out` began with; None if there is no run.

    Raises:
        RunError: it was begun with another method, preset or seed than are given (None: not given), or by a metazoo of
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
    return RunError(f"{folder.path} was begun with another {what}; give the same, or choose another folder")


def begin(
    folder: RunFolder, zoo: Zoo, config: RunConfig, threads: int, compute: Compute, images: bool
) -> dict[str, Any]:
    """Describe the run in its folder, or check that it is the one described there; the content of DESCRIPTION.

    Raises:
        UsageError: another run was about to begin there.
        RunError: it is a run of another description or zoo, or `images` is False and was True.
        ArtefactError: the description has changed, or is of another format version.
    """
    if not folder.has(DESCRIPTION):
        text, path = config.as_yaml(), folder.path / CONFIG
        if path.exists() and read_bytes(path) != text.encode():
            raise UsageError(f"{path} is not of this run; choose a new or empty folder")
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
        folder.write_json(DESCRIPTION, description)
        return description
    description = folder.read_json(DESCRIPTION)
    if description.get("format_version") != FORMAT_VERSION:
        raise ArtefactError(f"{folder.path / DESCRIPTION} is of another format version; update metazoo")
    other = _first_difference(_begun_with(folder, description).as_record(), config.as_record())
    if other is not None:
        raise _begun_otherwise(folder, other)
    if description["zoo"]["sha256"] != zoo.sha256:
        raise RunError(
            f"{folder.path} was begun with another zoo, or {zoo.folder} has changed since; choose another folder"
        )
    if description.get("images", True) and not images:
        raise RunError(
            f"{folder.path} was begun with images; continue without --no-images after `metazoo zoo set {zoo.folder} "
            "--recovered-images keep`, which forbids them, or choose another folder"
        )
    return description


def _begun_with(folder: RunFolder, description: dict[str, Any]) -> RunConfig:
    """Stored configuration; an option that did not exist then does what was done before."""
    stored = yaml.safe_load(folder.read_text(CONFIG))
    try:
        return resolve_config(stored, begun=True)
    except UsageError as error:
        begun = description.get("versions", {}).get("metazoo", "of another version")
        raise RunError(
            f"{folder.path} was begun by metazoo {begun}, whose options are not those of this one ({error}); continue "
            "with that version, or choose another folder"
        ) from error


def _first_difference(stored: Any, wanted: Any, prefix: str = "") -> str | None:
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for key in [*wanted, *(key for key in stored if key not in wanted)]:
            found = _first_difference(stored.get(key), wanted.get(key), f"{prefix}{key}.")
            if found is not None:
                return found
        return None
    return None if stored == wanted else prefix.rstrip(".")
