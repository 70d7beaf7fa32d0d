"""A device that only its name tells from the CPU: it computes there, and refuses what a GPU would refuse.

Tensors of the CPU and of the device must not meet in one operation, but for copies, indices and numbers. So code that
forgets to move something fails here as it would on a GPU, and what it computes can be compared with the CPU's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "lazy"  # a name that torch knows without a driver
_DEVICE = torch.device(NAME, 0)
_MAY_MIX = ("aten::copy_", "aten::index", "aten::index_put_", "aten::_index_put_impl_", "aten::_to_copy")


class _Remote(torch.Tensor):
    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "_Remote":
        return torch.Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=_DEVICE,
        )

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held

    def tolist(self) -> Any:
        return self.held.tolist()

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(inners: dict[str, torch.Tensor], *_: Any) -> "_Remote":
        return _Remote(inners["held"])

    @classmethod
    def __torch_dispatch__(cls, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(function, args, kwargs or {})


class _Emulation(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(function, args, kwargs or {})


def _call(function: Any, args: Any, kwargs: Any) -> Any:
    name, wanted = function._schema.name, kwargs.get("device")
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    remote = any(isinstance(tensor, _Remote) for tensor in tensors)
    local = any(not isinstance(tensor, _Remote) and tensor.dim() > 0 for tensor in tensors)
    if remote and local and name not in _MAY_MIX:
        raise AssertionError(f"{function}: tensors of the CPU and of the device meet")
    plain_args, plain_kwargs = tree_map(_plain, (args, kwargs))
    if wanted is not None:
        remote = torch.device(wanted).type == NAME
        plain_kwargs["device"] = torch.device("cpu")
    if remote and name == "aten::index_put_" and not isinstance(args[0], _Remote):
        raise AssertionError(f"{function}: values of the device are put into a tensor of the CPU")
    result = function(*plain_args, **plain_kwargs)
    if name == "aten::_local_scalar_dense":
        return result
    if function._schema.arguments and function._schema.arguments[0].is_write:
        return args[0] if function._schema.returns else None
    return tree_map(lambda value: _Remote(value) if _is_plain(value) else value, result) if remote else result


def _plain(value: Any) -> Any:
    return value.held if isinstance(value, _Remote) else value


def _is_plain(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not isinstance(value, _Remote)


@contextmanager
def emulated_device() -> Iterator[str]:
    """Make the device there, and give its name."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with _Emulation():
            yield NAME
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
