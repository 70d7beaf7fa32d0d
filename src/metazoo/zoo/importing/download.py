"""Fetching files: from the Hugging Face Hub, through its own library, and from the address of published weights."""

import os
import re
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from metazoo.errors import ArtefactError, UsageError
from metazoo.models import import_library
from metazoo.storage.artefacts import read_json, sha256_of_file

_SECONDS = 30
_PIECE = 1 << 20
_EXTRA = "timm"
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class HubRepository:
    """A repository at one commit."""

    name: str
    commit: str
    licence: str | None

    def read_json(self, file: str, most: int, *, optional: bool = False) -> dict[str, Any]:
        """One of its files, a JSON mapping of at most `most` bytes; an empty one for an `optional` that is not there.

        Raises:
            UsageError: it cannot be fetched, or is larger.
            ArtefactError: it is no such file.
        """
        try:
            content = read_json(hub_file(self.name, self.commit, file, most))
        except UsageError as error:
            errors = import_library(_EXTRA, "huggingface_hub.errors")
            absent = isinstance(error.__cause__, errors.EntryNotFoundError)
            if optional and absent and not isinstance(error.__cause__, errors.LocalEntryNotFoundError):
                return {}
            raise
        if not isinstance(content, dict):
            raise ArtefactError(f"{file} of hf:{self.name} holds no values by name; choose another repository")
        return content


def hub_repository(name: str, revision: str | None) -> HubRepository:
    """Find the commit that `revision` (the main branch if None) of OWNER/NAME stands for.

    The hub is the one that the environment variable HF_ENDPOINT names.

    Raises:
        UsageError: huggingface_hub is not installed, or there is no such repository or revision, or it is not public.
    """
    hub = _hub()
    info = _asked(name, lambda: hub.HfApi(endpoint=_endpoint()).model_info(name, revision=revision, timeout=_SECONDS))
    if not re.fullmatch(r"[0-9a-f]{40}", str(info.sha)):
        raise UsageError(f"the hub does not say which commit hf:{name} is at; try again, or another hub")
    licences = [tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")]
    return HubRepository(name, str(info.sha), licences[0] if licences else None)


def hub_file(name: str, commit: str, file: str, most: int) -> Path:
    """Fetch a file of OWNER/NAME into the hub's own cache, if it has at most `most` bytes.

    Raises:
        UsageError: it cannot be fetched, or is larger.
    """
    hub, endpoint = _hub(), _endpoint()
    url = hub.hf_hub_url(name, file, revision=commit, endpoint=endpoint)
    size = _asked(name, lambda: hub.get_hf_file_metadata(url, endpoint=endpoint, timeout=_SECONDS)).size
    if size is None or size > most:
        raise UsageError(f"{file} of hf:{name} has {size} bytes, more than the {most} that it can need; choose another")
    path = Path(_asked(name, lambda: hub.hf_hub_download(name, file, revision=commit, endpoint=endpoint)))
    if path.stat().st_size > most:
        raise UsageError(f"{file} of hf:{name} is larger than the hub said; choose another repository")
    return path


def download(url: str, folder: Path, most: int) -> Path:
    """Fetch published weights into `folder`, if they have at most `most` bytes.

    Args:
        url: address whose file name ends in a part of its SHA-256, such as NAME-0123abcd.pth.
        folder: folder for the file.
        most: largest size in bytes.

    Raises:
        UsageError: they cannot be fetched, are larger, or are not those that the address names.
    """
    name = url.rpartition("/")[2]
    target = folder / re.sub(r"[^\w.-]", "_", name)
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer, target.open("wb") as file:
            size = 0
            while piece := answer.read(_PIECE):
                size += len(piece)
                if size > most:
                    raise UsageError(f"{url} has more than the {most} bytes that its model can need; check it")
                file.write(piece)
    except (OSError, ValueError) as error:
        raise UsageError(f"{url} cannot be fetched ({_reason(error)}); give the file with --weights") from error
    wanted = re.search(r"-([0-9a-f]{8,})\.", name)
    if wanted is None or not sha256_of_file(target).startswith(wanted[1]):
        raise UsageError(f"{url} is not what its name says (another SHA-256); try again")
    return target


def _hub() -> Any:
    return import_library(_EXTRA, "huggingface_hub")


def _endpoint() -> str | None:
    # Read at every call; the library itself reads it once, when it is imported.
    return os.environ.get("HF_ENDPOINT") or None


def _asked(name: str, ask: Callable[[], _Result]) -> _Result:
    try:
        return ask()
    except Exception as error:  # of the hub's library, of the one below it, or of the system
        raise UsageError(
            f"hf:{name} cannot be had from the hub ({_reason(error)}); check its name, or try again"
        ) from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
