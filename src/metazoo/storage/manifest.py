"""Manifest of a folder: hash and size of every file, written last."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from metazoo.errors import ArtefactError
from metazoo.storage.artefacts import cannot_read, read_json, sha256_of_file, write_json
from metazoo.storage.validation import check_format_version

FORMAT_VERSION = 1
NAME = "manifest.json"


class Manifest:
    """`manifest.json` of a folder; a file is complete once it is listed.

    Raises:
        ArtefactError: `manifest.json` is not a manifest, has another format version, or names files outside the folder.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.files: dict[str, dict[str, str | int]] = {}
        path = self.folder / NAME
        if path.exists():
            self.files = _parsed(path, read_json(path))

    def add(self, *paths: Path | str, hashes: Mapping[str, str] | None = None) -> None:
        """Add files and write the manifest.

        Args:
            paths: files, relative to the folder or absolute within it.
            hashes: known SHA-256 by path as given; the other files are hashed.

        Raises:
            ArtefactError: a file is missing or outside the folder, or the manifest cannot be written; the manifest does
                not change.
        """
        files = dict(self.files)
        for given in paths:
            name = self._name(given)
            sha256 = (hashes or {}).get(str(given)) or sha256_of_file(self.folder / name)
            files[name] = {"sha256": sha256, "bytes": _size(self.folder / name)}
        self._commit(files)

    def discard(self, *paths: Path | str) -> None:
        """Remove files from the manifest and write it; the caller deletes the files afterwards."""
        forgotten = {self._name(path) for path in paths}
        self._commit({name: entry for name, entry in self.files.items() if name not in forgotten})

    def sha256(self, path: Path | str) -> str:
        """Recorded hash of a file.

        Raises:
            ArtefactError: the file is not listed.
        """
        return str(self._entry(self._name(path))["sha256"])

    def verify(self, *paths: Path | str) -> None:
        """Check size and hash of files; without `paths`, of every listed file.

        Raises:
            ArtefactError: a file is missing or has changed (the first in alphabetical order is named), or there is no
                manifest.
        """
        if not (self.folder / NAME).is_file():
            raise ArtefactError(self.folder / NAME, "is missing, so the folder is incomplete", "resume or start again")
        for name in sorted(map(self._name, paths) if paths else self.files):
            entry, path = self._entry(name), self.folder / name
            if _size(path) != entry["bytes"] or sha256_of_file(path) != entry["sha256"]:
                raise ArtefactError(path, "has changed since it was written", "restore it or start again")

    def _commit(self, files: dict[str, dict[str, str | int]]) -> None:
        ordered = dict(sorted(files.items()))
        write_json(self.folder / NAME, {"format_version": FORMAT_VERSION, "files": ordered})
        self.files = ordered

    def _entry(self, name: str) -> dict[str, str | int]:
        if name not in self.files:
            problem = f"is not in {NAME}, so the folder is incomplete"
            raise ArtefactError(self.folder / name, problem, "resume the run")
        return self.files[name]

    def _name(self, path: Path | str) -> str:
        relative = Path(path)
        if relative.is_absolute() and relative.is_relative_to(self.folder.absolute()):
            relative = relative.relative_to(self.folder.absolute())
        name = relative.as_posix()
        if not _is_inside(name):
            raise ArtefactError(path, f"is not a file within {self.folder}", "give a file of this folder")
        return name


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return name not in ("", ".", NAME) and not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError as error:
        raise ArtefactError(path, "is missing", "restore it or start again") from error
    except OSError as error:
        raise cannot_read(path, error) from error


def _parsed(path: Path, content: Any) -> dict[str, dict[str, str | int]]:
    remedy = "restore it or start a new folder"
    if not isinstance(content, dict) or not isinstance(content.get("files"), dict):
        raise ArtefactError(path, "is not a manifest", remedy)
    check_format_version(path, content.get("format_version"), FORMAT_VERSION)
    for name, entry in content["files"].items():
        if not _is_inside(name):
            raise ArtefactError(path, f"names {name!r}, which is not a file within its folder", remedy)
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("sha256"), str)
            or not isinstance(entry.get("bytes"), int)
        ):
            raise ArtefactError(path, f"is not a manifest: wrong entry {name!r}", remedy)
    return content["files"]
