"""Doing the same step many times over.

Steps on small tensors leave a GPU waiting for the host, which takes longer to launch their hundreds of kernels than the
GPU to run them. So the launches of one step are recorded (a CUDA graph), and played back as a whole.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar, final

import torch
from torch import Tensor

Result = TypeVar("Result")

# Libraries choose their algorithms in these.
_CALLS_BEFORE_RECORDING = 3


@final
class Repeated(Generic[Result]):
    """A step to be done again and again by calling this; on a GPU it is soon played back instead.

    Args:
        step: works on tensors of `device` alone: those it is called with, and others that stay the same tensors and
            have what one step leaves for the next. What it does depends on nothing else but the shapes of the former,
            such as a number that Python counts.
        device: of its tensors.
        recordable: whether `step` is as said; else it is called each time. So it also is if it cannot be recorded, as
            one that waits for the device.
    """

    def __init__(self, step: Callable[..., Result], device: torch.device, *, recordable: bool = True) -> None:
        self._step, self._device = step, device
        self._playbacks: dict[tuple[torch.Size, ...], Playback[Result]] = {}
        self._stream = torch.cuda.Stream(device) if recordable and device.type == "cuda" else None

    def __call__(self, *inputs: Tensor) -> Result:
        """What the step returns for `inputs`; what is in its tensors may be gone after the next call."""
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
    """The methods of `torch.cuda.CUDAGraph` that are used here."""

    def capture_begin(self) -> None: ...  # noqa: D102
    def capture_end(self) -> None: ...  # noqa: D102
    def replay(self) -> None: ...  # noqa: D102
    def reset(self) -> None: ...  # noqa: D102


@final
class Playback(Generic[Result]):
    """A step for inputs of the same shapes as `inputs`: called `calls` times, then recorded in `graph` if it can be."""

    def __init__(self, step: Callable[..., Result], inputs: Sequence[Tensor], graph: Recording, calls: int) -> None:
        self._step, self._inputs = step, [value.clone() for value in inputs]
        self._graph, self._calls_left = graph, calls
        self._result: list[Result] = []  # of the recording; empty as long as there is none

    def __call__(self, *inputs: Tensor) -> Result:
        """What the step returns for `inputs`."""
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
    """Whether `graph` now holds the launches of one `step`, which has not been done; else it cannot be recorded."""
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
