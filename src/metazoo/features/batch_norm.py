"""Which statistics batch normalisation uses while a model meets a new task.

`running` uses the stored statistics. `support` uses those of the support batch, for support and query alike, so that a
prediction depends on no other query (inductive). `query` normalises every batch, so also the queries, by its own
statistics, which is the protocol of the data-free meta-learning papers (transductive).

Whatever is changed on a module lasts as long as a context manager; afterwards, also after an exception, every module
has the training flag, the buffers (the very tensors) and the hooks it had. Modules without batch normalisation only go
to evaluation mode meanwhile.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from metazoo.choices import BATCH_NORM_MODES, BatchNormMode
from metazoo.errors import UsageError
from metazoo.features.embedders import Embedder

Statistics = dict[_BatchNorm, tuple[Tensor, Tensor]]


def batch_norm_mode(name: str) -> BatchNormMode:
    """Check the name of a mode.

    Raises:
        UsageError: there is no such mode.
    """
    if name not in BATCH_NORM_MODES:
        raise UsageError(f"unknown batch-norm mode {name!r}; choose one of {', '.join(BATCH_NORM_MODES)}")
    return cast(BatchNormMode, name)


def has_batch_norm(module: Embedder) -> bool:
    """Whether the mode makes a difference for this module."""
    return bool(_layers(module))


@contextlib.contextmanager
def stored_statistics(module: Embedder) -> Iterator[None]:
    """Evaluation mode: batch normalisation by the stored statistics.

    Raises:
        UsageError: a layer of batch normalisation stores none.
    """
    if any(layer.running_mean is None for layer in _layers(module)):
        raise UsageError("this model stores no batch-norm statistics; choose batch norm support or query")
    with _evaluating(module):
        yield


@contextlib.contextmanager
def batch_statistics(module: Embedder) -> Iterator[None]:
    """Every batch is normalised by its own statistics (gradients flow through them); stored ones are left alone.

    All else, such as dropout, is in evaluation mode.

    Raises:
        UsageError: in a forward pass whose batch holds a single value a channel.
    """
    layers = _layers(module)
    tracking = [(layer, layer.track_running_stats) for layer in layers]
    with _evaluating(module), contextlib.ExitStack() as hooks:
        try:
            for layer in layers:
                hooks.callback(layer.register_forward_pre_hook(_require_a_spread).remove)
                layer.training = True
                layer.track_running_stats = False
            yield
        finally:
            for layer, tracked in tracking:
                layer.track_running_stats = tracked


@contextlib.contextmanager
def support_statistics(module: Embedder, support_images: Tensor) -> Iterator[None]:
    """Evaluation mode with the statistics of `support_images` (float [n, 3, h, w] in [0, 1]) in place of the stored.

    Raises:
        UsageError: as `batch_statistics`.
    """
    measured = measure_statistics(module, support_images)
    stored = [(layer, layer.running_mean, layer.running_var) for layer in measured]
    with _evaluating(module):
        try:
            _store(measured)
            yield
        finally:
            for layer, mean, variance in stored:
                layer.running_mean, layer.running_var = mean, variance


def store_statistics(module: Embedder, support_images: Tensor) -> None:
    """Replace the stored statistics for good by those of `support_images`: a copy so treated is used as `running`."""
    _store(measure_statistics(module, support_images))


def measure_statistics(module: Embedder, images: Tensor) -> Statistics:
    """Mean and biased variance, each [channels], of every batch-norm layer's input over one batch of `images`.

    The variance is that which normalises the batch itself, so a support image has the same features in the support
    batch and as a query later. Layers that the features do not pass are absent; of a layer used twice the last use
    counts.
    """
    statistics: Statistics = {}

    def record(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        values: Tensor = inputs[0].detach()
        variance, mean = torch.var_mean(values, dim=[0, *range(2, values.dim())], correction=0)
        statistics[cast(_BatchNorm, layer)] = (mean, variance)

    with torch.no_grad(), batch_statistics(module), contextlib.ExitStack() as hooks:
        for layer in _layers(module):
            hooks.callback(layer.register_forward_pre_hook(record).remove)
        module.features(images)
    return statistics


def calibrate_statistics(module: Embedder, batches: Sequence[Tensor]) -> None:
    """Replace the stored statistics for good by those over several batches of images (float in [0, 1], any sizes).

    Every batch is normalised by its own statistics, as in training; means and variances are then those of all batches
    together (the variance of the batches' means is added to the mean of their variances).
    """
    measured = [measure_statistics(module, images) for images in batches]
    weights = torch.tensor([float(len(images)) for images in batches])
    weights /= weights.sum()
    pooled: Statistics = {}
    for layer in measured[0]:
        means = torch.stack([statistics[layer][0] for statistics in measured])
        variances = torch.stack([statistics[layer][1] for statistics in measured])
        share = weights.to(means)[:, None]
        mean = (share * means).sum(0)
        pooled[layer] = (mean, (share * (variances + (means - mean).square())).sum(0))
    _store(pooled)


def _store(statistics: Statistics) -> None:
    for layer, (mean, variance) in statistics.items():
        layer.running_mean, layer.running_var = mean, variance


def _layers(module: Embedder) -> list[_BatchNorm]:
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


@contextlib.contextmanager
def _evaluating(module: Embedder) -> Iterator[None]:
    flags = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in flags:
            part.training = False
        yield
    finally:
        for part, training in flags:
            part.training = training


def _require_a_spread(_: nn.Module, inputs: tuple[Any, ...]) -> None:
    values: Tensor = inputs[0]
    if values.numel() // values.shape[1] < 2:
        raise UsageError(
            "a single value a channel has no batch statistics; give more images, or choose batch norm running"
        )
