"""Training a meta-model from a zoo, and the run folder that comes of it."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import torch
import yaml

from metazoo.adapt import MetaModel
from metazoo.errors import ArtefactError, RunError, UsageError
from metazoo.methods.config import RunConfig, resolve_config
from metazoo.methods.privacy import discard_images, hide_images
from metazoo.methods.selection import SELECTION_DATA
from metazoo.methods.workspace import Workspace
from metazoo.report.card import meta_model_card
from metazoo.run.artefacts import read_bytes
from metazoo.run.compute import Compute
from metazoo.run.folder import RunFolder
from metazoo.run.lock import exclusive
from metazoo.run.manifest import NAME as MANIFEST
from metazoo.run.memory import keep_freed_memory
from metazoo.run.metrics import MetricsLog
from metazoo.run.signals import graceful
from metazoo.run.threads import torch_threads
from metazoo.zoo import Zoo, zoo_with_models

FORMAT_VERSION = 1
CONFIG, DESCRIPTION, METRICS, META_MODEL = "config.yaml", "run.json", "metrics.jsonl", "meta-model"
_FINISHED = f"{META_MODEL}/meta-model.json"
# Small layers gain little from more threads, and wait many times longer where another program wants a core as well.
_THREADS = 1


@final
class Run:
    """A run folder.

    Attributes:
        path: of the folder.
        description: the content of `run.json`: zoo, versions, threads.
    """

    def __init__(self, path: Path, description: dict[str, Any]) -> None:
        self.path, self.description = path, description

    @classmethod
    def open(cls, path: Path | str) -> "Run":
        """Open a run that was begun.

        Raises:
            UsageError: there is no such folder, or it is not a run.
            ArtefactError: the run's own description has changed.
        """
        path = Path(path)
        if not (path / DESCRIPTION).is_file():
            raise UsageError(f"{path} is not a run folder, it has no {DESCRIPTION}; give one that train has made")
        return cls(path, RunFolder(path).read_json(DESCRIPTION))

    @property
    def finished(self) -> bool:
        """Whether the meta-model is there."""
        return RunFolder(self.path).has(_FINISHED)

    @property
    def config(self) -> RunConfig:
        """The complete description of the run."""
        return resolve_config(self.path / CONFIG)

    @property
    def meta_model(self) -> MetaModel:
        """What the run has learned.

        Raises:
            RunError: the run has not finished.
            ArtefactError: a file is missing or has changed.
        """
        if not self.finished:
            raise RunError(f"{self.path} has not finished; go on with it by train --resume")
        return MetaModel.load(self.path / META_MODEL)

    @property
    def selection_classes(self) -> tuple[str, ...]:
        """Classes of the labelled images that models were selected by; empty if they were not."""
        folder = RunFolder(self.path)
        return tuple(folder.read_json(SELECTION_DATA)["classes"]) if folder.has(SELECTION_DATA) else ()

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of the run's diary."""
        return MetricsLog(self.path / METRICS).rows()


def train(
    zoo: Zoo | Path | str,
    method: str | None = None,
    *,
    out: Path | str,
    setting: str | None = None,
    config: Mapping[str, Any] | Path | str | None = None,
    seed: int | None = None,
    resume: bool = False,
    workers: int | None = None,
    threads: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    progress: bool = False,
    images: bool = True,
) -> Run:
    """Learn one meta-model from a zoo, without data.

    On the CPU a run that is interrupted or killed and resumed ends bit-equal to one that was not, as long as the number
    of threads is the same; it is recorded, and a resumed run takes it from there.

    Args:
        zoo: or its folder.
        method: `tgr` if neither this nor `config` says.
        out: the run folder; made if missing.
        setting: of the method; `default` if neither this nor `config` says.
        config: options that differ from the setting; see `resolve_config`.
        seed: 0 if neither this nor `config` says.
        resume: go on with the run that is in `out`, or begin it.
        workers: processes for independent work; one a core if None, at most 4 on a GPU. It changes no result.
        threads: torch threads of the learning; 1 if None, which suits networks as small as Conv4.
        device: `cpu`, `cuda` or `cuda:1`; the first GPU, else the CPU if None. It is recorded, and a resumed run stays
            there unless another one is named, where numbers are rounded otherwise.
        precision: `float32` or `bfloat16`, see `Compute`; `bfloat16` on a GPU, else `float32` if None. As `device`.
        progress: whether to say on standard error how far the run is.
        images: False makes no picture of recovered images, whatever the contracts of the models allow. It is recorded,
            and a resumed run takes it from there. Contracts are obeyed as they are at every call, so after one has been
            changed, a call with `resume` deletes what it forbids, of a finished run too.

    Returns:
        The finished run.

    Raises:
        UsageError: an option is wrong, the device is not there, the zoo is empty, or `out` holds something else, or a
            run and `resume` is False.
        RunError: `out` is in use, or holds a run of another description or zoo, or `images` is False and it was True.
        ZooError, DataError, ArtefactError: as the stages; what was finished is kept.
        Interrupted: SIGINT or SIGTERM came; what was finished is kept.
    """
    for name, number in (("workers", workers), ("threads", threads)):
        if number is not None and number < 1:
            raise UsageError(f"{name} must be 1 or more, not {number}")
    resolved = resolve_config(config, method=method, setting=setting, seed=seed)
    zoo = zoo_with_models(zoo)
    out = Path(out)
    _check_out(out, resume)
    keep_freed_memory()
    with graceful() as stop, exclusive(out):
        folder = RunFolder(out)
        folder.tidy()
        compute = Compute.choose(*_recorded(folder, device, precision))
        description = _begin(folder, zoo, resolved, threads or _THREADS, compute, images)
        workspace = Workspace(
            zoo=zoo,
            folder=folder,
            metrics=MetricsLog(out / METRICS),
            seed=resolved.seed,
            workers=compute.default_workers if workers is None else workers,
            check=stop.check,
            progress=progress,
            compute=compute,
            images=description.get("images", True),
        )
        hide_images(workspace)
        if not folder.has(_FINISHED):
            _learn(workspace, resolved, description)
        folder.drop_checkpoints()
        discard_images(workspace)
    return Run(out, description)


def _learn(workspace: Workspace, config: RunConfig, description: dict[str, Any]) -> None:
    with torch_threads(int(description["threads"])):
        classifier = config.method.train(workspace, config.recipe)
    folder = workspace.folder
    meta_model = MetaModel(classifier, method=config.method.name, setting=config.setting, seed=config.seed)
    folder.write_text(f"{META_MODEL}/card.md", meta_model_card(workspace.zoo, config, description, classifier, folder))
    files = meta_model.save(folder.path / META_MODEL)
    folder.record(METRICS, *(f"{META_MODEL}/{name}" for name in files))


def _check_out(out: Path, resume: bool) -> None:
    try:
        held = sorted(entry.name for entry in out.iterdir() if not entry.name.startswith("."))
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"{out} cannot be a run folder: {error.strerror}; choose another folder") from error
    if not held:
        return
    # A run begins with its configuration; nothing else is there until the manifest lists its description.
    foreign = next((name for name in held if name not in (CONFIG, DESCRIPTION, MANIFEST)), None)
    begins = foreign is None and (out / CONFIG).is_file()
    if not begins and not ((out / DESCRIPTION).is_file() and RunFolder(out).has(DESCRIPTION)):
        raise UsageError(f"{out} holds {foreign or held[0]!r} and is not a run; choose a new or empty folder")
    if not resume:
        raise UsageError(f"{out} holds a run already; go on with it by --resume, or choose another folder")


def _recorded(folder: RunFolder, device: str | None, precision: str | None) -> tuple[str | None, str | None]:
    """What was asked for, or else what the run began with."""
    if not folder.has(DESCRIPTION):
        return device, precision
    begun = folder.read_json(DESCRIPTION)
    return device or begun.get("device", "cpu"), precision or begun.get("precision", "float32")


def _begin(
    folder: RunFolder, zoo: Zoo, config: RunConfig, threads: int, compute: Compute, images: bool
) -> dict[str, Any]:
    """Describe the run in its folder, or check that it is the one described there."""
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
    stored = yaml.safe_load(folder.read_text(CONFIG))
    wanted = config.as_record()
    other = _first_difference(stored, wanted)
    if other is not None:
        raise RunError(f"{folder.path} was begun with another {other}; give the same, or choose another folder")
    if description["zoo"]["sha256"] != zoo.sha256:
        raise RunError(
            f"{folder.path} was begun with another zoo, or {zoo.folder} has changed since; choose another folder"
        )
    if description.get("images", True) and not images:
        raise RunError(
            f"{folder.path} was begun with images; go on without --no-images after `metazoo zoo set {zoo.folder} "
            "--recovered-images keep`, which forbids them, or choose another folder"
        )
    return description


def _first_difference(stored: Any, wanted: Any, prefix: str = "") -> str | None:
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for key in [*wanted, *(key for key in stored if key not in wanted)]:
            found = _first_difference(stored.get(key), wanted.get(key), f"{prefix}{key}.")
            if found is not None:
                return found
        return None
    return None if stored == wanted else prefix.rstrip(".")
