"""Entries of zip archives that Python and torch read in the same way."""

import zipfile
from pathlib import Path

from metazoo.errors import ArtefactError
from metazoo.storage.artefacts import cannot_read

# Enough for forty thousand tensors.
_LARGEST_DIRECTORY = 4 << 20
_END, _LOCATOR, _RECORD = 22, 20, 56
"""Sizes in bytes of the last three parts of an archive."""


def zip_entries(path: Path) -> list[zipfile.ZipInfo]:
    """Entries of an archive, whose sizes and compression also hold for torch's own reader.

    Raises:
        ArtefactError: the file cannot be read, is damaged, is preceded or followed by other data, or has a directory
            of more than 4 MB or names that differ by capitals only.
    """
    try:
        size = path.stat().st_size
        start = _directory_start(path, size)
        if start is None or size - start > _LARGEST_DIRECTORY:
            raise ArtefactError(path, "is cut short, or a zip archive with other data around it", "store it again")
        with zipfile.ZipFile(path) as archive:
            if archive.start_dir != start:
                raise ArtefactError(path, "is a zip archive with two directories", "store it again")
            entries = archive.infolist()
        # Torch's reader takes capitals and small letters as equal.
        if len({entry.filename.lower() for entry in entries}) < len(entries):
            raise ArtefactError(path, "is a zip archive with two files of one name", "store it again")
        return entries
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ArtefactError(path, "is a damaged zip archive", "download or store it again") from error
    except OSError as error:
        raise cannot_read(path, error) from error


def _directory_start(path: Path, size: int) -> int | None:
    """Offset of the directory by the last bytes; None unless the archive ends with them, as those of torch do."""
    most = _END + _LOCATOR + _RECORD
    with path.open("rb") as file:
        file.seek(max(0, size - most))
        tail = file.read().rjust(most, b"\0")
    record, locator, end = tail[:_RECORD], tail[_RECORD : _RECORD + _LOCATOR], tail[-_END:]
    if not end.startswith(b"PK\x05\x06") or end[-2:] != b"\0\0":
        return None
    if not locator.startswith(b"PK\x06\x07"):
        return int.from_bytes(end[16:20], "little")
    # The 64-bit directory record must be where both readers look for it.
    is_before = record.startswith(b"PK\x06\x06") and int.from_bytes(locator[8:16], "little") == size - most
    return int.from_bytes(record[48:56], "little") if is_before else None
