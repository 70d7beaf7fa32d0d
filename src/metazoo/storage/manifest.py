"""What a folder must hold: the hash and size of every file, committed last."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from metazoo.errors import ArtefactError
from metazoo.storage.artefacts import read_json, sha256_of_file, write_json
from metazoo.storage.validation import check_format_version

FORMAT_VERSION = 1
NAME = "manifest.json"


class Manifest:
    """`manifest.json` of a folder. A file counts as made only once it stands here.

    Raises:
        ArtefactError: its `manifest.json` is no manifest, is of another format version, or names files outside.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.files: dict[str, dict[str, str | int]] = {}
        path = self.folder / NAME
        if path.exists():
            self.files = _parsed(path, read_json(path))

    def add(self, *paths: Path | str, hashes: Mapping[str, str] | None = None) -> None:
        """Record files, and commit.

        Args:
            paths: relative to the folder, or absolute within it.
            hashes: SHA-256 by path as given, where the writer has just returned it; the other files are hashed.

        Raises:
            ArtefactError: a file is missing or outside the folder, or the manifest cannot be written; then what was
                recorded before stays.
        """
        files = dict(self.files)
        for given in paths:
            name = self._name(given)
            sha256 = (hashes or {}).get(str(given)) or sha256_of_file(self.folder / name)
            files[name] = {"sha256": sha256, "bytes": _size(self.folder / name)}
        self._commit(files)

    def discard(self, *paths: Path | str) -> None:
        """Forget files, and commit; the caller deletes them afterwards."""
        forgotten = {self._name(path) for path in paths}
        self._commit({name: entry for name, entry in self.files.items() if name not in forgotten})

    def sha256(self, path: Path | str) -> str:
        """The recorded hash of a file.

        Raises:
            ArtefactError: the file is not part of this folder.
        """
        return str(self._entry(self._name(path))["sha256"])

    def verify(self, *paths: Path | str) -> None:
        """Check `paths`, or every file.

        Raises:
            ArtefactError: names the first file (in alphabetical order) that is missing or has changed, or there is no
                manifest at all.
        """
        if not (self.folder / NAME).is_file():
            raise ArtefactError(f"{self.folder / NAME} is missing; the folder is incomplete: resume or start again")
        for name in sorted(map(self._name, paths) if paths else self.files):
            entry, path = self._entry(name), self.folder / name
            if _size(path) != entry["bytes"] or sha256_of_file(path) != entry["sha256"]:
                raise ArtefactError(f"{path} has changed since it was written; restore it or start again")

    def _commit(self, files: dict[str, dict[str, str | int]]) -> None:
        ordered = dict(sorted(files.items()))
        write_json(self.folder / NAME, {"format_version": FORMAT_VERSION, "files": ordered})
        self.files = ordered

    def _entry(self, name: str) -> dict[str, str | int]:
        if name not in self.files:
            raise ArtefactError(
                f"{self.folder / name} is not in its manifest; the folder is incomplete: resume the run"
            )
        return self.files[name]

    def _name(self, path: Path | str) -> str:
        relative = Path(path)
        if relative.is_absolute() and relative.is_relative_to(self.folder.absolute()):
            relative = relative.relative_to(self.folder.absolute())
        name = relative.as_posix()
        if not _is_inside(name):
            raise ArtefactError(f"{path} is not a file within {self.folder}; a manifest lists those only")
        return name


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return name not in ("", ".", NAME) and not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError as error:
        raise ArtefactError(f"{path} is missing; restore it or start again") from error
    except OSError as error:
        raise ArtefactError(
            f"cannot read {path}: {error.strerror or error}; check that it is a readable file"
        ) from error


def _parsed(path: Path, content: Any) -> dict[str, dict[str, str | int]]:
    refusal = f"{path} is not a manifest; restore it or start a new folder"
    if not isinstance(content, dict) or not isinstance(content.get("files"), dict):
        raise ArtefactError(refusal)
    check_format_version(path, content.get("format_version"), FORMAT_VERSION)
    for name, entry in content["files"].items():
        if not _is_inside(name):
            raise ArtefactError(f"{path} names {name!r}, which is not a file within its folder; start a new folder")
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("sha256"), str)
            or not isinstance(entry.get("bytes"), int)
        ):
            raise ArtefactError(refusal)
    return content["files"]
