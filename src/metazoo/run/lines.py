"""Files that grow line by line, for one writer."""

import contextlib
import os
from pathlib import Path

from metazoo.run.artefacts import cannot_write, flush_folder


def append_line(path: Path, line: bytes, *, durable: bool) -> None:
    """Add a line, its newline included, to a file, which is made if it is missing, as its folder is.

    It is handed to the system before this returns, and is on the disk if it is to be `durable`. A process that is
    killed meanwhile leaves a part of the line, without its newline.

    Raises:
        ArtefactError: the file cannot be written; no part of the line is left.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        with path.open("ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                rest = memoryview(line)
                while rest:
                    rest = rest[file.write(rest) :]
                if durable:
                    os.fsync(file.fileno())
            except BaseException:
                with contextlib.suppress(OSError):
                    file.truncate(size)
                raise
        if durable and is_new:
            flush_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
