"""Facts on a run for trackers."""

import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from metazoo.errors import ArtefactError
from metazoo.pipeline.layout import META_MODEL, METRICS, TRACKING, TRACKING_RECORD
from metazoo.runs.config import RunConfig
from metazoo.storage.artefacts import read_json, write_json
from metazoo.text import without_folders
from metazoo.tracking import TrackedRun
from metazoo.tracking.tracker import Parameter

_FORMAT_VERSION = 1


def tracked_run(folder: Path, config: RunConfig, description: Mapping[str, Any]) -> TrackedRun:
    """Facts on a run for trackers; writes its identity into its folder when it is first tracked.

    The identity is drawn at random and is no part of the run, which is the same with and without trackers. Options have
    the names of files instead of their paths.

    Args:
        folder: run folder.
        config: configuration of the run.
        description: content of `run.json`.

    Raises:
        ArtefactError: the identity is damaged or cannot be written.
    """
    folder = folder.resolve()
    zoo = description["zoo"]
    tags = {
        "folder": str(folder),
        "metrics": str(folder / METRICS),
        "meta-model": str(folder / META_MODEL),
        "zoo": zoo["path"],
        "zoo.sha256": zoo["sha256"],
        "zoo.models": str(zoo["models"]),
        "device": str(description.get("device", "cpu")),
        **{f"version.{name}": str(version) for name, version in description.get("versions", {}).items()},
    }
    return TrackedRun(
        id=_identity(folder),
        name=folder.name,
        folder=folder / TRACKING,
        parameters=dict(_flat(without_folders(config.as_record()))),
        tags=tags,
    )


def _identity(folder: Path) -> str:
    path = folder / TRACKING_RECORD
    if not path.exists():
        write_json(path, {"format_version": _FORMAT_VERSION, "id": uuid.uuid4().hex})
    record = read_json(path)
    try:
        return uuid.UUID(record["id"]).hex
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        remedy = "delete it; trackers then show the run as a new one"
        raise ArtefactError(path, "has no identity of a run", remedy) from error


def _flat(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Parameter]]:
    for name, value in options.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, str | int | float | bool):
            yield f"{prefix}{name}", value
        else:
            yield f"{prefix}{name}", json.dumps(value)
