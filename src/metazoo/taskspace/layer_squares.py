"""Squared gradients of single samples, for blocks of entries that represent a large tensor."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from metazoo.errors import UsageError


@dataclass(frozen=True)
class Blocks:
    """`count` blocks of `height` x `width` along the diagonal of a tensor flattened to a matrix [rows, all others]."""

    count: int
    height: int
    width: int

    def of_rows(self, values: Tensor) -> Tensor:
        """Rows of every block: `values` [n, rows, ...] as [n, count, height, ...]."""
        return values[:, : self.count * self.height].unflatten(1, (self.count, self.height))

    def of_columns(self, values: Tensor) -> Tensor:
        """Columns of every block: `values` [n, columns, ...] as [n, count, width, ...]."""
        return values[:, : self.count * self.width].unflatten(1, (self.count, self.width))

    def of(self, values: Tensor) -> Tensor:
        """Entries of the blocks of `values`, [count, height, width]."""
        rows = self.of_rows(values.flatten(1).unsqueeze(0))[0]
        return torch.stack([self.of_columns(part)[:, number] for number, part in enumerate(rows)])


def kept_blocks(tensors: Mapping[str, Tensor], most: int) -> dict[str, Blocks]:
    """Choose blocks with at most `most` entries in total for each tensor of two or more dimensions that has more.

    Every row and every column is covered equally, up to a remainder of the division. The Fisher of a layer is nearly a
    product of one number per row and one per column, so a single block of the same size, which covers few of them,
    represents the tensor much less well.
    """
    kept: dict[str, Blocks] = {}
    for name, tensor in tensors.items():
        if tensor.dim() > 1 and tensor.numel() > most:
            rows, columns = tensor.flatten(1).shape
            count = min(-(-rows * columns // most), rows, columns, most)
            height = min(rows, most) // count
            kept[name] = Blocks(count, height, min(columns // count, most // (count * height)))
    return kept


_NUMBERS_AT_ONCE = 1 << 18
_SHORT_ROW = 8
"""Output width from which copying rows is faster than gathering single numbers."""


def sum_of_squared_gradients(
    network: nn.Module,
    parameters: Mapping[str, Tensor],
    images: Tensor,
    targets: Tensor,
    blocks: Mapping[str, Blocks],
) -> dict[str, Tensor]:
    """Sum over samples of the squared gradient of one sample's cross-entropy.

    Args:
        network: network that maps images to logits, each sample independently; it is not changed.
        parameters: detached parameters of `network`, by name. Each belongs to one layer that is called once: a linear
            layer, batch norm with stored statistics, or a convolution of one group with zero padding.
        images: float [n, channels, side, side].
        targets: int64 [n].
        blocks: blocks to compute, by name of the parameter; all other parameters are computed completely.

    Raises:
        UsageError: a parameter belongs to a layer of another type, to two layers, or to one that is not called once.
    """
    calls: dict[nn.Module, list[tuple[Tensor, int, GradientEdge]]] = {}

    def remember(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # Taken now, since the next layer may change the output in-place.
        calls.setdefault(layer, []).append((inputs[0], inputs[0]._version, get_gradient_edge(output)))

    layers = _layers(network, parameters)
    with torch.enable_grad(), contextlib.ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.register_forward_hook(remember).remove)
        # Without a gradient of the images, none would flow through the first layer.
        logits = functional_call(network, dict(parameters), (images.detach().requires_grad_(),))
        loss = functional.cross_entropy(logits, targets, reduction="sum")
        for layer, names in layers.items():
            found = calls.get(layer, [])
            if len(found) != 1 or found[0][0]._version != found[0][1]:
                raise UsageError(
                    f"layer of {next(iter(names.values()))!r}",
                    "not called exactly once, or its input is changed in-place",
                    "freeze the layer, or choose another probe.architecture",
                )
        gradients = torch.autograd.grad(loss, [calls[layer][0][2] for layer in layers])
    squares: dict[str, Tensor] = {}
    for (layer, names), gradient in zip(layers.items(), gradients, strict=True):
        inputs = calls.pop(layer)[0][0].detach()
        if "bias" in names:
            squares[names["bias"]] = _channels_first(layer, gradient).sum(2).square().sum(0)
        if "weight" in names:
            squares[names["weight"]] = _weight_squares(layer, inputs, gradient, blocks.get(names["weight"]))
    return squares


def _layers(network: nn.Module, parameters: Mapping[str, Tensor]) -> dict[nn.Module, dict[str, str]]:
    """Layers that own `parameters`, each with the full name of every own parameter."""
    if len(dict(network.named_parameters(remove_duplicate=False))) > len(dict(network.named_parameters())):
        raise UsageError("probe", "two layers share a parameter", "choose another probe.architecture")
    layers: dict[nn.Module, dict[str, str]] = {}
    for path, layer in network.named_modules():
        for own in dict(layer.named_parameters(recurse=False)):
            name = f"{path}.{own}" if path else own
            if name in parameters:
                layers.setdefault(layer, {})[own] = name
                if not _is_supported(layer):
                    raise UsageError(
                        f"parameter {name!r} of the probe",
                        f"no Fisher for layers of type {type(layer).__name__}",
                        "freeze the layer, or choose another probe.architecture",
                    )
    return layers


def _is_supported(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) is nn.Linear or isinstance(layer, _BatchNorm)


def _channels_first(layer: nn.Module, values: Tensor) -> Tensor:
    """Reshape outputs or their gradients to [n, channels, positions]."""
    if isinstance(layer, nn.Linear):
        return values.unsqueeze(1).flatten(1, -2).mT
    return values.unsqueeze(-1).flatten(2)


def _weight_squares(layer: nn.Module, inputs: Tensor, gradient: Tensor, blocks: Blocks | None) -> Tensor:
    rows = _channels_first(layer, gradient)
    if isinstance(layer, _BatchNorm):
        return (rows * _channels_first(layer, _normalised(layer, inputs))).sum(2).square().sum(0)
    if isinstance(layer, nn.Conv2d):
        columns = _patches(layer, inputs, tuple(gradient.shape[2:]))
        shape = (layer.out_channels, layer.in_channels, *layer.kernel_size)
    else:
        columns = _channels_first(layer, inputs)
        shape = (rows.shape[1], columns.shape[1])
    if blocks is None:
        return _products_squared(rows.unsqueeze(1), columns.unsqueeze(1)).view(shape)
    return _products_squared(blocks.of_rows(rows), blocks.of_columns(columns))


def _patches(layer: nn.Conv2d, inputs: Tensor, out: tuple[int, ...]) -> Tensor:
    """Faster `functional.unfold` to [n, channels x kernel entries, positions] for output positions `out`."""
    assert not isinstance(layer.padding, str)
    (rows, columns), (down, right) = layer.padding, layer.dilation
    padded = functional.pad(inputs, (columns, columns, rows, rows)).contiguous()
    height, width = padded.shape[2:]
    sizes = (*layer.kernel_size, *out)
    strides = (down * width, right, layer.stride[0] * width, layer.stride[1])
    if out[1] < _SHORT_ROW:
        indices = torch.arange(height * width, device=inputs.device).as_strided(sizes, strides).flatten()
        return padded.view(-1, height * width).index_select(1, indices).view(len(inputs), -1, out[0] * out[1])
    patches = padded.as_strided((*padded.shape[:2], *sizes), (*padded.stride()[:2], *strides))
    return patches.reshape(len(inputs), -1, out[0] * out[1])


def _normalised(layer: _BatchNorm, inputs: Tensor) -> Tensor:
    return functional.batch_norm(inputs, layer.running_mean, layer.running_var, eps=layer.eps)


def _products_squared(rows: Tensor, columns: Tensor) -> Tensor:
    """Compute `sum_n (sum_p rows[n, b, i, p] columns[n, b, j, p])^2`, [b, i, j]."""
    if rows.shape[3] == 1:
        return rows.square().permute(1, 2, 0, 3).flatten(2) @ columns.square().permute(1, 0, 2, 3).flatten(2)
    total = rows.new_zeros(*rows.shape[1:3], columns.shape[2])
    samples = max(1, _NUMBERS_AT_ONCE // total.numel())
    for some, same in zip(rows.split(samples), columns.split(samples), strict=True):
        total += (some @ same.mT).square_().sum(0)
    return total
