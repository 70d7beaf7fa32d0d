"""Task embeddings: the diagonal of a probe's Fisher information on the images of one task.

A task is what one teacher solves; its embedding says which of the probe's weights matter for it (Achille et al. 2019,
"Task2Vec"; TGR, ICML 2024, uses the same embedding to compare teachers).
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional

from metazoo.errors import ArtefactError, DataError, UsageError
from metazoo.run.artefacts import read_tensor_metadata, read_tensors, write_tensors
from metazoo.taskspace.blocks import kept_blocks
from metazoo.taskspace.layer_squares import sum_of_squared_gradients

_FORMAT_VERSION = "1"


@dataclass(frozen=True)
class TaskEmbedding:
    """The diagonal Fisher of one task: its teacher's `name`, and a tensor of any shape for each tensor of the probe."""

    name: str
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class FisherEmbeddings:
    """The embeddings of a zoo: `names` of its N teachers and, per tensor of the probe, float32 values [N, size]."""

    names: tuple[str, ...]
    tensors: dict[str, Tensor]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise UsageError("two task embeddings have the same name; give every teacher a name of its own")
        if not self.names or not self.tensors:
            raise UsageError("task embeddings need at least one teacher and one tensor of the probe")
        for key, tensor in self.tensors.items():
            if tensor.ndim != 2 or len(tensor) != len(self.names):
                raise DataError(
                    f"tensor {key!r} of the task embeddings has shape {list(tensor.shape)}, but {len(self.names)} rows,"
                    " one a teacher, are needed; compute the embeddings again"
                )
            if not (torch.isfinite(tensor).all() and (tensor >= 0).all()):
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
        if not embeddings:
            raise UsageError("task embeddings need at least one teacher and one tensor of the probe")
        first = embeddings[0]
        sizes = {key: tensor.numel() for key, tensor in first.tensors.items()}
        for embedding in embeddings:
            if {key: tensor.numel() for key, tensor in embedding.tensors.items()} != sizes:
                raise DataError(
                    f"the task embeddings of {first.name} and {embedding.name} come from different probes; compute both"
                    " with the same one"
                )
        tensors = {
            key: torch.stack([embedding.tensors[key].detach().flatten().float().cpu() for embedding in embeddings])
            for key in first.tensors
        }
        return cls(tuple(embedding.name for embedding in embeddings), tensors)

    def save(self, path: Path | str) -> str:
        """Write one safetensors file, atomically; returns its SHA-256.

        Raises:
            ArtefactError: the file cannot be written.
        """
        metadata = {"format_version": _FORMAT_VERSION, "names": json.dumps(self.names, ensure_ascii=False)}
        return write_tensors(path, self.tensors, metadata)

    @classmethod
    def load(cls, path: Path | str, sha256: str | None = None) -> "FisherEmbeddings":
        """Read what `save` wrote, with the tensors in alphabetical order.

        Raises:
            ArtefactError: the file is missing, damaged, changed, or holds something else.
        """
        tensors = read_tensors(path, sha256)
        metadata = read_tensor_metadata(path)
        if metadata.get("format_version") != _FORMAT_VERSION or "names" not in metadata:
            raise ArtefactError(f"{path} does not hold task embeddings of format {_FORMAT_VERSION}; compute them again")
        try:
            names = tuple(str(name) for name in json.loads(metadata["names"]))
            return cls(names, {key: tensors[key] for key in sorted(tensors)})
        except (ValueError, TypeError, DataError, UsageError) as error:
            raise ArtefactError(f"{path} does not hold whole task embeddings ({error})") from error


def diagonal_fisher(
    network: nn.Module,
    images: Tensor,
    labels: Tensor | Literal["sampled"],
    *,
    chunk: int,
    generator: torch.Generator | None = None,
    batch_squared: bool = False,
    most_entries: int | None = None,
) -> dict[str, Tensor]:
    """Diagonal of the Fisher information of every trainable tensor of `network`, a classifier, on one task.

    With labels given: the empirical Fisher, the mean over the samples of the squared gradient of one sample's
    cross-entropy. With `labels="sampled"`: a Monte-Carlo draw of the true Fisher, the labels being drawn from the
    network's own softmax. The network is used in eval mode, so batch norm takes its stored statistics and a sample's
    gradient does not depend on its neighbours; its modes are put back, and no `.grad` is touched.

    Published (TGR, ICML 2024, official code), kept as `batch_squared=True`: the squared gradient of the *mean* loss of
    a batch of `chunk` samples, averaged over batches. It is not the Fisher (gradients of unlike samples cancel before
    they are squared) and depends on `chunk`. The published probe also stayed in train mode; that is not reproduced.

    Args:
        network: maps images to logits [n, classes].
        images: float [n, channels, side, side], n at least 1, normalised as the network wants them, on its device.
        labels: int64 [n] in [0, classes), or "sampled".
        chunk: samples that pass at once (memory: what the layers of that many samples put out); it changes the result
            by rounding only, unless `batch_squared`.
        generator: on the CPU; needed for, and only used by, `labels="sampled"`. Labels do not depend on `chunk`.
        batch_squared: the published quirk above.
        most_entries: of a tensor with more entries, at most so many are computed, see `kept_blocks`.

    Returns:
        For each trainable parameter, by its name: a tensor of its shape, or the blocks of it that are kept;
        float32 and at least 0, on its device.

    Raises:
        DataError: no images, labels that do not fit, or gradients that are not finite.
        UsageError: `chunk` or `most_entries` below 1, no generator to draw labels, no trainable parameter, a batch norm
            without stored statistics, or, unless `batch_squared`, as `sum_of_squared_gradients`.
    """
    parameters = {name: value.detach() for name, value in network.named_parameters() if value.requires_grad}
    _check(network, parameters, images, chunk, most_entries)

    kept = {} if most_entries is None else kept_blocks(parameters, most_entries)

    def loss(values: dict[str, Tensor], batch: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(network, values, (batch,)), targets)

    totals: dict[str, Tensor] = {}
    starts = range(0, len(images), chunk)
    with _eval_mode(network):
        targets = _targets(network, images, labels, chunk, generator)
        for start in starts:
            part = slice(start, start + chunk)
            if batch_squared:
                gradients = grad(loss)(parameters, images[part], targets[part])
                for name, blocks in kept.items():
                    gradients[name] = blocks.of(gradients[name])
                squares = {name: gradient.square() for name, gradient in gradients.items()}
            else:
                squares = sum_of_squared_gradients(network, parameters, images[part], targets[part], kept)
            for name, square in squares.items():
                totals[name] = totals[name] + square if name in totals else square.double()
    terms = len(starts) if batch_squared else len(images)
    fisher = {name: (totals[name] / terms).float() for name in parameters}
    for name, values in fisher.items():
        if not torch.isfinite(values).all():
            raise DataError(
                f"the probe's gradients of {name!r} are not finite on these images; check the images and train the"
                " probe with a lower learning rate"
            )
    return fisher


def _check(
    network: nn.Module, parameters: dict[str, Tensor], images: Tensor, chunk: int, most_entries: int | None
) -> None:
    if chunk < 1 or (most_entries is not None and most_entries < 1):
        raise UsageError(f"chunk and most_entries must be at least 1, not {chunk} and {most_entries}")
    if not parameters:
        raise UsageError("the probe has no trainable parameter; set requires_grad on those that embed the task")
    if images.ndim != 4 or len(images) == 0 or not images.is_floating_point():
        raise DataError(f"a task embedding needs float images [n, C, S, S] with n at least 1, not {list(images.shape)}")
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise UsageError(
                f"batch norm {name!r} of the probe stores no statistics, so one sample has no gradient of its own; use"
                " track_running_stats=True"
            )


@torch.no_grad()
def _targets(
    network: nn.Module,
    images: Tensor,
    labels: Tensor | Literal["sampled"],
    chunk: int,
    generator: torch.Generator | None,
) -> Tensor:
    if not isinstance(labels, str):
        classes = network(images[:1]).shape[1]
        if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
            raise DataError(f"{len(images)} images need int64 labels [{len(images)}], not {list(labels.shape)}")
        if int(labels.min()) < 0 or int(labels.max()) >= classes:
            raise DataError(f"labels must lie in [0, {classes}), the classes of the probe; refit its head to this task")
        return labels.to(images.device)
    if labels != "sampled":
        raise UsageError(f"labels must be a tensor or 'sampled', not {labels!r}")
    if generator is None:
        raise UsageError("labels='sampled' needs a generator to draw them")
    uniform = torch.rand(len(images), 1, generator=generator, dtype=torch.float64)
    drawn = []
    for start in range(0, len(images), chunk):
        cumulative = network(images[start : start + chunk]).double().softmax(1).cumsum(1).cpu()
        drawn.append((uniform[start : start + chunk] >= cumulative[:, :-1]).sum(1))
    return torch.cat(drawn).to(images.device)


@contextmanager
def _eval_mode(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
