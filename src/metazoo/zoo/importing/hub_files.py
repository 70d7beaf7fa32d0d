"""Files of repositories on the Hugging Face Hub, through its own library and its cache.

The environment variables of the library apply: HF_ENDPOINT chooses another hub, HF_HUB_OFFLINE=1 forbids connections,
HF_TOKEN is the access token, HF_HOME the folder of the cache.
"""

import errno
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from metazoo.errors import ArtefactError, UsageError, only_printable, shown
from metazoo.models import import_library
from metazoo.storage.artefacts import read_json

_EXTRA = "hub"
_SECONDS = 30
_REPOSITORY = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}"
_REVISION = r"\w[\w./-]{0,99}"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BUSY = (408, 429)
_LOCAL = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EIO
)  # fmt: skip
_TOKEN = "run `hf auth login`, or set HF_TOKEN to a token that may"
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
            if optional and is_missing_file(error):
                return {}
            raise
        if not isinstance(content, dict):
            raise ArtefactError(f"{file} of hf:{self.name}", "not a JSON mapping", "choose another repository")
        return content


def is_hub_name(source: object) -> bool:
    """Whether `source` is meant as hf:OWNER/NAME; see `hub_name`."""
    return isinstance(source, str) and source.startswith("hf:")


def hub_name(source: str) -> tuple[str, str | None]:
    """Repository OWNER/NAME and revision (None: the main branch) of hf:OWNER/NAME or hf:OWNER/NAME@REVISION.

    Raises:
        UsageError: the text is neither.
    """
    match = re.fullmatch(rf"hf:({_REPOSITORY})(?:@({_REVISION}))?", source, re.ASCII)
    if match is None or ".." in source or "--" in match[1]:
        raise UsageError(shown(source), "not a repository", "give hf:OWNER/NAME or hf:OWNER/NAME@REVISION")
    return match[1], match[2]


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a complete commit hash, whose files never change."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def hub_repository(name: str, revision: str | None) -> HubRepository:
    """Find the commit of `revision` (None: the main branch) of OWNER/NAME.

    Raises:
        UsageError: huggingface_hub is not installed, or the repository or revision does not exist or is not readable.
    """
    info = asked(name, lambda api: api.model_info(name, revision=revision, timeout=_SECONDS))
    if not is_commit(str(info.sha)):
        raise UsageError(f"hf:{name}", "the hub gives no commit", "try again, or another hub")
    licences = [tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")]
    return HubRepository(name, str(info.sha), licences[0] if licences else None)


def hub_file(name: str, revision: str, file: str, most: int) -> Path:
    """Download a file of OWNER/NAME with at most `most` bytes into the hub library's cache.

    The cache also remembers the commit of a `revision` that is a branch or tag.

    Raises:
        UsageError: the file cannot be downloaded, or is larger.
    """
    hub, endpoint = hub_library(), _endpoint()
    url = hub.hf_hub_url(name, file, revision=revision, endpoint=endpoint)
    size = asked(name, lambda _: hub.get_hf_file_metadata(url, endpoint=endpoint, timeout=_SECONDS)).size
    if size is None or size > most:
        problem = f"has {size} bytes, more than the {most} that it can need"
        raise UsageError(f"{file} of hf:{name}", problem, "choose another repository")
    path = Path(asked(name, lambda _: hub.hf_hub_download(name, file, revision=revision, endpoint=endpoint)))
    if path.stat().st_size > most:
        raise UsageError(f"{file} of hf:{name}", "larger than its size on the hub", "choose another repository")
    return path


def cached_file(name: str, revision: str, file: str) -> Path | None:
    """Path of a file in the hub library's cache, without a connection; None if it is not there."""
    path = hub_library().try_to_load_from_cache(name, file, revision=revision)
    return Path(path) if isinstance(path, str) else None


def hub_library() -> Any:
    """Module `huggingface_hub`; UsageError if it is not installed."""
    return import_library(_EXTRA, "huggingface_hub")


def asked(name: str, ask: Callable[[Any], _Result]) -> _Result:
    """Result of a request about OWNER/NAME.

    Args:
        name: repository for errors.
        ask: function of the library's `HfApi`.

    Raises:
        UsageError: the hub refuses the request or cannot be reached. Its cause is the error of the library, unless that
            contains the access token.
    """
    hub = hub_library()
    try:
        return ask(hub.HfApi(endpoint=_endpoint()))
    except Exception as failure:  # from the hub's library, the libraries below it, or the system
        # The library wraps errors of threads.
        cause = failure.__cause__ if type(failure) is RuntimeError else None
        error = cause if isinstance(cause, Exception) else failure
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        public = _without_token(text, hub)
        problem, remedy = _explained(error, only_printable(public.partition(" For more information")[0], 200))
        raise UsageError(f"hf:{name}", problem, remedy) from (error if public == text else None)


def is_missing_file(error: UsageError) -> bool:
    """Whether the hub has answered that the repository lacks the file."""
    errors = import_library(_EXTRA, "huggingface_hub.errors")
    local = isinstance(error.__cause__, errors.LocalEntryNotFoundError)
    return isinstance(error.__cause__, errors.EntryNotFoundError) and not local


def is_missing_repository(error: UsageError) -> bool:
    """Whether the hub has answered that the repository or its revision does not exist, or is not readable."""
    errors = import_library(_EXTRA, "huggingface_hub.errors")
    gated = isinstance(error.__cause__, errors.GatedRepoError)
    return isinstance(error.__cause__, errors.RepositoryNotFoundError) and not gated


def is_unreachable(error: UsageError) -> bool:
    """Whether the hub has not answered, or not completely, or is too busy to."""
    cause, status = error.__cause__, _status(error.__cause__)
    if status is not None:
        return status >= 500 or status in _BUSY
    errors = import_library(_EXTRA, "huggingface_hub.errors")
    # A RuntimeError is one of the library's own transfers in compiled code.
    known = OSError | errors.HTTPError | RuntimeError
    return cause is not None and isinstance(cause, known) and not _is_local(cause)


def _is_local(error: BaseException) -> bool:
    """Whether this machine refuses to store a file, also in a text of the library's compiled code."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return getattr(error, "errno", None) in _LOCAL or (number is not None and int(number[1]) in _LOCAL)


def _status(error: BaseException | None) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _is_refusal(error: BaseException) -> bool:
    """Whether the library itself refuses a name or a card."""
    return type(error) is ValueError or type(error).__name__ == "HFValidationError"


def _explained(error: Exception, reason: str) -> tuple[str, str]:
    """Problem and remedy of an error of the hub's library."""
    errors, status = import_library(_EXTRA, "huggingface_hub.errors"), _status(error)
    if _is_refusal(error):
        return f"is refused by the library of the hub ({reason})", "check the name and the front matter of README.md"
    if status is None and _is_local(error):
        return f"cannot be stored in the cache ({reason})", "free some space, or set HF_HOME to a writable folder"
    if isinstance(error, errors.GatedRepoError):
        return "the hub gives access only on request", "ask for it on the page of the repository, then `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "does not exist on the hub, or is private", f"check its name, or {_TOKEN} read it"
    if isinstance(error, errors.RevisionNotFoundError):
        return "has no such revision on the hub", "give a branch, tag or commit of it"
    if isinstance(error, errors.LocalEntryNotFoundError) or status is None:
        return f"the hub cannot be reached ({reason})", "check the connection, and HF_HUB_OFFLINE and HF_ENDPOINT"
    if isinstance(error, errors.EntryNotFoundError):
        return f"lacks the file on the hub ({reason})", "choose another repository"
    if status in (401, 403):
        return f"the hub refuses the access token ({reason})", f"{_TOKEN} do this"
    return f"the hub refuses the request ({reason})", "try again later, or another repository"


def _without_token(text: str, hub: Any) -> str:
    """Text without the access token, which a library or a hub may quote."""
    for secret in filter(None, (hub.get_token(), os.environ.get("HF_TOKEN", "").strip())):
        text = text.replace(secret, "***").replace(repr(secret)[1:-1], "***")
    return re.sub(r"(Bearer )[^'\"]+", r"\1***", text)


def _endpoint() -> str | None:
    # Read at every call, since the library reads it only once, when it is imported.
    return os.environ.get("HF_ENDPOINT") or None
