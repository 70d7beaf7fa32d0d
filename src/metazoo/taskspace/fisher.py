"""Task embeddings: the diagonal of a probe's Fisher information on the images of one task.

A task is what one teacher solves; its embedding says which of the probe's weights matter for it (Achille et al. 2019,
"Task2Vec"; TGR, ICML 2024, uses the same embedding to compare teachers).
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from metazoo.errors import DataError, UsageError
from metazoo.taskspace.layer_squares import kept_blocks, sum_of_squared_gradients


def diagonal_fisher(
    network: nn.Module,
    images: Tensor,
    labels: Tensor | Literal["sampled"],
    *,
    chunk: int,
    generator: torch.Generator | None = None,
    batch_squared: bool = False,
    batch_statistics: bool = False,
    most_entries: int | None = None,
) -> dict[str, Tensor]:
    """Diagonal of the Fisher information of the trainable tensors of `network`, a classifier, on one task.

    With labels given: the empirical Fisher, the mean over the samples of the squared gradient of one sample's
    cross-entropy. With `labels="sampled"`: a Monte-Carlo draw of the true Fisher, the labels being drawn from the
    network's own softmax. The network is used in eval mode, so batch norm takes its stored statistics and a sample's
    gradient does not depend on its neighbours; its modes are put back, and no `.grad` is touched.

    Biases that a batch norm absorbs (see `absorbed_biases`) are left out. By stored statistics their gradient is that
    of the batch norm's own shift, times a constant; by statistics of a batch it is rounding noise, of which the
    similarity of two tasks, which ignores the scale of a tensor, would make as much as of any other tensor.

    Published (TGR, ICML 2024, official code), kept as `batch_squared=True`: the squared gradient of the *mean* loss of
    a batch of `chunk` samples, averaged over batches. It is not the Fisher (gradients of unlike samples cancel before
    they are squared) and depends on `chunk`. The published probe also stayed in train mode, so that its batch norm
    normalised every batch by itself, which is `batch_statistics=True`.

    Args:
        network: maps images to logits [n, classes].
        images: float [n, channels, side, side], n at least 1, normalised as the network wants them, on its device.
        labels: int64 [n] in [0, classes), or "sampled".
        chunk: samples that pass at once (memory: what the layers of that many samples put out); it changes the result
            by rounding only, unless `batch_squared`.
        generator: on the CPU; needed for, and only used by, `labels="sampled"`. Labels do not depend on `chunk`.
        batch_squared: the published quirk above.
        batch_statistics: the other one, for `batch_squared` alone; a last batch of one image joins that before it.
        most_entries: of a tensor with more entries, at most so many are computed, see `kept_blocks`.

    Returns:
        For each trainable parameter except absorbed biases, by its name: a tensor of its shape, or the blocks of it
        that are kept; float32 and at least 0, on its device.

    Raises:
        DataError: no images, labels that do not fit, or gradients that are not finite.
        UsageError: `chunk` or `most_entries` below 1, no generator to draw labels, no trainable parameter, a batch norm
            without stored statistics, or, unless `batch_squared`, `batch_statistics` or as `sum_of_squared_gradients`.
    """
    if batch_statistics and not batch_squared:
        raise UsageError("statistics of a batch leave no sample a gradient of its own; use them with batch_squared")
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
    with _mode(network, batch_statistics):
        for start, end in zip(starts, [*starts[1:], len(images)], strict=True):
            part = slice(start, end)
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


def absorbed_biases(network: nn.Module, images: Tensor) -> set[str]:
    """Find the biases of convolutions and linear layers whose outputs are used as input of a batch norm only.

    Args:
        network: a network; only biases that require a gradient are found.
        images: a batch that it accepts.

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
        raise UsageError(f"chunk and most_entries must be at least 1, not {chunk} and {most_entries}")
    if not parameters:
        raise UsageError("the probe has no trainable parameter; set requires_grad on those that embed the task")
    if images.ndim != 4 or len(images) == 0 or not images.is_floating_point():
        raise DataError(f"a task embedding needs float images [n, C, S, S] with n at least 1, not {list(images.shape)}")
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
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
def _mode(network: nn.Module, batch_statistics: bool) -> Iterator[None]:
    """Eval mode for a while; batch norm may normalise each batch by itself, its stored statistics left as they are."""
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
