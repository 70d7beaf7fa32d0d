"""Fast repetition of a step on a GPU.

For steps on small tensors, the host takes longer to launch hundreds of kernels than the GPU to run them. Therefore, the
launches of one step are recorded (a CUDA graph) and played back as a whole.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar, final

import torch
from torch import Tensor

Result = TypeVar("Result")

# In these calls, libraries choose their algorithms.
_CALLS_BEFORE_RECORDING = 3


@final
class Repeated(Generic[Result]):
    """Callable for a step that is repeated; on a GPU, it is recorded and played back.

    Args:
        step: function of tensors on `device`: its arguments, and a fixed set of tensors that carry the state from one
            step to the next. Its operations depend only on the shapes of the arguments, and not, for example, on a
            Python counter.
        device: device of the tensors.
        recordable: whether `step` has these properties; else it is called each time. It is also called each time if
            recording fails, for example because it waits for the device.
    """

    def __init__(self, step: Callable[..., Result], device: torch.device, *, recordable: bool = True) -> None:
        self._step, self._device = step, device
        self._playbacks: dict[tuple[torch.Size, ...], Playback[Result]] = {}
        self._stream = torch.cuda.Stream(device) if recordable and device.type == "cuda" else None

    def __call__(self, *inputs: Tensor) -> Result:
        """Do the step for `inputs` and return its result, whose tensors the next call may overwrite."""
        if self._stream is None:
            return self._step(*inputs)
        outside = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            shapes = tuple(value.shape for value in inputs)
            if shapes not in self._playbacks:
                graph = torch.cuda.CUDAGraph()
                self._playbacks[shapes] = Playback(self._step, inputs, graph, _CALLS_BEFORE_RECORDING)
            result = self._playbacks[shapes](*inputs)
        outside.wait_stream(self._stream)
        return result


class Recording(Protocol):
    """Methods of `torch.cuda.CUDAGraph` that `Playback` uses."""

    def capture_begin(self) -> None: ...  # noqa: D102
    def capture_end(self) -> None: ...  # noqa: D102
    def replay(self) -> None: ...  # noqa: D102
    def reset(self) -> None: ...  # noqa: D102


@final
class Playback(Generic[Result]):
    """Step for inputs with the shapes of `inputs`: called `calls` times, then recorded in `graph` if possible."""

    def __init__(self, step: Callable[..., Result], inputs: Sequence[Tensor], graph: Recording, calls: int) -> None:
        self._step, self._inputs = step, [value.clone() for value in inputs]
        self._graph, self._calls_left = graph, calls
        self._result: list[Result] = []  # result of the recording; empty without one

    def __call__(self, *inputs: Tensor) -> Result:
        """Do the step for `inputs` and return its result."""
        for held, value in zip(self._inputs, inputs, strict=True):
            held.copy_(value)
        if self._calls_left == 0 and not record(self._recorded, self._graph):
            self._result.clear()
        self._calls_left -= 1
        if not self._result:
            return self._step(*self._inputs)
        self._graph.replay()
        return self._result[0]

    def _recorded(self) -> None:
        self._result.append(self._step(*self._inputs))


def record(step: Callable[[], None], graph: Recording) -> bool:
    """Record `step` in `graph` without doing it; return whether it can be recorded."""
    try:
        graph.capture_begin()
        try:
            step()
        finally:
            graph.capture_end()
    except RuntimeError:
        with contextlib.suppress(RuntimeError):
            graph.reset()
        return False
    return True
