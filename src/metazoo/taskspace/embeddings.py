"""Fisher embeddings of the tasks of a zoo, made with one probe: in memory, or in a file that is read in blocks."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from metazoo.errors import ArtefactError, DataError, UsageError
from metazoo.storage.matrices import read_matrices, write_matrices

_FORMAT_VERSION = "1"
_CHECKED_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class TaskEmbedding:
    """Diagonal Fisher information of one task.

    Attributes:
        name: name of the teacher that solves the task.
        tensors: values of any shape, at least 0, for each tensor of the probe.
    """

    name: str
    tensors: dict[str, Float[Tensor, "..."]]


@dataclass(frozen=True)
class FisherEmbeddings:
    """Fisher embeddings of all tasks of a zoo.

    Attributes:
        names: names of the N teachers.
        tensors: float32 values [N, size] for each tensor of the probe; they may be mapped from a file.
    """

    names: tuple[str, ...]
    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise UsageError("task embeddings", "two have the same name", "use a different name for each teacher")
        if not self.names or not self.tensors:
            raise UsageError("task embeddings", "none given", "pass at least one teacher and one tensor of the probe")
        for key, tensor in self.tensors.items():
            if len(tensor.shape) != 2 or len(tensor) != len(self.names):
                raise DataError(
                    f"tensor {key!r} of the task embeddings",
                    f"shape {list(tensor.shape)} does not have one row for each of {len(self.names)} teachers",
                    "compute the embeddings again",
                )
            rows = max(1, _CHECKED_AT_ONCE // max(1, tensor.shape[1]))
            for part in (tensor[start : start + rows] for start in range(0, len(tensor), rows)):
                if not (torch.isfinite(part).all() and (part >= 0).all()):
                    raise DataError(
                        f"tensor {key!r} of the task embeddings",
                        "some entries are negative or not finite",
                        "compute the embeddings again",
                    )

    @classmethod
    def stack(cls, embeddings: Sequence[TaskEmbedding]) -> "FisherEmbeddings":
        """Stack the embeddings of several tasks, made with one probe, on the CPU.

        Raises:
            DataError: two embeddings differ in their tensors or sizes, so they come from different probes.
            UsageError: `embeddings` is empty, or two have the same name.
        """
        rows = list(_rows(embeddings))
        if not rows:
            raise UsageError("task embeddings", "none given", "pass at least one")
        tensors = {key: torch.stack([row[key].cpu() for row in rows]) for key in rows[0]}
        return cls(tuple(embedding.name for embedding in embeddings), tensors)

    @classmethod
    def load(cls, path: Path | str, sha256: str | None = None) -> "FisherEmbeddings":
        """Open a file of `write_embeddings`; values stay on disk, tensors are in alphabetical order.

        Raises:
            ArtefactError: the file is missing, damaged, changed, or not one of embeddings.
        """
        tensors, metadata = read_matrices(path, sha256)
        if metadata.get("format_version") != _FORMAT_VERSION or "names" not in metadata:
            raise ArtefactError(
                str(path), f"not task embeddings of format {_FORMAT_VERSION}", "compute the embeddings again"
            )
        try:
            return cls(tuple(str(name) for name in json.loads(metadata["names"])), tensors)
        except (ValueError, TypeError, DataError, UsageError) as error:
            raise ArtefactError(
                str(path), f"damaged task embeddings ({error})", "compute the embeddings again"
            ) from error


def write_embeddings(path: Path | str, names: Sequence[str], embeddings: Iterable[TaskEmbedding]) -> str:
    """Write the embeddings of the teachers `names`, in that order, to one safetensors file, atomically.

    Only one embedding is in memory at a time.

    Returns:
        The SHA-256 of the file, in hexadecimal.

    Raises:
        ArtefactError: the file cannot be written.
        DataError: two embeddings differ in their tensors or sizes, so they come from different probes.
    """
    metadata = {"format_version": _FORMAT_VERSION, "names": json.dumps(names, ensure_ascii=False)}
    return write_matrices(Path(path), len(names), _rows(embeddings), metadata)


def _rows(embeddings: Iterable[TaskEmbedding]) -> Iterator[dict[str, Float32[Tensor, " _"]]]:
    """Rows of each embedding, checked to have the sizes of the first one."""
    first, sizes = "", {}
    for embedding in embeddings:
        rows = {key: tensor.detach().flatten().float() for key, tensor in embedding.tensors.items()}
        own = {key: len(row) for key, row in rows.items()}
        first, sizes = (first, sizes) if first else (embedding.name, own)
        if own != sizes:
            raise DataError(
                f"task embeddings of {first!r} and {embedding.name!r}",
                "made with different probes",
                "compute both with the same probe",
            )
        yield rows
