"""What a repository of transformers says of its image classifier, in config.json and preprocessor_config.json."""

import re
from collections.abc import Mapping
from typing import Any

from metazoo.errors import UsageError
from metazoo.models import TRANSFORMERS_CLASSES, arguments_from_config
from metazoo.zoo.importing.model_description import numbered

_INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""By the numbers of PIL."""
_BYTE = 1 / 255
_LARGEST_SIDE = 384
"""Up to which preprocessing of ConvNeXt crops, and does not only resize."""


def said_by_transformers(config: Mapping[str, Any], processor: Mapping[str, Any], subject: str) -> dict[str, Any]:
    """Fields of `ModelDescription`; what neither file says is left out.

    Raises:
        UsageError: the model is no image classifier that is supported, or would run code of its own.
    """
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else None
    if name not in TRANSFORMERS_CLASSES:
        what = f"a transformers model ({str(name or config.get('model_type'))[:60]!a})"
        raise UsageError(
            f"{subject} is {what}, which is not supported; give one of {', '.join(TRANSFORMERS_CLASSES)}, or of timm"
        )
    if config.get("auto_map") or processor.get("auto_map"):
        raise UsageError(f"{subject} comes with code of its own (auto_map), which is never run; give another")
    if config.get("problem_type") not in (None, "single_label_classification"):
        raise UsageError(f"{subject} does not choose one class of several (problem_type), which is not supported")
    arguments = arguments_from_config(str(name), config)
    said: dict[str, Any] = {"architecture": f"transformers:{name}", "arguments": arguments}
    said |= {"channels": config.get("num_channels", 3), "classes": _class_names(config)}
    return said | _geometry(config, processor) | _normalisation(processor, said["channels"], subject)


def _class_names(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    labels = config.get("id2label")
    if not isinstance(labels, dict) or set(labels) != {str(number) for number in range(len(labels))}:
        return None
    found = [str(labels[str(number)]) for number in range(len(labels))]
    # Which the library makes up where nobody has named the classes.
    if all(re.fullmatch(r"LABEL_\d+", label) for label in found):
        return None
    return numbered(found)


def _geometry(config: Mapping[str, Any], processor: Mapping[str, Any]) -> dict[str, Any]:
    size, cropped = _side(processor.get("size")), _side(processor.get("crop_size"))
    said: dict[str, Any] = {}
    if processor.get("do_center_crop") and cropped is not None:
        said["input_size"] = cropped
        if processor.get("do_resize", True) and size is not None and size >= cropped:
            said |= {"resize": size, "crop": cropped / size}
    elif size is not None and processor.get("do_resize", True):
        part = processor.get("crop_pct")
        said["input_size"] = size
        if isinstance(part, int | float) and 0.01 < part <= 1 and size < _LARGEST_SIDE:
            said |= {"resize": int(size / part), "crop": part}
    elif not (processor.get("size") and processor.get("do_resize", True)):
        said["input_size"] = _side(config.get("image_size"))
    resample = processor.get("resample")
    if isinstance(resample, int) and 0 <= resample < len(_INTERPOLATIONS):
        said["interpolation"] = _INTERPOLATIONS[resample]
    return said


def _side(size: Any) -> int | None:
    """Of a square, in any of the ways in which these files say it."""
    if isinstance(size, dict):
        size = [size["shortest_edge"]] if "shortest_edge" in size else [size.get("height"), size.get("width")]
    sides = size if isinstance(size, list) else [size]
    same = len(sides) > 0 and all(type(side) is int and side == sides[0] for side in sides)
    return sides[0] if same else None


def _normalisation(processor: Mapping[str, Any], channels: Any, subject: str) -> dict[str, Any]:
    """Mean and standard deviation of images in [0, 1], with the scaling of the bytes worked in."""
    if not processor:
        return {}
    mean, std = processor.get("image_mean"), processor.get("image_std")
    if processor.get("do_normalize", True) is False:
        mean, std = [0.0], [1.0]
    scale = processor.get("rescale_factor", _BYTE) if processor.get("do_rescale", True) else 1.0
    if processor.get("rescale_offset") or not isinstance(scale, int | float) or not scale > 0:
        raise UsageError(f"{subject} scales its images in a way that is not supported; give another")
    if mean is None or std is None or not _are_numbers(mean) or not _are_numbers(std):
        return {}
    # Exactly one for the usual 1/255.
    unit = 1.0 if abs(scale / _BYTE - 1) < 1e-9 else scale / _BYTE
    said = {"mean": tuple(value / unit for value in mean), "std": tuple(value / unit for value in std)}
    return {key: values[:1] if channels == 1 else values for key, values in said.items()}


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and len(values) > 0 and all(isinstance(value, int | float) for value in values)
