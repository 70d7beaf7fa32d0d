"""Batch-norm modes: the statistics that batch normalisation uses on a new task.

`running` uses the stored statistics. `support` uses the statistics of the support batch, for support and queries, so
that a prediction depends on no other query (inductive). `query` normalises every batch, also of queries, by its own
statistics (transductive), which is the protocol of the data-free meta-learning papers.

Context managers change a module for their duration only. Afterwards, also after an exception, every module has its
former training flag, buffers (the same tensors) and hooks. Modules without batch normalisation are only put in
evaluation mode.
"""

import contextlib
from collections.abc import Iterable, Iterator
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
        raise UsageError("batch norm", f"unknown mode {name!r}", f"choose one of {', '.join(BATCH_NORM_MODES)}")
    return cast(BatchNormMode, name)


def has_batch_norm(module: Embedder) -> bool:
    """Whether a module has batch normalisation, so that the mode matters."""
    return bool(_layers(module))


@contextlib.contextmanager
def stored_statistics(module: Embedder) -> Iterator[None]:
    """Evaluation mode, with batch normalisation by the stored statistics.

    Raises:
        UsageError: a batch-norm layer stores no statistics.
    """
    if any(layer.running_mean is None for layer in _layers(module)):
        raise UsageError("model", "no stored batch-norm statistics", "choose batch norm support or query")
    with _evaluating(module):
        yield


@contextlib.contextmanager
def batch_statistics(module: Embedder) -> Iterator[None]:
    """Evaluation mode, except that each batch is normalised by its own statistics, through which gradients flow.

    Stored statistics do not change.

    Raises:
        UsageError: a forward pass has a single value per channel.
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
    """Evaluation mode, with the statistics of support images instead of the stored ones.

    Args:
        module: module to change.
        support_images: images, float [n, 3, h, w] in [0, 1].

    Raises:
        UsageError: the support has a single value per channel.
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
    """Replace the stored statistics permanently by those of `support_images`, for later use in mode `running`."""
    _store(measure_statistics(module, support_images))


def measure_statistics(module: Embedder, images: Tensor) -> Statistics:
    """Mean and biased variance, each [channels], of the input of every batch-norm layer over one batch of images.

    The biased variance normalises the batch itself, so a support image has the same features in the support batch and
    as a query later. Layers that features do not depend on are absent. The last use of a layer counts.
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


def calibrate_statistics(module: Embedder, batches: Iterable[Tensor]) -> None:
    """Replace the stored statistics permanently by statistics over several batches of images.

    Every batch is normalised by its own statistics, as in training. The stored means and variances are those over all
    batches: the variance of the batches' means is added to the mean of their variances.

    Args:
        module: module to change; without batch norm, nothing is done.
        batches: batches of images, float in [0, 1], of any sizes; at least one.
    """
    if not has_batch_norm(module):
        return
    counts, measured = [], []
    for images in batches:
        counts.append(float(len(images)))
        measured.append(measure_statistics(module, images))
    weights = torch.tensor(counts)
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
            "batch norm",
            "a single value per channel has no statistics",
            "give more images or choose batch norm running",
        )
