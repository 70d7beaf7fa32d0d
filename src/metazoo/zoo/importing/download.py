"""Downloads from the URLs of published weights."""

import re
import urllib.request
from pathlib import Path

from metazoo.errors import UsageError
from metazoo.storage.artefacts import sha256_of_file

_SECONDS = 30
_PIECE = 1 << 20


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


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
