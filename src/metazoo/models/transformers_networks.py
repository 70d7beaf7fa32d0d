"""Image classifiers of the library transformers, by names such as `transformers:ViTForImageClassification`.

Only the classes listed here can be built, from numbers and words alone: no description of a model names code, a file or
a repository. Tensors have other names within the library than in files, so those of a file are renamed by the library.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metazoo.errors import UsageError, ZooError
from metazoo.models.network import Argument, import_library

_NAMES = (
    "Beit Bit ConvNext ConvNextV2 DeiT Dinov2 Dinov2WithRegisters MobileNetV1 MobileNetV2 RegNet ResNet Swin Swinv2"
)
TRANSFORMERS_CLASSES = tuple(f"{name}ForImageClassification" for name in (*_NAMES.split(), "ViT"))
"""Supported classes, which end in one linear layer on pooled features."""
# Set by the classifier specification, or without effect.
_NOT_ARGUMENTS = {"image_size", "num_channels", "initializer_range", "encoder_stride", "semantic_loss_ignore_index"}
_NOT_ARGUMENTS |= {"stage_names", "out_features", "out_indices", "pool_scales", "_out_features", "_out_indices"}
_MOST_LAYERS, _LARGEST_NUMBER = 256, 65_536
_CHECK = "check --arch, --classes and --input-size"
_REMEDY = "see `metazoo.models.TRANSFORMERS_CLASSES`"


def arguments_from_config(name: str, config: Mapping[str, Any]) -> dict[str, Argument]:
    """Arguments of class `name` in a config.json of `transformers` that differ from the library's defaults.

    Unknown keys, image sizes and dropout probabilities are left out.

    Raises:
        UsageError: the library is not installed or does not support the class, or a value has an unsupported type.
    """
    known = _parameters(_class(name))
    arguments: dict[str, Argument] = {}
    for key in sorted(known.keys() & config.keys()):
        value = config[key]
        value = tuple(value) if isinstance(value, list) else value
        default = known[key]
        if value == (tuple(default) if isinstance(default, list) else default):
            continue
        parts = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(part, bool | int | float | str) for part in parts):
            raise UsageError(f"transformers:{name}", f"value of {key} is not supported", "choose another model")
        arguments[key] = value
    return arguments


def build_transformers(
    name: str, classes: int, channels: int, input_size: int, arguments: Mapping[str, Argument]
) -> tuple[nn.Module, str | None]:
    """Build a network of the library, and find the name of its last linear layer.

    Raises:
        UsageError: the library is not installed or lacks the class, or an argument is unknown or out of range.
    """
    kind = _class(name)
    known = _parameters(kind)
    for key, value in arguments.items():
        if key not in known:
            raise UsageError(f"transformers:{name}", f"takes no argument {key[:80]!a}", "omit it")
        _check(key, value)
    options = {key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()}
    fields = inspect.signature(kind.config_class.__init__).parameters
    # Dropout is switched off, which is partly in functions and not in layers.
    options |= {key: 0.0 for key in fields if _is_chance(key)}
    options |= {"image_size": input_size} if "image_size" in fields else {}
    config = kind.config_class(**options, num_channels=channels, num_labels=classes)
    # Other implementations could be downloaded from the hub.
    config._attn_implementation = "eager"
    body = kind(config)
    return body, next((key for key, part in reversed([*body.named_modules()]) if isinstance(part, nn.Linear)), None)


def library_state(body: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a file of `transformers` to the names of a network from `build_transformers`.

    Raises:
        ZooError: a tensor is missing or not part of the network.
    """
    logging = import_library("transformers", "transformers.utils.logging")
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        # The level of messages is global in the library, and is restored below.
        with torch.random.fork_rng(devices=[]):
            filled, found = type(body).from_pretrained(  # pyright: ignore[reportAttributeAccessIssue]
                None, config=body.config, state_dict=dict(tensors), output_loading_info=True, use_safetensors=True
            )
    except Exception as error:  # the library raises any error for unexpected shapes and names
        reason = " ".join(str(error).split())[:200]
        raise ZooError(type(body).__name__, f"tensors do not fit ({reason!a})", _CHECK) from error
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
    for problem, keys in (("missing tensor", found["missing_keys"]), ("unexpected tensor", found["unexpected_keys"])):
        if keys:
            raise ZooError(type(body).__name__, f"{problem} {min(keys)[:100]!a}", _CHECK)
    return filled.state_dict()


def _class(name: str) -> Any:
    if name not in TRANSFORMERS_CLASSES:
        raise UsageError(f"transformers:{name}", "not supported", _REMEDY)
    found = getattr(import_library("transformers", "transformers"), name, None)
    if found is None:
        raise UsageError("transformers", f"no class {name} in the installed version", "update it")
    return found


def _parameters(kind: Any) -> dict[str, Any]:
    """Arguments of a class, with their defaults."""
    base = inspect.signature(import_library("transformers", "transformers").PreTrainedConfig.__init__).parameters
    own = inspect.signature(kind.config_class.__init__).parameters
    default = kind.config_class()
    keys = own.keys() - base.keys() - _NOT_ARGUMENTS
    return {key: getattr(default, key) for key in keys if hasattr(default, key) and not _is_chance(key)}


def _is_chance(key: str) -> bool:
    return "drop" in key.split("_") or any(part.startswith("dropout") for part in key.split("_"))


def _check(key: str, value: Argument) -> None:
    """Bound the size of the network, whose layers take time to build even without weights."""
    numbers = [number for number in (value if isinstance(value, tuple) else (value,)) if not isinstance(number, str)]
    most = _MOST_LAYERS if "layers" in key or "depth" in key.split("_") or key == "depths" else _LARGEST_NUMBER
    if sum(abs(number) for number in numbers) > most:
        raise UsageError(key, f"{str(value)[:80]} is more than {most}", "choose a smaller network")
