"""A CUDA graph without a GPU: operations are noted while they are recorded, and done again on the same tensors.

What the host decides in between is left out of the playback, as it is on a GPU, so a step that counts in Python or
makes new tensors for what it should keep comes out wrong here too. Recording one that waits for a value is refused.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metazoo.execution.repeat import Playback


class PlayedBack:
    """`metazoo.execution.repeat.Repeated` as it is on a GPU, and from the first call on."""

    def __init__(self, step: Callable[..., Any], _device: torch.device, *, recordable: bool = True) -> None:
        assert recordable
        self._step, self._playbacks = step, {}

    def __call__(self, *inputs: torch.Tensor) -> Any:
        shapes = tuple(value.shape for value in inputs)
        if shapes not in self._playbacks:
            graph = RecordedOperations()
            self._playbacks[shapes] = Playback(self._step, inputs, graph, 0), graph
        playback, graph = self._playbacks[shapes]
        before = graph.replays
        result = playback(*inputs)
        assert graph.replays == before + 1
        return result


class RecordedOperations(TorchDispatchMode):
    """Has the methods of `torch.cuda.CUDAGraph` that metazoo uses."""

    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def capture_begin(self) -> None:
        self.__enter__()

    def capture_end(self) -> None:
        self.__exit__(None, None, None)
        for tensor, value in self._before.values():  # recording does nothing
            tensor.copy_(value)

    def reset(self) -> None:
        self._operations.clear()

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        for function, args, kwargs, outputs in self._operations:
            found = function(*args, **kwargs)
            for output, value in zip(tree_leaves(outputs), tree_leaves(found), strict=True):
                if isinstance(output, torch.Tensor) and output.data_ptr() != value.data_ptr():
                    output.detach().copy_(value)

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function._schema.name == "aten::_local_scalar_dense":
            raise RuntimeError("operation not permitted when stream is capturing")
        written = [
            value
            for argument, values in [*zip(function._schema.arguments, args, strict=False)]
            for value in tree_leaves(values)
            if argument.is_write and isinstance(value, torch.Tensor)
        ] + [value for name, value in (kwargs or {}).items() if name == "out"]
        if function._schema.name == "aten::native_batch_norm":  # which does not say that it writes its statistics
            written += [value for value in args[3:5] if value is not None]
        for tensor in written:
            self._before.setdefault(tensor.data_ptr(), (tensor.detach(), tensor.detach().clone()))
        outputs = function(*args, **(kwargs or {}))
        self._operations.append((function, args, kwargs or {}, outputs))
        return outputs
