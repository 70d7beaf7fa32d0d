"""Task embeddings: the diagonal of the Fisher information of a probe on the images of one task.

A task is the classification that one teacher solves. Its embedding shows which weights of the probe matter for it
(Achille et al. 2019, "Task2Vec"; TGR, ICML 2024, compares teachers by the same embedding).
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from metazoo.errors import DataError, UsageError
from metazoo.taskspace.layer_squares import SampleGradients, kept_blocks


def diagonal_fisher(
    network: nn.Module,
    images: Tensor,
    labels: Tensor | str,
    *,
    chunk: int,
    generator: torch.Generator | None = None,
    batch_squared: bool = False,
    batch_statistics: bool = False,
    most_entries: int | None = None,
) -> dict[str, Float32[Tensor, "..."]]:
    """Compute the diagonal Fisher information of the trainable tensors of a classifier on one task.

    With given labels, this is the empirical Fisher: the mean over samples of the squared gradient of the cross-entropy
    of one sample. With `labels="sampled"`, it is a Monte Carlo estimate of the true Fisher, with labels drawn from the
    softmax of the network. The network is used in eval mode: batch norm uses its stored statistics, so the gradient of
    a sample does not depend on the other samples. Modes are restored afterwards, and `.grad` is not changed.

    Biases that a batch norm absorbs (see `absorbed_biases`) are left out. With stored statistics, their gradient is a
    constant multiple of the gradient of the batch norm's own shift. With batch statistics, it is rounding noise, which
    would count as much as any other tensor, since the similarity of two tasks ignores the scale of a tensor.

    Published (TGR, ICML 2024, official code) and available as `batch_squared=True`: the squared gradient of the *mean*
    loss of a batch of `chunk` samples, averaged over batches. This is not the Fisher (gradients of unlike samples
    cancel before they are squared) and depends on `chunk`. The published probe also stayed in train mode, so that its
    batch norm used the statistics of each batch: `batch_statistics=True`.

    Args:
        network: network that maps images to logits [n, classes].
        images: float [n, channels, side, side], n at least 1, normalised for the network, on its device.
        labels: int64 [n] in [0, classes), or "sampled".
        chunk: number of samples of one pass. Memory holds the outputs of all layers for that many samples. Unless
            `batch_squared`, the result depends on it by rounding only.
        generator: CPU generator for `labels="sampled"`; not used otherwise. Labels do not depend on `chunk`.
        batch_squared: square the gradient of the mean loss of a batch, as published.
        batch_statistics: use the statistics of each batch, as published; only with `batch_squared`. A last batch of one
            image is merged with the batch before it.
        most_entries: largest number of entries computed per tensor, see `kept_blocks`; None for all.

    Returns:
        Tensors, at least 0, for each trainable parameter except absorbed biases, by its name: a tensor of its
        shape, or its kept blocks, on its device.

    Raises:
        DataError: there are no images, the labels do not fit, or gradients are not finite.
        UsageError: `chunk` or `most_entries` is below 1, the generator is missing, no parameter is trainable, a batch
            norm stores no statistics, `batch_statistics` is used without `batch_squared`, or torch cannot compute the
            gradients of the network.
    """
    if batch_statistics and not batch_squared:
        raise UsageError("batch_statistics", "there are no gradients of single samples", "use batch_squared=True")
    parameters = {name: value.detach() for name, value in network.named_parameters() if value.requires_grad}
    _check(network, parameters, images, chunk, most_entries)
    with _mode(network, False):
        absorbed = {name: parameters.pop(name) for name in absorbed_biases(network, images[:1])}

    kept = {} if most_entries is None else kept_blocks(parameters, most_entries)

    def loss(values: dict[str, Tensor], batch: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(network, {**absorbed, **values}, (batch,)), targets)

    totals: dict[str, Tensor] = {}
    starts = list(range(0, len(images), chunk))
    if batch_statistics and len(starts) > 1 and starts[-1] == len(images) - 1:
        del starts[-1]
    with _mode(network, False):
        targets = _targets(network, images, labels, chunk, generator)
        samples = None if batch_squared else SampleGradients(network, {**parameters}, kept, images[:1])
    with _mode(network, batch_statistics):
        for start, end in zip(starts, [*starts[1:], len(images)], strict=True):
            part = slice(start, end)
            if batch_squared:
                gradients = grad(loss)(parameters, images[part], targets[part])
                for name, blocks in kept.items():
                    gradients[name] = blocks.of(gradients[name])
                squares = {name: gradient.square() for name, gradient in gradients.items()}
            else:
                assert samples is not None
                squares = samples.sum_of_squares(images[part], targets[part])
            for name, square in squares.items():
                totals[name] = totals[name] + square if name in totals else square.double()
    terms = len(starts) if batch_squared else len(images)
    fisher = {name: (totals[name] / terms).float() for name in parameters}
    for name, values in fisher.items():
        if not torch.isfinite(values).all():
            raise DataError(
                f"gradients of parameter {name!r} of the probe",
                "not finite on these images",
                "check the images and lower probe.learning_rate",
            )
    return fisher


def absorbed_biases(network: nn.Module, images: Tensor) -> set[str]:
    """Find the biases of convolutions and linear layers whose outputs only a batch norm uses.

    Args:
        network: a network; only biases that require a gradient are found.
        images: batch of images for the network.

    Returns:
        Names of the parameters.
    """
    outputs: dict[str, list[Any]] = {}
    normalised: set[Any] = set()
    uses: Counter[Any] = Counter()
    with torch.enable_grad(), ExitStack() as hooks:
        for path, layer in network.named_modules():
            if isinstance(layer, _BatchNorm):
                hook = layer.register_forward_pre_hook(lambda _, inputs: normalised.add(inputs[0].grad_fn))
                hooks.callback(hook.remove)
            elif isinstance(layer, _ConvNd | nn.Linear) and layer.bias is not None and layer.bias.requires_grad:
                found = outputs.setdefault(f"{path}.bias", [])

                def note(_: nn.Module, _inputs: Any, output: Any, found: list[Any] = found) -> None:
                    found.append(output.grad_fn)

                hooks.callback(layer.register_forward_hook(note).remove)
        waiting = [network(images).grad_fn]
    while waiting:
        for used, _ in waiting.pop().next_functions:
            uses[used] += 1
            if used is not None and uses[used] == 1:
                waiting.append(used)
    return {
        name
        for name, nodes in outputs.items()
        if nodes and all(node in normalised and uses[node] == 1 for node in nodes)
    }


def _check(
    network: nn.Module, parameters: dict[str, Tensor], images: Tensor, chunk: int, most_entries: int | None
) -> None:
    if chunk < 1 or (most_entries is not None and most_entries < 1):
        name, value = ("chunk", chunk) if chunk < 1 else ("most_entries", most_entries)
        raise UsageError(name, f"must be at least 1, not {value}")
    if not parameters:
        raise UsageError("probe", "no trainable parameter", "set requires_grad on those that embed the task")
    if images.ndim != 4 or len(images) == 0 or not images.is_floating_point():
        raise DataError(
            "images", f"must be float [n, C, S, S] with n at least 1, not {images.dtype} {list(images.shape)}"
        )
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise UsageError(
                f"batch norm {name!r} of the probe", "no stored statistics", "use track_running_stats=True"
            )


@torch.no_grad()
def _targets(
    network: nn.Module,
    images: Tensor,
    labels: Tensor | str,
    chunk: int,
    generator: torch.Generator | None,
) -> Tensor:
    if not isinstance(labels, str):
        classes = network(images[:1]).shape[1]
        if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
            raise DataError("labels", f"must be int64 [{len(images)}], not {labels.dtype} {list(labels.shape)}")
        if int(labels.min()) < 0 or int(labels.max()) >= classes:
            raise DataError("labels", f"must lie in [0, {classes})", "use a probe with the classes of this task")
        return labels.to(images.device)
    if labels != "sampled":
        raise UsageError("labels", f"must be a tensor or 'sampled', not {labels!r}")
    if generator is None:
        raise UsageError("generator", "missing for labels='sampled'", "pass a torch.Generator")
    uniform = torch.rand(len(images), 1, generator=generator, dtype=torch.float64)
    drawn = []
    for start in range(0, len(images), chunk):
        cumulative = network(images[start : start + chunk]).double().softmax(1).cumsum(1).cpu()
        drawn.append((uniform[start : start + chunk] >= cumulative[:, :-1]).sum(1))
    return torch.cat(drawn).to(images.device)


@contextmanager
def _mode(network: nn.Module, batch_statistics: bool) -> Iterator[None]:
    """Eval mode within the block; optionally with batch statistics in batch norm; the stored ones do not change."""
    modes = [(module, module.training) for module in network.modules()]
    batch_norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    tracking = [module.track_running_stats for module in batch_norms]
    network.eval()
    if batch_statistics:
        for module in batch_norms:
            module.training, module.track_running_stats = True, False
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for module, tracks in zip(batch_norms, tracking, strict=True):
            module.track_running_stats = tracks
