"""Architectures of timm, torchvision and transformers, by names such as `timm:convnext_atto`, `torchvision:resnet18`.

The libraries are optional and only imported once such a name is built. A name is looked up in the library's own list
of image classifiers; nothing else can be reached through it.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, final

from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from metazoo.errors import UsageError
from metazoo.models.network import Argument, Network, cannot_be_built, import_library
from metazoo.models.transformers_networks import build_transformers, library_state

LIBRARIES = ("timm", "torchvision", "transformers")
_NAME = re.compile(r"(timm|torchvision|transformers):([A-Za-z0-9_]{1,80})")

TIMM_ARGUMENTS = {"patch_size": 1024, "embed_dim": 4096, "depth": 256, "num_heads": 256}
"""What may be said of a network of timm beside its name, and the largest values; not every one takes each of them."""

# What leaves out something at random in training, and the attribute that says how often.
_CHANCES = {"Dropout": "p", "StochasticDepth": "p", "DropPath": "drop_prob"}


def is_library_name(name: str) -> bool:
    """Whether `name` has the form of an architecture of a library; whether there is such a one is not asked."""
    return _NAME.fullmatch(name) is not None


@final
class LibraryNetwork(Network):
    """A network of a library, its last linear layer taken off and put back as `head`.

    Features are what that layer sees: the pooled output of the body, whatever its kind. What the library would leave
    out at random in training (dropout, stochastic depth) is kept, so that learning can be repeated.

    Args:
        body: the library's network.
        head_name: name of the linear layer in `body`.
    """

    def __init__(self, body: nn.Module, head_name: str) -> None:
        super().__init__()
        old = body.get_submodule(head_name)
        assert isinstance(old, nn.Linear)
        parent, _, name = head_name.rpartition(".")
        setattr(body.get_submodule(parent), name, nn.Identity())
        for part in body.modules():
            kind = "Dropout" if isinstance(part, _DropoutNd) else type(part).__name__
            if kind in _CHANCES:
                setattr(part, _CHANCES[kind], 0.0)
        self.body = body
        self.feature_size = old.in_features
        self.head = nn.Linear(old.in_features, old.out_features)
        self.head.load_state_dict(old.state_dict(), assign=True)
        self._head_name = head_name

    def features(self, images: Tensor) -> Tensor:
        """Pooled output of the body, as the head sees it."""
        found = self.body(images)
        return found if isinstance(found, Tensor) else found.logits

    def own_state(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a file of the library, under their names here.

        Raises:
            ZooError: the library itself says that they are of another network.
        """
        if hasattr(self.body, "from_pretrained"):
            tensors = library_state(self.body, tensors)
        return {self._own_name(name): tensor for name, tensor in tensors.items()}

    def _own_name(self, name: str) -> str:
        layer, _, kind = name.rpartition(".")
        return f"head.{kind}" if layer == self._head_name else f"body.{name}"


def build_library_network(
    architecture: str,
    *,
    classes: int,
    channels: int,
    input_size: int,
    arguments: Mapping[str, Argument] | None = None,
) -> LibraryNetwork:
    """Build a network of a library with fresh weights, as `metazoo.models.build_network` does.

    Raises:
        UsageError: the library is not installed, has no such image classifier, or its classifier is not one linear
            layer on pooled features; or it cannot be built with this input size, these channels or these arguments.
    """
    arguments = dict(arguments or {})
    match = _NAME.fullmatch(architecture)
    if match is None:
        raise UsageError(
            f"{architecture[:100]!r} is no architecture of {' or '.join(LIBRARIES)}; see its list of models"
        )
    library, name = match.groups()
    _check_arguments(architecture, library, arguments)
    build = {"timm": _timm, "torchvision": _torchvision, "transformers": build_transformers}[library]
    try:
        body, head_name = build(name, classes, channels, input_size, arguments)
    except UsageError:
        raise
    except Exception as error:  # whatever the library says of what does not suit the architecture
        raise cannot_be_built(architecture, channels, input_size, arguments, error) from error
    head = body.get_submodule(head_name) if head_name is not None else None
    if head_name is None or not isinstance(head, nn.Linear) or head.bias is None or head.out_features != classes:
        raise UsageError(
            f"{architecture} does not end in one linear layer on pooled features, which is needed; choose another"
        )
    return LibraryNetwork(body, head_name)


def _check_arguments(architecture: str, library: str, arguments: Mapping[str, Argument]) -> None:
    if library == "transformers":
        return  # which checks its own
    allowed = TIMM_ARGUMENTS if library == "timm" else {}
    for key, value in sorted(arguments.items()):
        if key not in allowed:
            raise UsageError(f"{architecture} takes no argument {key!r}; leave it out")
        if type(value) is not int or not 1 <= value <= allowed[key]:
            raise UsageError(f"{key} of {architecture} must lie between 1 and {allowed[key]}, not {value!r}")


_Built = tuple[nn.Module, str | None]


def _timm(name: str, classes: int, channels: int, input_size: int, arguments: Mapping[str, Argument]) -> _Built:
    timm = import_library("timm", "timm")
    if not timm.is_model(name):
        raise UsageError(f"timm has no model {name!r}; see `timm.list_models()`")
    settings: dict[str, Any] = {"num_classes": classes, "in_chans": channels, **arguments}
    config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    if config is not None and config.fixed_input_size:
        settings["img_size"] = input_size
    body = timm.create_model(name, pretrained=False, **settings)
    head = body.get_classifier()
    return body, next((key for key, part in body.named_modules() if part is head), None)


# Sizes of their own have those whose number of weights depends on it.
_TORCHVISION_SIZE: dict[str, Callable[[int], dict[str, Any]]] = {
    "vit_": lambda side: {"image_size": side},
    "maxvit_": lambda side: {"input_size": (side, side)},
}
# They have auxiliary classifiers and preprocessing of their own; and cannot be built without weights.
_UNSUITED = ("googlenet", "inception", "regnet")


def _torchvision(name: str, classes: int, channels: int, input_size: int, _: Mapping[str, Argument]) -> _Built:
    models = import_library("torchvision", "torchvision.models")
    if name not in models.list_models(module=models):
        raise UsageError(f"torchvision has no image classifier {name!r}; see `torchvision.models.list_models()`")
    if name.startswith(_UNSUITED):
        raise UsageError(f"torchvision:{name} is not supported; take `timm:NAME` of the same kind")
    if channels != 3:
        raise UsageError(f"networks of torchvision see 3 channels, not {channels}; take `timm:{name}` if there is one")
    settings: dict[str, Any] = {"weights": None, "num_classes": classes}
    for prefix, size in _TORCHVISION_SIZE.items():
        settings |= size(input_size) if name.startswith(prefix) else {}
    body = models.get_model(name, **settings)
    layers = [key for key, part in body.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    return body, layers[-1] if layers else None
