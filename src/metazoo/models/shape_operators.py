"""Operators of graphs that move values or compute shapes, as ONNX defines them."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from metazoo.models.graph_calls import DTYPES, LARGEST_SHAPE_TENSOR, Call, OperatorError, common_shape


def _reshape(call: Call) -> Tensor:
    shape = call.numbers("shape", 1) or []
    if not call.get("allowzero", 0):
        shape = [call[0].shape[n] if size == 0 else size for n, size in enumerate(shape)]
    return call[0].reshape(shape)


def _flatten(call: Call) -> Tensor:
    axis = call.get("axis", 1) if call[0].ndim else 0
    axis += call[0].ndim if axis < 0 else 0
    return call[0].reshape(math.prod(call[0].shape[:axis]), math.prod(call[0].shape[axis:]))


def _transpose(call: Call) -> Tensor:
    return call[0].permute(call.get("perm", tuple(reversed(range(call[0].ndim)))))


def _squeeze(call: Call) -> Tensor:
    axes = call.numbers("axes", 1)
    return call[0].squeeze() if axes is None else call[0].squeeze(tuple(axes))


def _unsqueeze(call: Call) -> Tensor:
    axes = call.numbers("axes", 1) or []
    tensor, rank = call[0], call[0].ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        tensor = tensor.unsqueeze(axis)
    return tensor


def _concat(call: Call) -> Tensor:
    parts = [call[position] for position in range(len(call.inputs))]
    axis = call.get("axis", 0) % parts[0].ndim
    # A graph that was exported for a batch of one image may join a single token to the tokens of every image.
    batch = max(part.shape[0] for part in parts) if axis else 1
    parts = [part.expand(batch, *part.shape[1:]) if part.shape[0] == 1 and axis else part for part in parts]
    call.check(sum(part.numel() for part in parts))
    return torch.cat(parts, axis)


def _split(call: Call) -> tuple[Tensor, ...]:
    axis, sizes = call.get("axis", 0), call.numbers("split", 1)
    if sizes is not None:
        return call[0].split(sizes, axis)
    return call[0].split(-(-call[0].shape[axis] // call.get("outputs")), axis)


def _slice(call: Call) -> Tensor:
    starts, ends = call.numbers("starts", 1) or [], call.numbers("ends", 2) or []
    axes = call.numbers("axes", 3) or [*range(len(starts))]
    steps = call.numbers("steps", 4) or [1] * len(starts)
    tensor = call[0]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        found = range(*slice(start, end, step).indices(tensor.shape[axis]))
        if step == 1:
            tensor = tensor.narrow(axis, found.start, len(found))
        else:
            tensor = tensor.index_select(axis, torch.tensor([*found], dtype=torch.int64, device=tensor.device))
    return tensor


def _gather(call: Call) -> Tensor:
    tensor, indices = call[0], call[1]
    axis = call.get("axis", 0) % tensor.ndim
    if indices.ndim == 0:
        return tensor.select(axis, int(indices)) if indices.device.type == "cpu" else tensor.index_select(axis, indices)
    call.check(indices.numel() * tensor.numel() / max(1, tensor.shape[axis]))
    flat = torch.remainder(indices.reshape(-1), tensor.shape[axis]).to(tensor.device)
    return tensor.index_select(axis, flat).reshape(*tensor.shape[:axis], *indices.shape, *tensor.shape[axis + 1 :])


def _shape(call: Call) -> Tensor:
    return torch.tensor(call[0].shape[call.get("start", 0) : call.get("end")], dtype=torch.int64, device="cpu")


def _expand(call: Call) -> Tensor:
    return call[0].expand(common_shape(call[0].shape, tuple(call.numbers("shape", 1) or ())))


def _tile(call: Call) -> Tensor:
    repeats = call.numbers("repeats", 1) or []
    call.check(math.prod(repeats) * call[0].numel())
    return call[0].repeat(repeats)


def _constant_of_shape(call: Call) -> Tensor:
    shape = call.numbers("shape", 0) or []
    call.check(math.prod(shape), LARGEST_SHAPE_TENSOR)
    value = call.get("value", 0.0)
    dtype = DTYPES[call.get("dtype", 1)]
    return torch.full(shape, value, dtype=dtype, device="cpu")


def _range(call: Call) -> Tensor:
    bounds = [call[n].item() for n in range(3)]
    if bounds[2] == 0:
        raise OperatorError("a range with step 0")
    call.check(abs((bounds[1] - bounds[0]) / bounds[2]), LARGEST_SHAPE_TENSOR)
    return torch.arange(*bounds, dtype=call[0].dtype, device="cpu")


def _pad(call: Call) -> Tensor:
    pads = call.numbers("pads", 1) or []
    axes = call.numbers("axes", 3) or [*range(call[0].ndim)]
    value = call[2].item() if call.find(2) is not None else call.get("value", 0.0)
    sides = [0] * (2 * call[0].ndim)
    for n, axis in enumerate(axes):
        last = 2 * (call[0].ndim - 1 - axis % call[0].ndim)
        sides[last : last + 2] = pads[n], pads[n + len(axes)]
    while len(sides) > 2 and not any(sides[-2:]):
        del sides[-2:]
    sizes = [size + sum(sides[2 * n : 2 * n + 2]) for n, size in enumerate(reversed(call[0].shape))]
    call.check(math.prod(sizes))
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}.get(call.get("mode", "constant"))
    if mode is None:
        raise OperatorError(f"mode {call.get('mode')!r} is not supported")
    return functional.pad(call[0], sides, mode, *((value,) if mode == "constant" else ()))


def _depth_to_space(call: Call) -> Tensor:
    n, channels, height, width = call[0].shape
    size = call.get("blocksize")
    if call.get("mode", "DCR") == "DCR":
        blocks = call[0].reshape(n, size, size, channels // size**2, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        blocks = call[0].reshape(n, channels // size**2, size, size, height, width).permute(0, 1, 4, 2, 5, 3)
    return blocks.reshape(n, channels // size**2, height * size, width * size)


def _space_to_depth(call: Call) -> Tensor:
    n, channels, height, width = call[0].shape
    size = call.get("blocksize")
    blocks = call[0].reshape(n, channels, height // size, size, width // size, size).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, channels * size**2, height // size, width // size)


SHAPE_OPERATORS = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
