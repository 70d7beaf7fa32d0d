"""Downloads: from the Hugging Face Hub, with its own library, and from the URLs of published weights."""

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
    """Hub repository at one commit."""

    name: str
    commit: str
    licence: str | None

    def read_json(self, file: str, most: int, *, optional: bool = False) -> dict[str, Any]:
        """Read a JSON mapping of at most `most` bytes; an `optional` file that does not exist gives an empty one.

        Raises:
            UsageError: the file cannot be downloaded, or is larger.
            ArtefactError: the file is not a JSON mapping.
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
            raise ArtefactError(f"{file} of hf:{self.name}", "not a JSON mapping", "choose another repository")
        return content


def hub_repository(name: str, revision: str | None) -> HubRepository:
    """Find the commit of `revision` (None: the main branch) of OWNER/NAME.

    The environment variable HF_ENDPOINT chooses another hub.

    Raises:
        UsageError: huggingface_hub is not installed, or the repository or revision does not exist or is not public.
    """
    hub = _hub()
    info = _asked(name, lambda: hub.HfApi(endpoint=_endpoint()).model_info(name, revision=revision, timeout=_SECONDS))
    if not re.fullmatch(r"[0-9a-f]{40}", str(info.sha)):
        raise UsageError(f"hf:{name}", "the hub gives no commit", "try again, or another hub")
    licences = [tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")]
    return HubRepository(name, str(info.sha), licences[0] if licences else None)


def hub_file(name: str, commit: str, file: str, most: int) -> Path:
    """Download a file of OWNER/NAME with at most `most` bytes into the hub library's cache.

    Raises:
        UsageError: the file cannot be downloaded, or is larger.
    """
    hub, endpoint = _hub(), _endpoint()
    url = hub.hf_hub_url(name, file, revision=commit, endpoint=endpoint)
    size = _asked(name, lambda: hub.get_hf_file_metadata(url, endpoint=endpoint, timeout=_SECONDS)).size
    if size is None or size > most:
        problem = f"has {size} bytes, more than the {most} that it can need"
        raise UsageError(f"{file} of hf:{name}", problem, "choose another repository")
    path = Path(_asked(name, lambda: hub.hf_hub_download(name, file, revision=commit, endpoint=endpoint)))
    if path.stat().st_size > most:
        raise UsageError(f"{file} of hf:{name}", "larger than its size on the hub", "choose another repository")
    return path


def download(url: str, folder: Path, most: int) -> Path:
    """Download published weights into `folder`.

    Args:
        url: URL whose file name ends in the first digits of its SHA-256, such as NAME-0123abcd.pth.
        folder: folder for the file.
        most: largest size in bytes.

    Raises:
        UsageError: the file cannot be downloaded, is larger, or has another SHA-256.
    """
    name = url.rpartition("/")[2]
    target = folder / re.sub(r"[^\w.-]", "_", name)
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer, target.open("wb") as file:
            size = 0
            while piece := answer.read(_PIECE):
                size += len(piece)
                if size > most:
                    raise UsageError(url, f"has more than the {most} bytes that its model can need", "check it")
                file.write(piece)
    except (OSError, ValueError) as error:
        raise UsageError(url, f"cannot be downloaded ({_reason(error)})", "give the file with --weights") from error
    wanted = re.search(r"-([0-9a-f]{8,})\.", name)
    if wanted is None or not sha256_of_file(target).startswith(wanted[1]):
        raise UsageError(url, "SHA-256 differs from the one in its name", "try again")
    return target


def _hub() -> Any:
    return import_library(_EXTRA, "huggingface_hub")


def _endpoint() -> str | None:
    # Read at every call, since the library reads it only once, when it is imported.
    return os.environ.get("HF_ENDPOINT") or None


def _asked(name: str, ask: Callable[[], _Result]) -> _Result:
    try:
        return ask()
    except Exception as error:  # from the hub's library, the libraries below it, or the system
        problem = f"cannot be downloaded from the hub ({_reason(error)})"
        raise UsageError(f"hf:{name}", problem, "check its name, or try again") from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
