"""Folders that `save_pretrained` of transformers or timm writes, also those in the cache of the Hugging Face Hub."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metazoo.errors import ArtefactError, UsageError, shown
from metazoo.storage.artefacts import cannot_read, read_json
from metazoo.storage.tensor_files import read_tensors, write_tensors
from metazoo.zoo.importing.foreign_files import check_folder

CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
"""File names in a folder or repository."""
LARGEST_CONFIG = 20_000_000
"""Size in bytes of the largest JSON file that is read from a folder or repository."""
_INDEX, _PICKLE = f"{WEIGHTS}.index.json", "pytorch_model.bin"
_CACHED = re.compile(r"models--(.+)")


@dataclass(frozen=True)
class PretrainedFolder:
    """Folder with a config.json.

    Attributes:
        path: path of the folder.
        stem: name of the folder or, in a cache, of the repository.
        commit: commit of the repository in a cache; None for other folders.
    """

    path: Path
    stem: str
    commit: str | None

    def file(self, name: str) -> Path | None:
        """Path of a file of the folder; None if it does not exist.

        Raises:
            UsageError: a link leads out of the folder. In a cache, links lead to the files of the repository.
        """
        path = self.path / name
        if not path.exists() and not path.is_symlink():
            return None
        try:
            root, target = self.path.resolve(), path.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise UsageError(path, "is a link that leads nowhere", "replace it by the file") from error
        roots = [root] if self.commit is None else [root, root.parent.parent / "blobs"]
        if not any(target.is_relative_to(each) for each in roots):
            raise UsageError(path, "is a link out of the folder", "replace it by the file itself")
        return path

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON mapping; an absent file gives an empty one.

        Raises:
            UsageError: it has more than 20 MB, or see `file`.
            ArtefactError: it cannot be read, or is not a JSON mapping.
        """
        path = self.file(name)
        if path is None:
            return {}
        try:
            is_large = not path.is_file() or path.stat().st_size > LARGEST_CONFIG
        except OSError as error:
            raise cannot_read(path, error) from error
        if is_large:
            problem = f"is not a file of at most {LARGEST_CONFIG:,} bytes"
            raise UsageError(path, problem, "store the model again with save_pretrained")
        content = read_json(path)
        if not isinstance(content, dict):
            raise ArtefactError(path, "is not a JSON mapping", "store it again with save_pretrained")
        return content

    def weights(self, folder: Path, most: int) -> Path:
        """Path of the weights. Those in several files are merged into one file in `folder`.

        Raises:
            UsageError: there are no weights, a part has no plain name or is missing, or see `file`.
            ArtefactError: the parts have together more than `most` bytes, or one is damaged.
        """
        found = self.file(WEIGHTS) or (None if self.file(_INDEX) else self.file(_PICKLE))
        return found or self._merged(folder, most)

    def _merged(self, folder: Path, most: int) -> Path:
        index = self.read_json(_INDEX).get("weight_map")
        if index is None:
            problem = f"holds neither {WEIGHTS} nor {_PICKLE}"
            raise UsageError(self.path, problem, "store the model again with save_pretrained")
        parts = sorted(set(map(str, index.values()))) if isinstance(index, dict) else []
        paths: list[Path] = []
        for name in parts:
            path = self.file(name) if re.fullmatch(r"[\w.-]{1,100}\.safetensors", name, re.ASCII) else None
            if path is None or not path.is_file():
                problem = f"names {shown(name)}, which is no file of this folder"
                raise UsageError(self.path / _INDEX, problem, "copy or download all files of the folder")
            paths.append(path)
        size = sum(path.stat().st_size for path in paths)
        if not paths or size > most:
            problem = f"names weights of {size:,} bytes, where the model can need 1 to {most:,}"
            raise ArtefactError(self.path / _INDEX, problem, "check both")
        tensors = {name: tensor for path in paths for name, tensor in read_tensors(path).items()}
        write_tensors(folder / WEIGHTS, tensors)
        return folder / WEIGHTS


def pretrained_folder(path: Path) -> PretrainedFolder:
    """Folder of `save_pretrained`.

    Raises:
        UsageError: the folder has no config.json.
    """
    root = path.resolve()
    cached = _CACHED.fullmatch(root.parent.parent.name) if root.parent.name == "snapshots" else None
    if cached is None:
        found = PretrainedFolder(path, root.name, None)
    else:
        found = PretrainedFolder(path, cached[1].replace("--", "-"), root.name)
    if found.file(CONFIG) is None:
        check_folder(path)
    return found


def is_pretrained(path: Path) -> bool:
    """Whether `path` is a folder that looks like one of `save_pretrained`."""
    return (path / CONFIG).is_file()
