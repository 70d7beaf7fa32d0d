"""Bundles of repositories on the Hugging Face Hub, called hf:OWNER/NAME or hf:OWNER/NAME@REVISION."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from metazoo.adapt.bundle import CARD, DESCRIPTION, WEIGHTS, BundleDescription, description_of, most_weights
from metazoo.errors import ArtefactError, UsageError
from metazoo.execution.progress import message
from metazoo.zoo.importing.hub_files import (
    cached_file,
    hub_file,
    hub_name,
    hub_repository,
    is_commit,
    is_missing_file,
    is_unreachable,
)

_LARGEST_TEXT = 20_000_000


@contextlib.contextmanager
def downloaded_bundle(source: str, kind: type[BundleDescription]) -> Iterator[tuple[Path, str]]:
    """Bundle of a repository in the cache of the hub's library, downloaded if it is not there.

    Only the files of a bundle are downloaded, and no weights that are larger than those of the described networks. A
    branch or tag is resolved to its commit, which is printed. If the hub cannot be reached, the commit that the cache
    remembers is taken, with a note. No connection is needed for a commit in the cache.

    Args:
        source: hf:OWNER/NAME or hf:OWNER/NAME@REVISION.
        kind: expected type of the description.

    Yields:
        Folder of the bundle, and hf:OWNER/NAME@COMMIT. Within the context, errors about files of the folder are
        reported as errors of the repository.

    Raises:
        UsageError: there is no such bundle, or it can be neither reached nor found in the cache.
        ArtefactError: a file is damaged or has changed.
    """
    name, revision = hub_name(source)
    try:
        folder = _cached(name, str(revision)) if is_commit(revision) else None
        folder = folder or _latest(source, name, revision, kind)
        description_of(folder / DESCRIPTION, kind, source)
        yield folder, f"hf:{name}@{folder.name}"
    except ArtefactError as error:
        path = Path(error.subject)
        if path.parent.parent.name != "snapshots":
            raise
        remedy = f"delete {path.parents[2]} and try again; if it is the same, inform the owner of the repository"
        raise ArtefactError(f"{path.name} of hf:{name}@{path.parent.name}", error.problem, remedy) from error


def _latest(source: str, name: str, revision: str | None, kind: type[BundleDescription]) -> Path:
    """Folder of the bundle at the current commit of a revision or, without a connection, at the remembered one."""
    try:
        folder = _downloaded(source, name, revision, kind)
        origin = ""
    except UsageError as error:
        if not is_unreachable(error):
            raise
        found = _cached(name, revision or "main")
        if found is None:
            problem = f"is not in the cache, and {error.problem}"
            raise UsageError(source, problem, f"{error.remedy}, or give a local folder") from error
        folder, origin = found, ", from the cache, since the hub cannot be reached"
    if not is_commit(revision):
        message(f"note: {source} is commit {folder.name}{origin}")
    return folder


def _downloaded(source: str, name: str, revision: str | None, kind: type[BundleDescription]) -> Path:
    commit = hub_repository(name, revision).commit
    folder = _cached(name, commit)
    if folder is None:
        try:
            path = hub_file(name, commit, DESCRIPTION, _LARGEST_TEXT)
        except UsageError as error:
            if is_missing_file(error):
                remedy = "give a repository made by `metazoo push`"
                raise UsageError(source, f"holds no bundle of metazoo ({DESCRIPTION})", remedy) from error
            raise
        description = description_of(path, kind, source)
        try:
            hub_file(name, commit, CARD, _LARGEST_TEXT)
        except UsageError as error:  # a bundle may lack its card
            if not is_missing_file(error):
                raise
        # Last, since a bundle in the cache is complete if it has weights.
        hub_file(name, commit, WEIGHTS, most_weights(path, description))
        folder = path.parent
    if not is_commit(revision):
        # The cache remembers the commit of the branch only after the files are complete.
        hub_file(name, revision or "main", DESCRIPTION, _LARGEST_TEXT)
    return folder


def _cached(name: str, revision: str) -> Path | None:
    """Folder of a complete bundle in the cache; None if there is none."""
    description, weights = (cached_file(name, revision, file) for file in (DESCRIPTION, WEIGHTS))
    return weights.parent if description is not None and weights is not None else None
