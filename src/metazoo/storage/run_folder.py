"""Folder of a run: files listed in a manifest, and checkpoints."""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from metazoo.errors import ArtefactError, UsageError
from metazoo.storage.artefacts import read_bytes, read_json, remove_stale_temporaries, write_json, write_text
from metazoo.storage.manifest import Manifest
from metazoo.storage.tensor_files import read_tensor_metadata, read_tensors, write_tensors

CHECKPOINTS = "checkpoints"
_FORMAT_VERSION = "1"


def names_in(folder: Path, what: str) -> list[str]:
    """Sorted names of the entries of a folder that are not hidden; empty if the folder does not exist.

    Args:
        folder: folder to read.
        what: intended use of the folder for errors, such as `a zoo`.

    Raises:
        UsageError: the path is a file, or cannot be read.
    """
    try:
        return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(folder, f"cannot be {what} ({error.strerror})", "choose another folder") from error


class RunFolder:
    """Artefacts of a run; names are relative to the folder.

    Every write is atomic and then committed to the manifest with its hash; a resumed run makes files again that are not
    committed. Only one object may write to a folder at a time (see `metazoo.storage.lock.exclusive`).

    Raises:
        ArtefactError: the manifest is damaged.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._manifest = Manifest(self.path)

    def tidy(self) -> None:
        """Delete temporary files and uncommitted checkpoints of killed processes; call it as the only writer."""
        remove_stale_temporaries(self.path)
        folder = self.path / CHECKPOINTS
        left = [f"{CHECKPOINTS}/{path.name}" for path in folder.glob("*.safetensors")]
        self._unlink([name for name in left if not self.has(name)])

    def has(self, name: str) -> bool:
        """Whether the file has been committed."""
        return name in self._manifest.files

    def record(self, *names: str) -> None:
        """Commit files that were written without this object."""
        self._manifest.add(*names)

    def write_json(self, name: str, value: Any) -> None:
        """Write and commit JSON; see `artefacts.write_json`."""
        self._commit(name, write_json(self.path / name, value))

    def sha256(self, name: str) -> str:
        """SHA-256 of a committed file; ArtefactError if the file is not committed."""
        return self._manifest.sha256(name)

    def read_json(self, name: str) -> Any:
        """Read committed JSON; ArtefactError if the file is missing or changed."""
        return read_json(self.path / name, self.sha256(name))

    def write_text(self, name: str, text: str) -> None:
        """Write and commit text; see `artefacts.write_text`."""
        self._commit(name, write_text(self.path / name, text))

    def read_text(self, name: str) -> str:
        """Read committed text; ArtefactError if the file is missing or changed."""
        return read_bytes(self.path / name, self.sha256(name)).decode()

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write and commit safetensors; see `tensor_files.write_tensors`."""
        self._commit(name, write_tensors(self.path / name, tensors, {"format_version": _FORMAT_VERSION}))

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """Read committed safetensors; ArtefactError if the file is missing or changed."""
        return read_tensors(self.path / name, self.sha256(name))

    def verify(self) -> None:
        """Check every committed file; ArtefactError if one is missing or has changed."""
        self._manifest.verify()

    def save_checkpoint(self, stage: str, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Write the state of a stage after `step` steps, then delete its former checkpoint."""
        former = self._checkpoints(stage)
        name = f"{CHECKPOINTS}/{stage}-{step:08d}.safetensors"
        metadata = {"format_version": _FORMAT_VERSION, "stage": stage, "step": str(step)}
        self._commit(name, write_tensors(self.path / name, tensors, metadata))
        self._delete([other for other in former if other != name])

    def latest_checkpoint(self, stage: str) -> tuple[int, dict[str, Tensor]] | None:
        """Number of steps and state of the latest checkpoint of a stage; None if there is none.

        Raises:
            ArtefactError: the checkpoint is missing or has changed.
        """
        names = self._checkpoints(stage)
        if not names:
            return None
        tensors = self.read_tensors(names[-1])
        metadata = read_tensor_metadata(self.path / names[-1])
        try:
            return int(metadata["step"]), tensors
        except (KeyError, ValueError) as error:
            raise ArtefactError(self.path / names[-1], "is not a checkpoint", "start the run again") from error

    def delete(self, name: str) -> None:
        """Delete a file, committed or not; ArtefactError if the system cannot."""
        self._manifest.discard(name)
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            problem = f"cannot be deleted ({error.strerror})"
            raise ArtefactError(self.path / name, problem, "delete it yourself") from error

    def drop_checkpoints(self) -> None:
        """Delete all checkpoints of a finished run."""
        self._delete([name for name in self._manifest.files if name.startswith(f"{CHECKPOINTS}/")])

    def _checkpoints(self, stage: str) -> list[str]:
        """Names of the committed checkpoints of a stage, in the order of steps."""
        pattern = re.compile(rf"{CHECKPOINTS}/{re.escape(stage)}-(\d+)\.safetensors")
        matches = filter(None, map(pattern.fullmatch, self._manifest.files))
        return [match[0] for match in sorted(matches, key=lambda match: int(match[1]))]

    def _commit(self, name: str, sha256: str) -> None:
        self._manifest.add(name, hashes={name: sha256})

    def _delete(self, names: list[str]) -> None:
        if not names:
            return
        self._manifest.discard(*names)
        self._unlink(names)

    def _unlink(self, names: list[str]) -> None:
        for name in names:
            # No longer in the manifest, so a file that remains does no harm.
            with contextlib.suppress(OSError):
                (self.path / name).unlink(missing_ok=True)
