"""Permutations of channels that do not change a network, derived from one forward pass.

The channels of a hidden layer have no order: if they are permuted together with everything that is attached to them,
the network computes the same function. The pass below runs the network on *labels* instead of images: every value of an
activation is the number of the channel that it belongs to. Layers with weights give their outputs new labels and note
which labels meet which dimension of their weights; operations that move values move the labels; sums and products
unite the labels of their operands, as the additions of a residual network do. Channels are interchangeable if their
labels meet the same dimensions of weights and the same operations in the same arrangement.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from metazoo.errors import MetazooError, UsageError
from metazoo.fusion.average import HEAD, distinct_tensors
from metazoo.models import ImageClassifier, Network

Axis = tuple[str, int]
"""Name of a tensor of a network, and number of one of its dimensions."""


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Interchangeable channels.

    Attributes:
        size: number of channels.
        axes: indices that belong to each channel, int64 [size, per channel], by the dimension of a tensor. A channel
            that is flattened before a linear layer has one index for each position of the image.
    """

    size: int
    axes: Mapping[Axis, Tensor]


def channel_groups(classifier: ImageClassifier) -> list[ChannelGroup]:
    """Groups of interchangeable channels of the features of a classifier, in the order of the forward pass.

    Every tensor of the features but numbers of batches occurs in the groups, unless its channels cannot be exchanged.

    Raises:
        UsageError: the network uses an operation or a weight whose effect on channels is not known.
    """
    network, spec = classifier.network, classifier.spec
    trace = _Trace(network, spec.architecture)
    side = spec.input_size
    images = trace.new(spec.channels).view(1, -1, 1, 1).expand(1, -1, side, side).as_subclass(_Labels)
    modes = [(part, part.training) for part in network.modules()]
    network.eval()
    try:
        with torch.no_grad(), trace:
            network.features(images)
    except MetazooError:
        raise
    except Exception as error:  # foreign code raises any error
        raise trace.refusal(f"cannot be traced ({' '.join(str(error).split())[:200]})") from error
    finally:
        for part, mode in modes:
            part.training = mode
    for name, _ in network.named_parameters():
        # The rest of a compiled part would be averaged without an alignment.
        if not name.startswith(HEAD) and not trace.knows(name):
            raise trace.refusal(f"has a weight {name!r} that is used in no known way")
    return trace.groups(fixed=spec.channels)


def permuted(
    tensors: Mapping[str, Tensor], groups: Sequence[ChannelGroup], permutations: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Tensors of the same function with other orders of the channels.

    Args:
        tensors: tensors of a network by name.
        groups: groups of interchangeable channels of this network.
        permutations: former number of every channel of each group, int64 [size].
    """
    result = dict(tensors)
    for group, order in zip(groups, permutations, strict=True):
        for (name, dimension), indices in group.axes.items():
            source = torch.arange(result[name].shape[dimension])
            source[indices] = indices[order]
            result[name] = result[name].index_select(dimension, source)
    return result


class _Labels(Tensor):
    """Activation whose values are labels of channels."""


# Operations that only move values, and operations on single values.
_MOVES = {
    "chunk", "split", "cat", "concat", "stack", "reshape", "view", "flatten", "unflatten", "transpose",
    "permute", "movedim", "swapaxes", "squeeze", "unsqueeze", "getitem", "narrow", "select", "index_select",
    "expand", "expand_as", "get",
}  # fmt: skip
_SINGLE = {
    "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "silu", "gelu", "mish", "sigmoid", "hardsigmoid",
    "hardswish", "hardtanh", "softplus", "tanh", "clamp", "clamp_min", "clamp_max", "neg", "exp", "sqrt",
    "square", "abs", "pow", "dropout", "dropout2d", "alpha_dropout", "contiguous", "clone", "detach", "to",
    "float",
}  # fmt: skip
_PAIRED = {
    "add", "iadd", "radd", "sub", "isub", "rsub", "mul", "imul", "rmul", "div", "truediv", "itruediv",
    "maximum", "minimum",
}  # fmt: skip
_POOLS = {"max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "interpolate"}
_REDUCTIONS = {"mean", "sum", "amax", "amin"}
# Reading shapes does not involve channels.
_QUERIES = {"size", "dim", "ndimension", "numel", "len", "is_floating_point", "stride", "is_contiguous", "element_size"}


class _Trace(TorchFunctionMode):
    def __init__(self, network: Network, architecture: str) -> None:
        super().__init__()
        self._names = {id(tensor): name for name, tensor in distinct_tensors(network).items()}
        self._architecture = architecture
        self._parents: list[int] = []
        self._axes: dict[Axis, list[int]] = {}
        self._arrangements: list[Tensor] = []
        self._rules: dict[str, Callable[..., Tensor]] = {
            "conv2d": self._conv2d,
            "linear": self._linear,
            "batch_norm": self._batch_norm,
            "layer_norm": self._layer_norm,
            "pad": self._pad,
        }

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        labels = [*_labels_in((args, [*kwargs.values()]))]
        name = func.__name__.strip("_")
        if not labels or name in _QUERIES:
            return func(*args, **kwargs)
        self._arrangements += [_distinct(each)[0] for each in labels]
        if name in _MOVES:
            moved = func(*args, **kwargs)
            return _expanded(moved) if isinstance(moved, Tensor) else moved
        if name in _SINGLE:
            return self._with_one(labels, name, args, kwargs)
        if name in _PAIRED:
            return self._paired(labels, name, args, kwargs)
        if name in _POOLS:
            return self._pooled(func, labels[0], *args[1:], **kwargs)
        if name in _REDUCTIONS:
            return self._reduced(func, labels[0], args, kwargs)
        if name not in self._rules:
            raise self.refusal(f"uses the operation {name!r}")
        return self._rules[name](*args, **kwargs)

    def new(self, count: int) -> Tensor:
        """New labels [count]."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return torch.arange(first, first + count)

    def refusal(self, problem: str) -> UsageError:
        """Error for a network with this problem."""
        return UsageError(
            self._architecture,
            f"{problem}, so that its channels cannot be aligned",
            "choose the method average, or models of another architecture",
        )

    def knows(self, name: str) -> bool:
        """Whether a layer with the weight of this name has been called."""
        return any(axis[0] == name for axis in self._axes)

    def groups(self, fixed: int) -> list[ChannelGroup]:
        """Groups of the labels, except the first `fixed` ones, that occur in tensors."""
        found: dict[int, dict[Axis, list[int]]] = defaultdict(lambda: defaultdict(list))
        # Labels of one root are distinguished by the order in which they first occur.
        numbers: dict[int, dict[int, int]] = defaultdict(dict)
        patterns: dict[int, list[tuple[Axis | int, int]]] = defaultdict(list)
        arranged = ((number, labels.flatten().tolist()) for number, labels in enumerate(self._arrangements))
        for source, labels in itertools.chain(self._axes.items(), arranged):
            for index, label in enumerate(labels):
                root = self._root(label)
                patterns[root].append((source, numbers[root].setdefault(label, len(numbers[root]))))
                if isinstance(source, tuple):
                    found[root][source].append(index)
        pinned = {self._root(label) for label in range(fixed)}
        alike: dict[object, list[int]] = {}
        for root in sorted(found):
            alike.setdefault(root if root in pinned else tuple(patterns[root]), []).append(root)
        return [
            ChannelGroup(len(roots), {axis: torch.tensor([found[r][axis] for r in roots]) for axis in found[roots[0]]})
            for roots in alike.values()
            if len(roots) > 1
        ]

    # Rules of operations by their names.

    def _conv2d(
        self,
        input: Tensor,  # noqa: A002 - the name of torch
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        found = self._by_channel(input, 1)
        if groups == 1:
            self._note_axis(weight, 1, found)
            outputs = self.new(len(weight))
        elif weight.shape[1] == 1:
            outputs = found.repeat_interleave(len(weight) // groups)
        else:
            raise self.refusal("has convolutions in groups of several channels")
        self._note_axis(weight, 0, outputs)
        self._note_axis(bias, 0, outputs)
        kernel = torch.zeros(1, 1, *weight.shape[2:])
        shape = functional.conv2d(_plain(input), kernel, None, stride, padding, dilation).shape
        return _spread(outputs, shape)

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002
        self._note_axis(weight, 1, self._by_channel(input, -1))
        outputs = self.new(len(weight))
        self._note_axis(weight, 0, outputs)
        self._note_axis(bias, 0, outputs)
        return outputs.expand(*input.shape[:-1], -1).as_subclass(_Labels)

    def _batch_norm(self, input: Tensor, *tensors: Any, **named: Any) -> Tensor:  # noqa: A002
        found = self._by_channel(input, 1)
        for tensor in (*tensors, *named.values()):
            if isinstance(tensor, Tensor):
                self._note_axis(tensor, 0, found)
        return input

    def _layer_norm(
        self,
        input: Tensor,  # noqa: A002
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 0.0,
    ) -> Tensor:
        if len(normalized_shape) != 1:
            raise self.refusal("has a layer norm over positions")
        found = self._by_channel(input, -1)
        self._note_axis(weight, 0, found)
        self._note_axis(bias, 0, found)
        return input

    def _pad(self, input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:  # noqa: A002
        shape = functional.pad(_plain(input), tuple(pad)[:4], value=0.0).shape
        if input.ndim != 4 or len(pad) > 6 or (len(pad) > 4 and (mode != "constant" or value)):
            raise self.refusal("pads in an unusual way")
        before, after = [*pad[4:], 0, 0][:2]
        parts = (self.new(before), self._by_channel(input, 1), self.new(after))
        return _spread(torch.cat(parts), shape)

    def _with_one(self, labels: Sequence[Tensor], name: str, args: Any, kwargs: Any) -> Tensor:
        if len(labels) > 1 or any(each.numel() > 1 for each in _others((args, [*kwargs.values()]))):
            raise self.refusal(f"uses the operation {name!r} with several tensors")
        return labels[0]

    def _paired(self, labels: Sequence[Tensor], name: str, args: Any, kwargs: Any) -> Tensor:
        if len(labels) == 1:
            return self._with_one(labels, name, args, kwargs)
        first, second = torch.broadcast_tensors(*labels)
        self._unite(first, second)
        return first

    def _pooled(self, func: Callable[..., Any], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: A002
        if input.ndim != 4:
            raise self.refusal("pools values that are no images")
        return _spread(self._by_channel(input, 1), func(_plain(input), *args, **kwargs).shape)

    def _reduced(self, func: Callable[..., Any], input: Tensor, args: Any, kwargs: Any) -> Tensor:  # noqa: A002
        dimensions = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if dimensions is None:
            raise self.refusal(f"uses the operation {func.__name__!r} over whole images")
        keep = bool(kwargs.get("keepdim", args[2] if len(args) > 2 else False))
        least = input.amin(dimensions, keepdim=True)
        self._unite(input, least.expand_as(input))
        return least if keep else input.amin(dimensions)

    # Labels.

    def _by_channel(self, values: Tensor, dimension: int) -> Tensor:
        """Labels of the channels in a dimension, after uniting those of all other dimensions."""
        rows = _distinct(values)[0].movedim(dimension, -1).flatten(0, -2)
        self._unite(rows, rows[:1].expand_as(rows))
        return rows[0]

    def _unite(self, first: Tensor, second: Tensor) -> None:
        one, other = _distinct(first, second)
        differs = one != other
        if bool(differs.any()):
            self._arrangements += [one, other]
            for pair in torch.stack([one[differs], other[differs]]).unique(dim=1).T.tolist():
                low, high = sorted(map(self._root, pair))
                self._parents[high] = low

    def _root(self, label: int) -> int:
        while self._parents[label] != label:
            self._parents[label] = self._parents[self._parents[label]]
            label = self._parents[label]
        return label

    def _note_axis(self, tensor: Tensor | None, dimension: int, labels: Tensor) -> None:
        if tensor is None:
            return
        name = self._names.get(id(tensor))
        if name is None:
            raise self.refusal("computes the weight of a layer")
        known = self._axes.setdefault((name, dimension), labels.tolist())
        self._unite(torch.tensor(known), labels)


def _labels_in(values: Any) -> Iterator[Tensor]:
    if isinstance(values, _Labels):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _labels_in(value)


def _others(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor) and not isinstance(values, _Labels):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _others(value)


def _distinct(*tensors: Tensor) -> list[Tensor]:
    """Tensors of one shape without the repetitions along dimensions that all of them were expanded in."""
    expanded = [not any(strides) for strides in zip(*(tensor.stride() for tensor in tensors), strict=True)]
    kept = tuple(slice(1) if repeated else slice(None) for repeated in expanded)
    return [tensor.as_subclass(Tensor)[kept] for tensor in tensors]


def _expanded(labels: Tensor) -> Tensor:
    """Equal labels, expanded along every dimension in which they do not differ."""
    kept = labels.as_subclass(Tensor)
    for dimension in range(kept.ndim):
        first = kept.narrow(dimension, 0, 1)
        if kept.shape[dimension] > 1 and bool((kept == first).all()):
            kept = first
    return kept.expand_as(labels).as_subclass(_Labels)


def _plain(values: Tensor) -> Tensor:
    """One channel of zeros with the positions of `values`."""
    return torch.zeros(1, 1, *values.shape[2:])


def _spread(labels: Tensor, shape: Sequence[int]) -> Tensor:
    return labels.view(1, -1, 1, 1).expand(1, -1, *shape[2:]).as_subclass(_Labels)
