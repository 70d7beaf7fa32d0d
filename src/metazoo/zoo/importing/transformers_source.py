"""Descriptions of image classifiers of transformers, from config.json and preprocessor_config.json."""

import re
from collections.abc import Mapping
from typing import Any

from metazoo.errors import UsageError, shown
from metazoo.models import TRANSFORMERS_CLASSES, arguments_from_config
from metazoo.zoo.importing.model_description import numbered

_INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Interpolations by their numbers in PIL."""
_BYTE = 1 / 255
OTHER_REPOSITORY = "choose another model"
_LARGEST_SIDE = 384
"""Side in pixels from which preprocessing of ConvNeXt resizes without cropping."""


def transformers_fields(config: Mapping[str, Any], processor: Mapping[str, Any], subject: str) -> dict[str, Any]:
    """Known fields of `ModelDescription`.

    Args:
        config: content of config.json.
        processor: content of preprocessor_config.json.
        subject: subject of errors.

    Raises:
        UsageError: the model is not a supported image classifier, or would run its own code.
    """
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else None
    if name not in TRANSFORMERS_CLASSES:
        problem = f"transformers model {str(name or config.get('model_type'))[:60]!a} is not supported"
        remedy = f"choose one of {', '.join(TRANSFORMERS_CLASSES)}, or a model of timm"
        raise UsageError(subject, problem, remedy)
    if config.get("auto_map") or processor.get("auto_map"):
        raise UsageError(subject, "has its own code (auto_map), which is never run", OTHER_REPOSITORY)
    problem_type = config.get("problem_type")
    if problem_type not in (None, "single_label_classification"):
        raise UsageError(subject, f"problem_type {shown(problem_type)} is not supported", OTHER_REPOSITORY)
    arguments = arguments_from_config(str(name), config)
    fields: dict[str, Any] = {"architecture": f"transformers:{name}", "arguments": arguments}
    fields |= {"channels": config.get("num_channels", 3), "classes": _class_names(config)}
    return fields | _geometry(config, processor) | _normalisation(processor, fields["channels"], subject)


def label_problem(config: Mapping[str, Any]) -> dict[str, str]:
    """Reason why `id2label` of config.json does not name the classes, by the field; empty if there is none."""
    labels = config.get("id2label")
    labels = labels if isinstance(labels, dict) else {}
    absent = [number for number in range(len(labels)) if str(number) not in labels]
    return {"classes": f"id2label has {len(labels)} names, but none of class {absent[0]}"} if absent else {}


def _class_names(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    labels = config.get("id2label")
    if not isinstance(labels, dict) or set(labels) != {str(number) for number in range(len(labels))}:
        return None
    found = [str(labels[str(number)]) for number in range(len(labels))]
    # Placeholders of the library for unnamed classes.
    if all(re.fullmatch(r"LABEL_\d+", label) for label in found):
        return None
    return numbered(found)


def _geometry(config: Mapping[str, Any], processor: Mapping[str, Any]) -> dict[str, Any]:
    size, cropped = _side(processor.get("size")), _side(processor.get("crop_size"))
    fields: dict[str, Any] = {}
    if processor.get("do_center_crop") and cropped is not None:
        fields["input_size"] = cropped
        if processor.get("do_resize", True) and size is not None and size >= cropped:
            fields |= {"resize": size, "crop": cropped / size}
    elif size is not None and processor.get("do_resize", True):
        part = processor.get("crop_pct")
        fields["input_size"] = size
        if isinstance(part, int | float) and 0.01 < part <= 1 and size < _LARGEST_SIDE:
            fields |= {"resize": int(size / part), "crop": part}
    elif not (processor.get("size") and processor.get("do_resize", True)):
        fields["input_size"] = _side(config.get("image_size"))
    resample = processor.get("resample")
    if isinstance(resample, int) and 0 <= resample < len(_INTERPOLATIONS):
        fields["interpolation"] = _INTERPOLATIONS[resample]
    return fields


def _side(size: Any) -> int | None:
    """Side of a square, in any notation of these files."""
    if isinstance(size, dict):
        size = [size["shortest_edge"]] if "shortest_edge" in size else [size.get("height"), size.get("width")]
    sides = size if isinstance(size, list) else [size]
    same = len(sides) > 0 and all(type(side) is int and side == sides[0] for side in sides)
    return sides[0] if same else None


def _normalisation(processor: Mapping[str, Any], channels: Any, subject: str) -> dict[str, Any]:
    """Mean and standard deviation of images in [0, 1], including the scaling of bytes."""
    if not processor:
        return {}
    mean, std = processor.get("image_mean"), processor.get("image_std")
    if processor.get("do_normalize", True) is False:
        mean, std = [0.0], [1.0]
    scale = processor.get("rescale_factor", _BYTE) if processor.get("do_rescale", True) else 1.0
    if processor.get("rescale_offset") or not isinstance(scale, int | float) or not scale > 0:
        raise UsageError(subject, "rescale_factor or rescale_offset is not supported", OTHER_REPOSITORY)
    if mean is None or std is None or not _are_numbers(mean) or not _are_numbers(std):
        return {}
    # Exactly 1 for the usual factor 1/255.
    unit = 1.0 if abs(scale / _BYTE - 1) < 1e-9 else scale / _BYTE
    fields = {"mean": tuple(value / unit for value in mean), "std": tuple(value / unit for value in std)}
    return {key: values[:1] if channels == 1 else values for key, values in fields.items()}


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and len(values) > 0 and all(isinstance(value, int | float) for value in values)
