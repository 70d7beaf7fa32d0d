"""Operators of graphs, as ONNX defines them: functions of tensors without state, randomness or access to files."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from metazoo.models.graph_calls import DTYPES, Call, OperatorError, common_shape
from metazoo.models.shape_operators import SHAPE_OPERATORS


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Call], Tensor]:
    return lambda call: function(call[0])


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Call], Tensor]:
    return lambda call: function(*call.pair(0, 1))


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Call], Tensor]:
    def fold(call: Call) -> Tensor:
        total = call[0]
        for position in range(1, len(call.inputs)):
            total = function(*call.together(total, call[position]))
        return total

    return fold


def _div(first: Tensor, second: Tensor) -> Tensor:
    whole = not first.is_floating_point() and not second.is_floating_point()
    return torch.div(first, second, rounding_mode="trunc" if whole else None)


def _mod(call: Call) -> Tensor:
    return (torch.fmod if call.get("fmod", 0) else torch.remainder)(*call.pair(0, 1))


def _where(call: Call) -> Tensor:
    first, second = call.pair(1, 2)
    condition, first = call.together(call[0], first)
    return torch.where(condition, first, second)


def _matmul(call: Call) -> Tensor:
    first, second = call[0], call[1]
    if first.ndim > 1 and second.ndim > 1:
        batch = math.prod(common_shape(first.shape[:-2], second.shape[:-2]))
        call.check(batch * first.shape[-2] * second.shape[-1])
    return first @ second


def _gemm(call: Call) -> Tensor:
    first, second = (
        each.t() if call.get(name, 0) else each for each, name in ((call[0], "transA"), (call[1], "transB"))
    )
    call.check(len(first) * second.shape[-1])
    product = call.get("alpha", 1.0) * (first @ second)
    bias = call.find(2)
    return product if bias is None else product + call.get("beta", 1.0) * bias


def _clip(call: Call) -> Tensor:
    low, high = (
        call.find(n + 1) if len(call.inputs) > n + 1 else call.get(name) for n, name in enumerate(("min", "max"))
    )
    values = call[0]
    for bound, limit in ((low, torch.maximum), (high, torch.minimum)):
        if bound is not None:
            other = bound.to(values.dtype) if isinstance(bound, Tensor) else values.new_tensor(bound)
            values = limit(*call.together(values, other.to(values.device)))
    return values


def _cast(call: Call) -> Tensor:
    number = call.get("to")
    if number not in DTYPES:
        raise OperatorError("casts to a type other than float32, int32, int64 and bool")
    return call[0].to(DTYPES[number])


def explicit_pads(size: Sequence[int], kernel: Sequence[int], call: Call) -> list[int]:
    """Padding [before each dimension, after each dimension] of a convolution or pooling of images of `size`."""
    kind = call.get("auto_pad", "NOTSET")
    if kind in ("NOTSET", "VALID"):
        return list(call.get("pads", (0,) * 2 * len(size))) if kind == "NOTSET" else [0] * 2 * len(size)
    if kind not in ("SAME_UPPER", "SAME_LOWER"):
        raise OperatorError(f"auto_pad {str(kind)[:40]!r} is not supported")
    before, after = [], []
    ones = (1,) * len(size)
    for side, width, step, gap in zip(
        size, kernel, call.get("strides", ones), call.get("dilations", ones), strict=True
    ):
        total = max(0, (-(-side // step) - 1) * step + (width - 1) * gap + 1 - side)
        small, large = total // 2, total - total // 2
        before.append(small if kind == "SAME_UPPER" else large)
        after.append(large if kind == "SAME_UPPER" else small)
    return before + after


def padded(call: Call, images: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    """Images [n, channels, h, w] with `explicit_pads`."""
    if not any(pads):
        return images
    top, left, bottom, right = pads
    call.check(images[:, :, :1, :1].numel() * (images.shape[2] + top + bottom) * (images.shape[3] + left + right))
    return functional.pad(images, (left, right, top, bottom), value=value)


def _pool(call: Call) -> tuple[Tensor, tuple[int, ...], dict[str, Any], list[int]]:
    kernel, images = call.get("kernel_shape", ()), call[0]
    if images.ndim != 4 or len(kernel) != 2:
        raise OperatorError("only pooling of images in two dimensions is supported")
    options = {"stride": call.get("strides", (1, 1)), "ceil_mode": bool(call.get("ceil_mode", 0))}
    pads = explicit_pads(images.shape[2:], kernel, call)
    # No larger than the padded images.
    call.check(images[:, :, 0, 0].numel() * math.prod(n + sum(pads[i::2]) + 1 for i, n in enumerate(images.shape[2:])))
    return images, kernel, options, pads


def _max_pool(call: Call) -> Tensor:
    images, kernel, options, pads = _pool(call)
    options["dilation"] = call.get("dilations", (1, 1))
    # torch pads by at most half of the kernel, and equally on both sides.
    if pads[:2] == pads[2:] and all(2 * pad <= size for pad, size in zip(pads, kernel, strict=False)):
        return functional.max_pool2d(images, kernel, padding=pads[:2], **options)
    return functional.max_pool2d(padded(call, images, pads, -math.inf), kernel, **options)


def _average_pool(call: Call) -> Tensor:
    call.refuse("dilations", (1, 1))
    images, kernel, options, pads = _pool(call)
    whole = bool(call.get("count_include_pad", 0))
    if pads[:2] == pads[2:] and all(2 * pad <= size for pad, size in zip(pads, kernel, strict=False)):
        return functional.avg_pool2d(images, kernel, padding=pads[:2], count_include_pad=whole, **options)
    sums = functional.avg_pool2d(padded(call, images, pads), kernel, **options)
    if whole:
        return sums
    return sums / functional.avg_pool2d(padded(call, torch.ones_like(images[:1, :1]), pads), kernel, **options)


def _reduced(function: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> Callable[[Call], Tensor]:
    def reduce(call: Call) -> Tensor:
        axes, keep = call.numbers("axes", 1), bool(call.get("keepdims", 1))
        if not axes and call.get("noop_with_empty_axes", 0):
            return call[0]
        return function(call[0], tuple(axes or range(call[0].ndim)), keep)

    return reduce


def _prod(tensor: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted((axis % tensor.ndim for axis in axes), reverse=True):
        tensor = tensor.prod(axis, keepdim=keep)
    return tensor


def _softmax(function: Callable[..., Tensor]) -> Callable[[Call], Tensor]:
    def apply(call: Call) -> Tensor:
        if call.opset >= 13:
            return function(call[0], dim=call.get("axis", -1))
        # Earlier versions treat the tensor as a matrix.
        rows = math.prod(call[0].shape[: call.get("axis", 1) % call[0].ndim])
        return function(call[0].reshape(rows, -1), dim=1).reshape(call[0].shape)

    return apply


def _layer_norm(call: Call) -> Tensor:
    shape = call[0].shape[call.get("axis", -1) % call[0].ndim :]
    scale, bias = (None if each is None else each.expand(shape) for each in (call.find(1), call.find(2)))
    return functional.layer_norm(call[0], shape, scale, bias, call.get("epsilon", 1e-5))


def _rms_norm(call: Call) -> Tensor:
    shape = call[0].shape[call.get("axis", -1) % call[0].ndim :]
    return functional.rms_norm(call[0], shape, call[1].expand(shape), call.get("epsilon", 1e-5))


def _group_norm(call: Call) -> Tensor:
    groups, channels = call.get("num_groups"), call[0].shape[1]
    scale, bias = (each.repeat_interleave(channels // len(each)) for each in (call[1], call[2]))
    return functional.group_norm(call[0], groups, scale, bias, call.get("epsilon", 1e-5))


def _instance_norm(call: Call) -> Tensor:
    return functional.instance_norm(call[0], weight=call[1], bias=call[2], eps=call.get("epsilon", 1e-5))


def _lp_norm(call: Call) -> Tensor:
    # Without the lower bound of torch's own function, as ONNX defines it.
    return functional.normalize(call[0], call.get("p", 2), call.get("axis", -1), eps=1e-12)


def _response_norm(call: Call) -> Tensor:
    if call.get("size", 0) % 2 != 1:
        raise OperatorError("an even size is not supported")
    alpha, beta, bias = (call.get(name, usual) for name, usual in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    return functional.local_response_norm(call[0], call.get("size"), alpha, beta, bias)


def _prelu(call: Call) -> Tensor:
    return torch.where(call[0] >= 0, call[0], call[0] * call[1])


def _hard_sigmoid(call: Call) -> Tensor:
    return (call[0] * call.get("alpha", 0.2) + call.get("beta", 0.5)).clamp(0, 1)


def _selu(call: Call) -> Tensor:
    alpha, gamma = call.get("alpha", 1.6732632423543772), call.get("gamma", 1.0507009873554805)
    return gamma * functional.elu(call[0], alpha)


def _resize(call: Call) -> Tensor:
    if call.opset < 11 or call[0].ndim != 4:
        raise OperatorError("only images in two dimensions, and opset 11 or later, are supported")
    call.refuse("antialias", 0)
    call.refuse("exclude_outside", 0)
    call.refuse("axes")
    call.refuse("keep_aspect_ratio_policy", "stretch")
    mode, where = call.get("mode", "nearest"), call.get("coordinate_transformation_mode", "half_pixel")
    scales, sizes = call.find(2), call.numbers("sizes", 3)
    if sizes is None:
        factors = [1.0] * 4 if scales is None or not scales.numel() else scales.tolist()
        sizes = [int(size * factor) for size, factor in zip(call[0].shape, factors, strict=True)]
    if sizes[1] != call[0].shape[1]:
        raise OperatorError("only images in two dimensions are resized")
    call.check(math.prod(sizes))
    if mode == "nearest":
        if (where, call.get("nearest_mode", "round_prefer_floor")) != ("asymmetric", "floor"):
            raise OperatorError("nearest is supported with asymmetric coordinates and floor only")
        return functional.interpolate(call[0], sizes[2:], mode="nearest")
    if where not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        raise OperatorError(f"coordinates {where[:40]!r} are not supported")
    call.refuse("cubic_coeff_a", -0.75)
    mode = {"linear": "bilinear", "cubic": "bicubic"}[mode]
    return functional.interpolate(call[0], sizes[2:], mode=mode, align_corners=where == "align_corners")


def _attention(call: Call) -> Tensor:
    if any(each is not None for each in call.inputs[4:]):
        raise OperatorError("a cache of keys and values is not supported")
    call.refuse("softcap", 0, 0.0)
    parts = [call[0], call[1], call[2]]
    is_flat = parts[0].ndim == 3
    if is_flat:
        heads = (call.get("q_num_heads"), *(call.get("kv_num_heads"),) * 2)
        parts = [each.unflatten(2, (count, -1)).transpose(1, 2) for each, count in zip(parts, heads, strict=True)]
    call.check(parts[0][..., 0].numel() * parts[1].shape[-2])  # scores
    found = functional.scaled_dot_product_attention(
        *parts,
        attn_mask=call.find(3),
        is_causal=bool(call.get("is_causal", 0)),
        scale=call.get("scale"),
        enable_gqa=parts[0].shape[1] != parts[1].shape[1],
    )
    return found.transpose(1, 2).flatten(2) if is_flat else found


OPERATORS: dict[str, Callable[[Call], Tensor | tuple[Tensor, ...]]] = {
    **{
        name: _unary(function)
        for name, function in {
            "Abs": torch.abs, "Ceil": torch.ceil, "Cos": torch.cos, "Dropout": lambda x: x, "Erf": torch.erf,
            "Exp": torch.exp, "Floor": torch.floor, "HardSwish": functional.hardswish, "Identity": lambda x: x,
            "Log": torch.log, "Mish": functional.mish, "Neg": torch.neg, "Not": torch.logical_not,
            "Reciprocal": torch.reciprocal, "Relu": functional.relu, "Round": torch.round, "Sigmoid": torch.sigmoid,
            "Sign": torch.sign, "Sin": torch.sin, "Softplus": functional.softplus, "Softsign": functional.softsign,
            "Sqrt": torch.sqrt, "Tanh": torch.tanh,
        }.items()
    },
    **{
        name: _binary(function)
        for name, function in {
            "Sub": torch.sub, "Div": _div, "Pow": torch.pow, "Equal": torch.eq, "Greater": torch.gt,
            "GreaterOrEqual": torch.ge, "Less": torch.lt, "LessOrEqual": torch.le, "And": torch.logical_and,
            "Or": torch.logical_or,
        }.items()
    },
    **{
        name: _folded(function)
        for name, function in {
            "Add": torch.add, "Mul": torch.mul, "Sum": torch.add, "Max": torch.maximum, "Min": torch.minimum,
        }.items()
    },
    **{
        name: _reduced(function)
        for name, function in {
            "ReduceMean": torch.mean, "ReduceSum": torch.sum, "ReduceMax": torch.amax, "ReduceMin": torch.amin,
            "ReduceL2": lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep), "ReduceProd": _prod,
        }.items()
    },
    **SHAPE_OPERATORS,
    "Attention": _attention, "AveragePool": _average_pool, "Cast": _cast,
    "CastLike": lambda call: call[0].to(call[1].dtype), "Clip": _clip,
    "Celu": lambda call: functional.celu(call[0], call.get("alpha", 1.0)),
    "Elu": lambda call: functional.elu(call[0], call.get("alpha", 1.0)),
    "Gelu": lambda call: functional.gelu(call[0], approximate=call.get("approximate", "none")),
    "Gemm": _gemm, "GlobalAveragePool": lambda call: call[0].mean(tuple(range(2, call[0].ndim)), keepdim=True),
    "GlobalMaxPool": lambda call: call[0].amax(tuple(range(2, call[0].ndim)), keepdim=True),
    "GroupNormalization": _group_norm, "HardSigmoid": _hard_sigmoid, "InstanceNormalization": _instance_norm,
    "LRN": _response_norm, "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda call: functional.leaky_relu(call[0], call.get("alpha", 0.01)),
    "LogSoftmax": _softmax(torch.log_softmax), "LpNormalization": _lp_norm, "MatMul": _matmul, "MaxPool": _max_pool,
    "Mod": _mod, "PRelu": _prelu, "RMSNormalization": _rms_norm, "Resize": _resize, "Selu": _selu,
    "Softmax": _softmax(torch.softmax), "Swish": lambda call: call[0] * torch.sigmoid(call.get("alpha", 1.0) * call[0]),
    "Where": _where,
}  # fmt: skip
"""Operators by their names in ONNX, except layers with weights, which are modules."""
