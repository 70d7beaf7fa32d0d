"""Image classifiers of the library transformers, by names such as `transformers:ViTForImageClassification`.

Only the classes listed here can be reached, and only their own numbers and words decide what is built: nothing that is
said of a model names code, a file or a repository. Their tensors have other names within the library than in files, so
those of a file go through the library's own renaming.
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
"""Classes that end in one linear layer on pooled features."""
# Said by the classifier itself, or of no meaning for it.
_NOT_ARGUMENTS = {"image_size", "num_channels", "initializer_range", "encoder_stride", "semantic_loss_ignore_index"}
_NOT_ARGUMENTS |= {"stage_names", "out_features", "out_indices", "pool_scales", "_out_features", "_out_indices"}
_MOST_LAYERS, _LARGEST_NUMBER = 256, 65_536
_CHECK = "check --arch, --classes and --input-size"
_REMEDY = "see `metazoo.models.TRANSFORMERS_CLASSES`"


def arguments_from_config(name: str, config: Mapping[str, Any]) -> dict[str, Argument]:
    """What a config.json of `transformers` says of class `name` beyond the library's own defaults.

    Keys that the class does not have are left out; sizes of images and chances of dropping something are no arguments.

    Raises:
        UsageError: the library is not installed or does not support the class, or a value is of a kind that no argument
            can have.
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
            raise UsageError(f"the configuration says {key} in a way that is not supported; give another model")
        arguments[key] = value
    return arguments


def build_transformers(
    name: str, classes: int, channels: int, input_size: int, arguments: Mapping[str, Argument]
) -> tuple[nn.Module, str | None]:
    """The library's network and the name of its last linear layer.

    Raises:
        UsageError: the library is not installed or does not have the class, or an argument is unknown or out of range.
    """
    kind = _class(name)
    known = _parameters(kind)
    for key, value in arguments.items():
        if key not in known:
            raise UsageError(f"transformers:{name} has no argument {key[:80]!a}; leave it out")
        _check(key, value)
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()}
    fields = inspect.signature(kind.config_class.__init__).parameters
    # What the library would leave out at random in training, partly within functions and not in layers.
    settings |= {key: 0.0 for key in fields if _is_chance(key)}
    settings |= {"image_size": input_size} if "image_size" in fields else {}
    config = kind.config_class(**settings, num_channels=channels, num_labels=classes)
    # Anything else could be fetched from the hub.
    config._attn_implementation = "eager"
    body = kind(config)
    return body, next((key for key, part in reversed([*body.named_modules()]) if isinstance(part, nn.Linear)), None)


def library_state(body: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file of `transformers`, under the names that a network as `build_transformers` gives has.

    Raises:
        ZooError: they are not those of the network; what is missing, or should not be there, is named.
    """
    logging = import_library("transformers", "transformers.utils.logging")
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        # A process keeps one level of messages for all of the library.
        with torch.random.fork_rng(devices=[]):
            filled, found = type(body).from_pretrained(  # pyright: ignore[reportAttributeAccessIssue]
                None, config=body.config, state_dict=dict(tensors), output_loading_info=True, use_safetensors=True
            )
    except Exception as error:  # whatever the library says of shapes and names that it does not expect
        reason = " ".join(str(error).split())[:200]
        raise ZooError(type(body).__name__, f"the tensors are not its own ({reason!a})", _CHECK) from error
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
    for what, keys in (("lack", found["missing_keys"]), ("have in addition", found["unexpected_keys"])):
        if keys:
            raise ZooError(type(body).__name__, f"the tensors are not its own: they {what} {min(keys)[:100]!a}", _CHECK)
    return filled.state_dict()


def _class(name: str) -> Any:
    if name not in TRANSFORMERS_CLASSES:
        raise UsageError(f"transformers:{name} is not supported; {_REMEDY}")
    found = getattr(import_library("transformers", "transformers"), name, None)
    if found is None:
        raise UsageError(f"this transformers has no {name}; update it")
    return found


def _parameters(kind: Any) -> dict[str, Any]:
    """The arguments of a class, with their defaults."""
    base = inspect.signature(import_library("transformers", "transformers").PreTrainedConfig.__init__).parameters
    own = inspect.signature(kind.config_class.__init__).parameters
    default = kind.config_class()
    keys = own.keys() - base.keys() - _NOT_ARGUMENTS
    return {key: getattr(default, key) for key in keys if hasattr(default, key) and not _is_chance(key)}


def _is_chance(key: str) -> bool:
    return "drop" in key.split("_") or any(part.startswith("dropout") for part in key.split("_"))


def _check(key: str, value: Argument) -> None:
    """Bound what is built, which even without weights takes time for every layer."""
    numbers = [number for number in (value if isinstance(value, tuple) else (value,)) if not isinstance(number, str)]
    most = _MOST_LAYERS if "layers" in key or "depth" in key.split("_") or key == "depths" else _LARGEST_NUMBER
    if sum(abs(number) for number in numbers) > most:
        raise UsageError(f"{key} is {str(value)[:80]}, more than {most}; give a smaller network")
