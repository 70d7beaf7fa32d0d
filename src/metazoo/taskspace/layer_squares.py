"""Squared gradients of single samples, for blocks of entries that represent a large tensor."""

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call, grad, vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from metazoo.errors import UsageError


@dataclass(frozen=True)
class Blocks:
    """`count` blocks of `height` x `width` along the diagonal of a tensor flattened to a matrix [rows, all others]."""

    count: int
    height: int
    width: int

    def of_rows(self, values: Float[Tensor, "n rows *rest"]) -> Float[Tensor, "n count height *rest"]:
        """Rows of every block."""
        return values[:, : self.count * self.height].unflatten(1, (self.count, self.height))

    def of_columns(self, values: Float[Tensor, "n columns *rest"]) -> Float[Tensor, "n count width *rest"]:
        """Columns of every block."""
        return values[:, : self.count * self.width].unflatten(1, (self.count, self.width))

    def of(self, values: Float[Tensor, "rows ..."]) -> Float[Tensor, "count height width"]:
        """Entries of the blocks of `values`."""
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
_GRADIENTS_AT_ONCE = 1 << 24
"""Numbers in the gradients of single samples that are in memory at once."""
_SHORT_ROW = 8
"""Output width from which copying rows is faster than gathering single numbers."""
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_NORMS = (*_BATCH_NORMS, nn.LayerNorm, nn.GroupNorm)


@final
class SampleGradients:
    """Squared gradients of the cross-entropy of single samples, summed over samples.

    Parameters of linear layers, 2-d convolutions and norms get them from one pass for all samples, by rules for
    these layers. All other parameters, and those of layers that are called several times, whose input changes
    in-place, or that do not keep the samples apart, get them from one gradient per sample, which is exact for every
    differentiable network and takes several times as long.

    Args:
        network: network that maps images to logits, each sample independently; it is not changed.
        parameters: detached parameters of `network`, by name.
        blocks: blocks to compute, by name of the parameter; all other parameters are computed completely.
        image: one image, float [1, channels, side, side], by which the layers with a rule are found.
    """

    def __init__(
        self, network: nn.Module, parameters: Mapping[str, Tensor], blocks: Mapping[str, Blocks], image: Tensor
    ) -> None:
        self._network, self._parameters, self._blocks = network, parameters, blocks
        self._layers = _layers_with_rules(network, parameters, image)
        ruled = {name for names in self._layers.values() for name in names.values()}
        self._other = {name: value for name, value in parameters.items() if name not in ruled}
        self._vectorised = True

    @property
    def without_rules(self) -> frozenset[str]:
        """Names of the parameters that need a gradient per sample."""
        return frozenset(self._other)

    def sum_of_squares(
        self, images: Float[Tensor, "n channels h w"], targets: Int64[Tensor, " n"]
    ) -> dict[str, Float[Tensor, "..."]]:
        """Compute the sums for `images` of the classes `targets`.

        Raises:
            UsageError: torch cannot compute the gradients of the network.
        """
        found = self._by_rules(images, targets) if self._layers else {}
        return found | (self._by_samples(images, targets) if self._other else {})

    def _by_rules(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        calls: dict[nn.Module, tuple[Tensor, GradientEdge]] = {}

        def remember(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # Taken now, since the next layer may change the output in-place.
            calls[layer] = (inputs[0].detach(), get_gradient_edge(output))

        with torch.enable_grad(), contextlib.ExitStack() as hooks:
            for layer in self._layers:
                hooks.callback(layer.register_forward_hook(remember).remove)
            # Without a gradient of the images, none would flow through the first layer.
            loss = self._loss(self._parameters, images.detach().requires_grad_(), targets)
            gradients = torch.autograd.grad(loss, [calls[layer][1] for layer in self._layers])
        squares: dict[str, Tensor] = {}
        for (layer, names), gradient in zip(self._layers.items(), gradients, strict=True):
            inputs = calls.pop(layer)[0]
            for own, name in names.items():
                if own == "weight" and not isinstance(layer, _NORMS):
                    squares[name] = self._product_squares(layer, inputs, gradient, name)
                    continue
                values = gradient if own == "bias" else gradient * _normalised(layer, inputs)
                values = _by_entry(layer, values) if isinstance(layer, nn.LayerNorm) else _rows(layer, values)
                found = values.sum(2).square().sum(0).view_as(self._parameters[name])
                squares[name] = self._blocks[name].of(found) if name in self._blocks else found
        return squares

    def _product_squares(self, layer: nn.Module, inputs: Tensor, gradient: Tensor, name: str) -> Tensor:
        """Sums for the weight of a linear layer or a convolution, which multiplies columns of its inputs."""
        rows, groups, blocks = _rows(layer, gradient), 1, self._blocks.get(name)
        if isinstance(layer, nn.Conv2d):
            columns, groups = _patches(layer, inputs, tuple(gradient.shape[2:])), layer.groups
        else:
            columns = _rows(layer, inputs)
        if blocks is not None and groups == 1:
            return _products_squared(blocks.of_rows(rows), blocks.of_columns(columns))
        found = _products_squared(rows.unflatten(1, (groups, -1)), columns.unflatten(1, (groups, -1)))
        found = found.view_as(self._parameters[name])
        return found if blocks is None else blocks.of(found)

    def _by_samples(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        at_once = max(1, _GRADIENTS_AT_ONCE // sum(value.numel() for value in self._other.values()))
        squares: dict[str, Tensor] = {}
        for some, same in zip(images.split(at_once), targets.split(at_once), strict=True):
            for gradients in self._gradients(some, same):
                for name, gradient in gradients.items():
                    square = gradient.square().sum(0)
                    square = self._blocks[name].of(square) if name in self._blocks else square
                    squares[name] = squares[name] + square if name in squares else square
        return squares

    def _gradients(self, images: Tensor, targets: Tensor) -> Iterator[dict[str, Tensor]]:
        """Gradients of some samples at once, with the samples as first dimension."""

        def loss(values: dict[str, Tensor], image: Tensor, target: Tensor) -> Tensor:
            return self._loss({**self._parameters, **values}, image.unsqueeze(0), target.unsqueeze(0))

        if self._vectorised:
            try:
                # torch has no vectorised form of other kinds of attention, and warns of operations that it repeats.
                with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="There is a performance drop")
                    yield vmap(grad(loss), in_dims=(None, 0, 0))(self._other, images, targets)
                    return
            except (RuntimeError, NotImplementedError, ValueError):
                self._vectorised = False  # some operation of the network cannot be vectorised
        for image, target in zip(images, targets, strict=True):
            with torch.enable_grad():
                values = {name: value.detach().requires_grad_() for name, value in self._other.items()}
                try:
                    found = torch.autograd.grad(
                        loss(values, image, target), list(values.values()), allow_unused=True, materialize_grads=True
                    )
                except RuntimeError as error:
                    reason = " ".join(str(error).split())[:200]
                    raise UsageError(
                        "probe", f"torch cannot compute its gradients ({reason})", "choose another probe.architecture"
                    ) from error
            yield {name: gradient.unsqueeze(0) for name, gradient in zip(values, found, strict=True)}

    def _loss(self, parameters: Mapping[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(
            functional_call(self._network, dict(parameters), (images,)), targets, reduction="sum"
        )


def _layers_with_rules(
    network: nn.Module, parameters: Mapping[str, Tensor], image: Tensor
) -> dict[nn.Module, dict[str, str]]:
    """Layers whose parameters have a rule, each with the full name of every parameter in `parameters`."""
    layers: dict[nn.Module, dict[str, str]] = {}
    for path, layer in network.named_modules():
        own = {name: f"{path}.{name}" if path else name for name in dict(layer.named_parameters(recurse=False))}
        wanted = {name: full for name, full in own.items() if full in parameters}
        if wanted and own.keys() <= {"weight", "bias"} and _has_rule(layer):
            layers[layer] = wanted
    # Of one image, a layer that folds parts of images or their order into the first dimension sees several; of two, one
    # that mixes the images sees a single one.
    for count in (1, 2):
        layers = _followed(network, parameters, layers, image.detach().expand(count, -1, -1, -1))
    return layers


def _followed(
    network: nn.Module, parameters: Mapping[str, Tensor], layers: Mapping[nn.Module, dict[str, str]], images: Tensor
) -> dict[nn.Module, dict[str, str]]:
    """Those of `layers` that `network` calls once, with one input whose first dimension are the images."""
    calls: dict[nn.Module, list[tuple[Any, int, bool]]] = {}

    def remember(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        is_plain = len(inputs) == 1 and output.requires_grad
        calls.setdefault(layer, []).append((*inputs, inputs[0]._version, True) if is_plain else (None, 0, False))

    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    with torch.enable_grad(), contextlib.ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.register_forward_hook(remember).remove)
        logits = functional_call(network, leaves, (images.clone().requires_grad_(),))
        uses = _uses(logits, leaves)

    def is_followed(layer: nn.Module, names: Mapping[str, str]) -> bool:
        found = calls.get(layer, [])
        if len(found) != 1 or any(uses[name] != 1 for name in names.values()):
            return False
        inputs, version, is_plain = found[0]
        return is_plain and inputs._version == version and inputs.ndim > 1 and len(inputs) == len(images)

    return {layer: names for layer, names in layers.items() if is_followed(layer, names)}


def _uses(outputs: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, int]:
    """Number of uses of every leaf on the way to `outputs`."""
    counts: Counter[Any] = Counter()
    waiting, seen = [outputs.grad_fn], {outputs.grad_fn}
    while waiting:
        node = waiting.pop()
        for used, _ in node.next_functions if node is not None else ():
            counts[getattr(used, "variable", None)] += 1
            if used is not None and used not in seen:
                seen.add(used)
                waiting.append(used)
    return {name: counts[leaf] for name, leaf in leaves.items()}


def _has_rule(layer: nn.Module) -> bool:
    # Exact types, since a subclass may compute anything, such as a batch norm with an activation.
    return type(layer) in (nn.Conv2d, nn.Linear, *_NORMS)


def _rows(layer: nn.Module, values: Tensor) -> Tensor:
    """Reshape outputs or their gradients to [n, channels, positions]."""
    if isinstance(layer, nn.Linear):
        return values.unsqueeze(1).flatten(1, -2).mT
    return values.unsqueeze(-1).flatten(2)


def _by_entry(layer: nn.LayerNorm, values: Tensor) -> Tensor:
    """Reshape outputs of a layer norm or their gradients to [n, entries, positions]."""
    return values.flatten(-len(layer.normalized_shape)).unsqueeze(1).flatten(1, -2).mT


def _patches(layer: nn.Conv2d, inputs: Tensor, out: tuple[int, ...]) -> Tensor:
    """Faster `functional.unfold` to [n, channels x kernel entries, positions] for output positions `out`."""
    down, right = layer.dilation
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = functional.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode).contiguous()
    height, width = padded.shape[2:]
    sizes = (*layer.kernel_size, *out)
    strides = (down * width, right, layer.stride[0] * width, layer.stride[1])
    if out[1] < _SHORT_ROW:
        indices = torch.arange(height * width, device=inputs.device).as_strided(sizes, strides).flatten()
        patches = padded.view(*padded.shape[:2], -1).index_select(2, indices)
    else:
        patches = padded.as_strided((*padded.shape[:2], *sizes), (*padded.stride()[:2], *strides))
    return patches.reshape(len(inputs), -1, out[0] * out[1])


def _normalised(layer: nn.Module, inputs: Tensor) -> Tensor:
    if isinstance(layer, nn.LayerNorm):
        return functional.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
    if isinstance(layer, nn.GroupNorm):
        return functional.group_norm(inputs, layer.num_groups, eps=layer.eps)
    assert isinstance(layer, _BATCH_NORMS)
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
