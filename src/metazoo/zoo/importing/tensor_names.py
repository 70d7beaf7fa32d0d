"""Matching of the tensors of a file with those of a network, whatever the training script called them.

Names are first compared as they are, then in a common spelling: without prefixes such as `module.`, and with one word
for `shortcut` and `downsample`, `layer1` and `stages.0`, `fc` and `classifier`. Shapes alone never match two tensors.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metazoo.errors import ZooError
from metazoo.models import Network, WrappedNetwork
from metazoo.zoo.weights import unsound

_COUNTER = "num_batches_tracked"
# Buffers that the profiler thop leaves in a network.
_OF_PROFILERS = ("total_ops", "total_params")
_WRAPPERS = "module _orig_mod model net network backbone encoder student body features layers"
_PREFIXES = re.compile(rf"^(?:(?:{'|'.join(_WRAPPERS.split())})\.)+")
_PARALLEL = re.compile(r"^(?:(?:module|_orig_mod)\.)+")
_LINEAR = re.compile(r"(hidden|linear|fc|classifier|head|output|logits|out|last_linear)(\d*)(?:\.(\d+)|\.fc)?")
_BLOCK_LAYERS = {"first": "conv1", "first_norm": "bn1", "second": "conv2", "second_norm": "bn2", "third": "conv3",
                 "third_norm": "bn3", "residual_function.0": "conv1", "residual_function.1": "bn1",
                 "residual_function.3": "conv2", "residual_function.4": "bn2", "residual_function.6": "conv3",
                 "residual_function.7": "bn3"}  # fmt: skip
_SPELLINGS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^(?:init_conv|conv0|stem\.0|conv1\.0)\.", "conv1."),
    (r"^(?:norm_final|norm5|stem\.1|conv1\.1)\.", "bn1."),
    (r"^denseblock(\d{1,9})\.denselayer(\d{1,9})\.", r"layer\1.-\2."),
    (r"^block(\d{1,9})\.layer\.", r"layer\1."),
    (r"^stages\.(\d{1,9})\.", r"layer+\1."),
    (r"^conv(\d{1,9})_x\.", r"layer-\1."),
    (r"^(layer[+-]?\d+\.)(?=[a-z])", r"\g<1>0."),
    (r"^trans(?:ition)?(\d{1,9})\.(?:bn1|norm)\.", r"transition\1.bn."),
    (r"^trans(?:ition)?(\d{1,9})\.conv1?\.", r"transition\1.conv."),
    (r"\.norm(\d{1,9})\.", r".bn\1."),
    (r"\.(?:downsample|convShortcut|skip|shortcut)\.", ".shortcut."),
    (r"\.shortcut\.conv1?\.", ".shortcut.0."),
    (r"\.shortcut\.(?:bn|norm)1?\.", ".shortcut.1."),
    (r"\.shortcut\.(weight|bias)$", r".shortcut.0.\1"),
    (rf"\.({'|'.join(map(re.escape, _BLOCK_LAYERS))})\.", lambda match: f".{_BLOCK_LAYERS[match[1]]}."),
    # Numbers that count from another start.
    (r"\+(\d{1,9})", lambda match: str(int(match[1]) + 1)),
    (r"-(\d{1,9})", lambda match: str(int(match[1]) - 1)),
)


@dataclass(frozen=True)
class MatchedTensors:
    """Tensors of a file under the names of a network.

    Attributes:
        state: tensors by the names of the network, in its types where the shapes agree.
        sources: names in the file by the names of the network.
        added: names of the network that the file lacks and need not have.
        dropped: names in the file that are not used.
        unknown: names in the file without a counterpart in the network.
        missing: names of the network without a counterpart in the file.
    """

    state: dict[str, Tensor]
    sources: dict[str, str]
    added: tuple[str, ...]
    dropped: tuple[str, ...]
    unknown: tuple[str, ...]
    missing: tuple[str, ...]

    def source(self, name: str) -> str:
        """Name of a tensor in the file, or in the network if the file lacks it."""
        return self.sources.get(name, name)

    def fits(self, expected: Mapping[str, Tensor]) -> bool:
        """Whether exactly the tensors `expected` have counterparts of the same shapes."""
        return (
            not self.unknown
            and not self.missing
            and all(self.state[name].shape == tensor.shape for name, tensor in expected.items())
        )

    def problem(self, expected: Mapping[str, Tensor]) -> str | None:
        """First difference from the tensors `expected`, or first unsound value, by the names in the file."""
        if self.unknown:
            return f"has tensor {self.unknown[0][:100]!a}, which the architecture lacks"
        if self.missing:
            return f"lacks tensor {self.missing[0]}"
        return unsound(
            {self.source(name)[:100]: tensor for name, tensor in self.state.items()},
            {self.source(name)[:100]: tensor for name, tensor in expected.items()},
        )


def match_by_name(tensors: Mapping[str, Tensor], network: Network) -> MatchedTensors:
    """Match tensors of a file with those of `network`, which may be on the meta device, by their names.

    Raises:
        ZooError: the network's library rejects the tensors.
    """
    expected = network.state_dict()
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(_OF_PROFILERS) or name in expected}
    attempts = [_matched(kept, {name: name for name in kept if name in expected}, tensors, expected)]
    if isinstance(network, WrappedNetwork) and not attempts[0].fits(expected):
        attempts.append(_by_library(kept, network, tensors, expected))
    if network.has_usual_names and not attempts[-1].fits(expected):
        spelled = _unique(common_spelling(expected))
        own = {name: spelled[word] for name, word in common_spelling(kept).items() if word in spelled}
        own = {name: word for word, name in _unique(own).items()}
        attempts.append(_matched(kept, own, tensors, expected))
    # The first of the best.
    return min(attempts, key=lambda each: (not each.fits(expected), len(each.unknown) + len(each.missing)))


def match_by_order(tensors: Mapping[str, Tensor], network: Network, subject: str) -> MatchedTensors:
    """Match tensors in the order of the file with those of `network` in the order of definition.

    Args:
        tensors: tensors in the order in which a script has stored them.
        network: network, which may be on the meta device.
        subject: subject of errors.

    Raises:
        ZooError: numbers of tensors differ; a pair differs in shape or in its last word, such as `running_mean`; a
            layer of the file belongs to two layers of the network or the reverse; names of the file that are numbered
            are in another order; or a name of the file belongs to another tensor of the network.
    """
    expected = network.state_dict()
    names = [name for name in tensors if not name.endswith((*_OF_PROFILERS, _COUNTER))]
    own = [name for name in expected if not name.endswith(_COUNTER)]
    if len(names) != len(own):
        raise _no_order(subject, f"{len(names)} tensors cannot be the {len(own)} of the architecture")
    by_name = _unique(common_spelling(expected))
    layers: dict[str, str] = {}
    files: dict[str, str] = {}
    numbers: dict[str, list[int]] = {}
    spelled = common_spelling(tensors)
    for name, wanted in zip(names, own, strict=True):
        (layer, _, kind), (own_layer, _, own_kind) = name.rpartition("."), wanted.rpartition(".")
        if kind != own_kind or tensors[name].shape != expected[wanted].shape:
            found = f"{shown_tensor(name, tensors[name])} would be {shown_tensor(wanted, expected[wanted])}"
            raise _no_order(subject, found)
        if layers.setdefault(layer, own_layer) != own_layer or files.setdefault(own_layer, layer) != layer:
            raise _no_order(subject, f"{name[:100]!a} would be {wanted}, of another layer than its neighbours")
        if by_name.get(spelled[name], wanted) != wanted:
            raise _no_order(subject, f"{name[:100]!a} would be {wanted}, but has the name of {by_name[spelled[name]]}")
        pattern, count = re.sub(r"\d+", "#", name), [int(number) for number in re.findall(r"\d{1,9}", name)]
        if numbers.get(pattern, count) > count:
            raise _no_order(subject, f"{name[:100]!a} comes after a tensor of a higher number")
        numbers[pattern] = count
    pairs = dict(zip(names, own, strict=True))
    counters = (name for name in tensors if name.endswith(_COUNTER) and name.rpartition(".")[0] in layers)
    pairs |= {name: f"{layers[name.rpartition('.')[0]]}.{_COUNTER}" for name in counters}
    kept = {name: tensor for name, tensor in tensors.items() if name in pairs}
    return _matched(kept, {name: word for name, word in pairs.items() if word in expected}, tensors, expected)


def common_spelling(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Common spelling of every name; linear layers at the end become `hidden.0`, `hidden.1` and so on, and `head`."""
    bare = {name: _PREFIXES.sub("", name) for name in tensors}
    linear = _linear_layers({bare[name]: tensor for name, tensor in tensors.items()})
    spelled: dict[str, str] = {}
    for name, word in bare.items():
        layer, _, kind = word.rpartition(".")
        if layer in linear:
            spelled[name] = f"{linear[layer]}.{kind}"
            continue
        for pattern, replacement in _SPELLINGS:
            word = re.sub(pattern, replacement, word)
        spelled[name] = word
    return spelled


def shown_tensor(name: str, tensor: Tensor) -> str:
    """Name and shape of a tensor, for an error."""
    return f"{name[:100]!a} {list(tensor.shape)}"


def _linear_layers(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Common names of linear layers after the features, by their names; empty if their order is not clear."""
    numbered: dict[str, tuple[str, int]] = {}
    last: list[str] = []
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        match = _LINEAR.fullmatch(layer)
        if match is None or kind != "weight" or tensor.ndim not in (2, 4) or any(side > 1 for side in tensor.shape[2:]):
            continue
        word, number, index = match.groups()
        if number or index:
            numbered[layer] = (word, int((number or index)[:9]))
        else:
            last.append(layer)
    words = {word for word, _ in numbered.values()}
    if len(last) > 1 or len(words) > 1 or len(set(numbered.values())) < len(numbered):
        return {}
    ordered = sorted(numbered, key=lambda layer: numbered[layer][1]) + last
    return {layer: f"hidden.{number}" for number, layer in enumerate(ordered[:-1])} | dict.fromkeys(
        ordered[-1:], "head"
    )


def _unique(spelled: Mapping[str, str]) -> dict[str, str]:
    """Names by their spelling, without those that share one."""
    names: dict[str, list[str]] = {}
    for name, word in spelled.items():
        names.setdefault(word, []).append(name)
    return {word: found[0] for word, found in names.items() if len(found) == 1}


def _by_library(
    kept: Mapping[str, Tensor], network: WrappedNetwork, tensors: Iterable[str], expected: Mapping[str, Tensor]
) -> MatchedTensors:
    bare = {_PARALLEL.sub("", name): tensor for name, tensor in kept.items()}
    state = network.own_state(bare if len(bare) == len(kept) else kept)
    # transformers copies tensors, and may rename them; its own names are then shown.
    names = {tensor.data_ptr(): name for name, tensor in kept.items()}
    sources = {name: names.get(tensor.data_ptr(), name.removeprefix("body.")) for name, tensor in state.items()}
    found = _matched(state, {name: name for name in state if name in expected}, tensors, expected)
    # A network without a bias of its head gets one of zeros.
    added = ("head.bias", *found.added) if len(state) > len(kept) else found.added
    sources = {name: sources[name] for name in found.sources if name not in added}
    unknown = tuple(name.removeprefix("body.") for name in found.unknown)
    return replace(found, sources=sources, added=added, unknown=unknown)


def _matched(
    kept: Mapping[str, Tensor], own: Mapping[str, str], tensors: Iterable[str], expected: Mapping[str, Tensor]
) -> MatchedTensors:
    """Tensors under the names `own`, with missing batch counters."""
    state: dict[str, Tensor] = {}
    for name, word in own.items():
        wanted, tensor = expected[word], kept[name]
        if wanted.dtype.is_floating_point and tensor.dtype.is_floating_point:
            tensor = tensor.flatten(1) if wanted.ndim == 2 and tensor.shape[2:] == (1, 1) else tensor
            tensor = tensor.to(wanted.dtype) if wanted.shape == tensor.shape else tensor
        state[word] = tensor
    found = {word: name for name, word in own.items()}
    # Missing in files older than torch 0.4.1, and not used in evaluation.
    added = tuple(name for name in expected if name.endswith(_COUNTER) and name not in found)
    state |= {name: torch.zeros(expected[name].shape, dtype=expected[name].dtype) for name in added}
    return MatchedTensors(
        state,
        {name: found[name] for name in expected if name in found},
        added,
        tuple(name for name in tensors if name.endswith((*_OF_PROFILERS, _COUNTER)) and name not in kept),
        tuple(name for name in kept if name not in own),
        tuple(name for name in expected if name not in state),
    )


def _no_order(subject: str, problem: str) -> ZooError:
    return ZooError(subject, f"tensors are not in the order of the architecture: {problem}", "give another --arch")
