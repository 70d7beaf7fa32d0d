"""The folder of one run: files that count once its manifest lists them, and checkpoints to resume from."""

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
    """Names of all in a folder that is not hidden, sorted; empty if there is no folder.

    Args:
        folder: see above.
        what: it is to become, for the error, such as `a zoo`.

    Raises:
        UsageError: it is a file, or cannot be read.
    """
    try:
        return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"{folder} cannot be {what}: {error.strerror}; choose another folder") from error


class RunFolder:
    """Reads and writes the artefacts of a run; names are relative to the folder.

    Every write is atomic and then committed to the manifest, so a file either counts, whole and with its hash, or is
    made again by a resumed run. Open it as the folder's only writer (see `run.lock.exclusive`), or only to read.

    Raises:
        ArtefactError: the manifest is damaged.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._manifest = Manifest(self.path)

    def tidy(self) -> None:
        """Delete what killed processes left: half-written files, forgotten checkpoints; for the only writer."""
        remove_stale_temporaries(self.path)
        folder = self.path / CHECKPOINTS
        left = [f"{CHECKPOINTS}/{path.name}" for path in folder.glob("*.safetensors")]
        self._unlink([name for name in left if not self.has(name)])

    def has(self, name: str) -> bool:
        """Whether the file has been committed."""
        return name in self._manifest.files

    def record(self, *names: str) -> None:
        """Commit files that were written by somebody else."""
        self._manifest.add(*names)

    def write_json(self, name: str, value: Any) -> None:
        """Write and commit JSON; ArtefactError as `artefacts.write_json`."""
        self._commit(name, write_json(self.path / name, value))

    def sha256(self, name: str) -> str:
        """Hash of a committed file; ArtefactError if it is not one."""
        return self._manifest.sha256(name)

    def read_json(self, name: str) -> Any:
        """Read committed JSON; ArtefactError if it is missing or changed."""
        return read_json(self.path / name, self.sha256(name))

    def write_text(self, name: str, text: str) -> None:
        """Write and commit text; ArtefactError as `artefacts.write_text`."""
        self._commit(name, write_text(self.path / name, text))

    def read_text(self, name: str) -> str:
        """Read committed text; ArtefactError if it is missing or changed."""
        return read_bytes(self.path / name, self.sha256(name)).decode()

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write and commit safetensors; ArtefactError as `artefacts.write_tensors`."""
        self._commit(name, write_tensors(self.path / name, tensors, {"format_version": _FORMAT_VERSION}))

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """Read committed safetensors; ArtefactError if they are missing or changed."""
        return read_tensors(self.path / name, self.sha256(name))

    def verify(self) -> None:
        """Check every committed file; ArtefactError names the first that is missing or has changed."""
        self._manifest.verify()

    def save_checkpoint(self, stage: str, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Write the state of `stage` after `step` steps. Its last one is deleted once the new one is committed."""
        former = self._checkpoints(stage)
        name = f"{CHECKPOINTS}/{stage}-{step:08d}.safetensors"
        metadata = {"format_version": _FORMAT_VERSION, "stage": stage, "step": str(step)}
        self._commit(name, write_tensors(self.path / name, tensors, metadata))
        self._delete([other for other in former if other != name])

    def latest_checkpoint(self, stage: str) -> tuple[int, dict[str, Tensor]] | None:
        """Steps done and state of `stage` as last committed; None if there is none.

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
            raise ArtefactError(f"{self.path / names[-1]} is no checkpoint; start the run again") from error

    def delete(self, name: str) -> None:
        """Forget a file, if it was committed, and delete it; ArtefactError if that cannot be done."""
        self._manifest.discard(name)
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise ArtefactError(f"cannot delete {self.path / name}: {error.strerror}; delete it yourself") from error

    def drop_checkpoints(self) -> None:
        """Delete every checkpoint, once the run has what it was for."""
        self._delete([name for name in self._manifest.files if name.startswith(f"{CHECKPOINTS}/")])

    def _checkpoints(self, stage: str) -> list[str]:
        """Committed ones of this stage alone, in the order of their steps."""
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
            # Forgotten already: a leftover that cannot be deleted harms nothing.
            with contextlib.suppress(OSError):
                (self.path / name).unlink(missing_ok=True)
