"""Architectures of timm, torchvision and transformers, by names such as `timm:convnext_atto`, `torchvision:resnet18`.

The libraries are optional and imported when such a name is built. A name must be in the library's own list of image
classifiers; nothing else can be reached through it.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, final

from torch import Tensor, nn

from metazoo.errors import UsageError, shown
from metazoo.models.network import Argument, cannot_be_built, import_library
from metazoo.models.transformers_networks import build_transformers, library_state
from metazoo.models.wrapped import WrappedNetwork

LIBRARIES = ("timm", "torchvision", "transformers")
_NAME = re.compile(r"(timm|torchvision|transformers):([A-Za-z0-9_]{1,80})")

TIMM_ARGUMENTS = {"patch_size": 1024, "embed_dim": 4096, "depth": 256, "num_heads": 256}
"""Arguments of networks of timm and their largest values; not every network takes each of them."""


def is_library_name(name: str) -> bool:
    """Whether `name` has the form of an architecture of a library, which may not exist."""
    return _NAME.fullmatch(name) is not None


@final
class LibraryNetwork(WrappedNetwork):
    """Network of a library. Its body may rename the tensors of a file of the library."""

    def own_state(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the tensors of a file of the library to the names of this network.

        Raises:
            ZooError: the library rejects the tensors.
        """
        if hasattr(self.body, "from_pretrained"):
            tensors = library_state(self.body, tensors)
        return super().own_state(tensors)


def build_library_network(
    architecture: str,
    *,
    classes: int,
    channels: int,
    input_size: int,
    arguments: Mapping[str, Argument] | None = None,
) -> LibraryNetwork:
    """Build a network of a library with new weights; see `metazoo.models.build_network`.

    Raises:
        UsageError: the library is not installed, has no such image classifier, or its classifier is not one linear
            layer on pooled features; or it cannot be built with this input size, these channels or these arguments.
    """
    arguments = dict(arguments or {})
    match = _NAME.fullmatch(architecture)
    if match is None:
        problem = f"not an architecture of {' or '.join(LIBRARIES)}"
        raise UsageError(shown(architecture), problem, "see its list of models")
    library, name = match.groups()
    _check_arguments(architecture, library, arguments)
    build = {"timm": _timm, "torchvision": _torchvision, "transformers": build_transformers}[library]
    try:
        body, head_name = build(name, classes, channels, input_size, arguments)
    except UsageError:
        raise
    except Exception as error:  # libraries raise any error for unsuitable values
        raise cannot_be_built(architecture, channels, input_size, arguments, error) from error
    head = body.get_submodule(head_name) if head_name is not None else None
    if head_name is None or not isinstance(head, nn.Linear) or head.bias is None or head.out_features != classes:
        raise UsageError(architecture, "does not end in one linear layer on pooled features", "choose another")
    return LibraryNetwork(body, head_name)


def _check_arguments(architecture: str, library: str, arguments: Mapping[str, Argument]) -> None:
    if library == "transformers":
        return  # checked by build_transformers
    allowed = TIMM_ARGUMENTS if library == "timm" else {}
    for key, value in sorted(arguments.items()):
        if key not in allowed:
            raise UsageError(architecture, f"takes no argument {key!r}", "omit it")
        if type(value) is not int or not 1 <= value <= allowed[key]:
            raise UsageError(f"{key} of {architecture}", f"must be from 1 to {allowed[key]}, not {value!r}")


_Built = tuple[nn.Module, str | None]


def _timm(name: str, classes: int, channels: int, input_size: int, arguments: Mapping[str, Argument]) -> _Built:
    timm = import_library("timm", "timm")
    if not timm.is_model(name):
        raise UsageError("timm", f"no model {name!r}", "see `timm.list_models()`")
    options: dict[str, Any] = {"num_classes": classes, "in_chans": channels, **arguments}
    config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    if config is not None and config.fixed_input_size:
        options["img_size"] = input_size
    body = timm.create_model(name, pretrained=False, **options)
    head = body.get_classifier()
    return body, next((key for key, part in body.named_modules() if part is head), None)


# Networks whose number of weights depends on the input size take it as an argument.
_TORCHVISION_SIZE: dict[str, Callable[[int], dict[str, Any]]] = {
    "vit_": lambda side: {"image_size": side},
    "maxvit_": lambda side: {"input_size": (side, side)},
}
# They have auxiliary classifiers and their own preprocessing, or cannot be built without weights.
_UNSUITED = ("googlenet", "inception", "regnet")


def _torchvision(name: str, classes: int, channels: int, input_size: int, _: Mapping[str, Argument]) -> _Built:
    models = import_library("torchvision", "torchvision.models")
    if name not in models.list_models(module=models):
        raise UsageError("torchvision", f"no image classifier {name!r}", "see `torchvision.models.list_models()`")
    if name.startswith(_UNSUITED):
        raise UsageError(f"torchvision:{name}", "not supported", "use a similar `timm:NAME`")
    if channels != 3:
        problem = f"networks of torchvision have 3 input channels, not {channels}"
        raise UsageError(f"torchvision:{name}", problem, f"use `timm:{name}`, if it exists")
    options: dict[str, Any] = {"weights": None, "num_classes": classes}
    for prefix, size in _TORCHVISION_SIZE.items():
        options |= size(input_size) if name.startswith(prefix) else {}
    body = models.get_model(name, **options)
    layers = [key for key, part in body.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    return body, layers[-1] if layers else None
