"""The embeddings of the tasks of a zoo, by one probe: in memory, or in a file that is read block by block."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from metazoo.errors import ArtefactError, DataError, UsageError
from metazoo.storage.matrices import read_matrices, write_matrices

_FORMAT_VERSION = "1"
_CHECKED_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class TaskEmbedding:
    """The diagonal Fisher of one task: its teacher's `name`, and a tensor of any shape for each tensor of the probe."""

    name: str
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class FisherEmbeddings:
    """The embeddings of a zoo: `names` of its N teachers and, per tensor of the probe, float32 values [N, size].

    The values may be mapped from a file, so they are read in blocks.
    """

    names: tuple[str, ...]
    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise UsageError("two task embeddings have the same name; give every teacher a name of its own")
        if not self.names or not self.tensors:
            raise UsageError("task embeddings need at least one teacher and one tensor of the probe")
        for key, tensor in self.tensors.items():
            if len(tensor.shape) != 2 or len(tensor) != len(self.names):
                raise DataError(
                    f"tensor {key!r} of the task embeddings has shape {list(tensor.shape)}, but {len(self.names)} rows,"
                    " one a teacher, are needed; compute the embeddings again"
                )
            rows = max(1, _CHECKED_AT_ONCE // max(1, tensor.shape[1]))
            for part in (tensor[start : start + rows] for start in range(0, len(tensor), rows)):
                if not (torch.isfinite(part).all() and (part >= 0).all()):
                    raise DataError(
                        f"tensor {key!r} of the task embeddings has entries that are not finite or negative, which no"
                        " Fisher has; compute the embeddings again"
                    )

    @classmethod
    def stack(cls, embeddings: Sequence[TaskEmbedding]) -> "FisherEmbeddings":
        """Put the embeddings of several tasks, made with one probe, side by side on the CPU.

        Raises:
            DataError: two embeddings do not have the same tensors and sizes, so they come from different probes.
            UsageError: there are none, or two have the same name.
        """
        rows = list(_rows(embeddings))
        if not rows:
            raise UsageError("task embeddings need at least one teacher and one tensor of the probe")
        tensors = {key: torch.stack([row[key].cpu() for row in rows]) for key in rows[0]}
        return cls(tuple(embedding.name for embedding in embeddings), tensors)

    @classmethod
    def load(cls, path: Path | str, sha256: str | None = None) -> "FisherEmbeddings":
        """Open what `write_embeddings` has written, to be read from the disk, the tensors in alphabetical order.

        Raises:
            ArtefactError: the file is missing, damaged, changed, or holds something else.
        """
        tensors, metadata = read_matrices(path, sha256)
        if metadata.get("format_version") != _FORMAT_VERSION or "names" not in metadata:
            raise ArtefactError(f"{path} does not hold task embeddings of format {_FORMAT_VERSION}; compute them again")
        try:
            return cls(tuple(str(name) for name in json.loads(metadata["names"])), tensors)
        except (ValueError, TypeError, DataError, UsageError) as error:
            raise ArtefactError(f"{path} does not hold whole task embeddings ({error})") from error


def write_embeddings(path: Path | str, names: Sequence[str], embeddings: Iterable[TaskEmbedding]) -> str:
    """Write the embeddings of the teachers `names`, in that order, to one safetensors file, atomically.

    Only one of them is held at a time.

    Returns:
        The SHA-256 of the file, in hexadecimal.

    Raises:
        ArtefactError: the file cannot be written.
        DataError: two embeddings do not have the same tensors and sizes, so they come from different probes.
    """
    metadata = {"format_version": _FORMAT_VERSION, "names": json.dumps(names, ensure_ascii=False)}
    return write_matrices(Path(path), len(names), _rows(embeddings), metadata)


def _rows(embeddings: Iterable[TaskEmbedding]) -> Iterator[dict[str, Tensor]]:
    """Each embedding as float32 rows [size], after it was compared with the first one."""
    first, sizes = "", {}
    for embedding in embeddings:
        rows = {key: tensor.detach().flatten().float() for key, tensor in embedding.tensors.items()}
        own = {key: len(row) for key, row in rows.items()}
        first, sizes = (first, sizes) if first else (embedding.name, own)
        if own != sizes:
            raise DataError(
                f"the task embeddings of {first} and {embedding.name} come from different probes; compute both"
                " with the same one"
            )
        yield rows
