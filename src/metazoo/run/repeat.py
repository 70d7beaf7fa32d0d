"""Doing the same step many times over.

Steps on small tensors leave a GPU waiting for the host, which takes longer to launch their hundreds of kernels than the
GPU to run them. So the launches of one step are recorded (a CUDA graph), and played back as a whole.
"""

import contextlib
from collections.abc import Callable
from typing import Protocol, final

import torch

# Libraries choose their algorithms in these.
_CALLS_BEFORE_RECORDING = 3


@final
class Repeated:
    """A step to be done again and again by calling this; on a GPU it is soon played back instead.

    Args:
        step: works on tensors of `device` alone, and leaves what the next one needs in the same tensors. What it does
            depends on nothing else, such as a number that Python counts.
        device: of its tensors.
        recordable: whether `step` is as said; else it is called each time. So it also is if it cannot be recorded, as
            one that waits for the device.
    """

    def __init__(self, step: Callable[[], None], device: torch.device, *, recordable: bool = True) -> None:
        self._step, self._device, self._calls = step, device, 0
        self._recording: Recording | None = None
        self._stream = torch.cuda.Stream(device) if recordable and device.type == "cuda" else None

    def __call__(self) -> None:
        """Do the step."""
        if self._stream is None:
            self._step()
            return
        outside = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            if self._calls == _CALLS_BEFORE_RECORDING:
                self._recording = record(self._step, torch.cuda.CUDAGraph())
            self._calls += 1
            self._step() if self._recording is None else self._recording.replay()
        outside.wait_stream(self._stream)


class Recording(Protocol):
    """The methods of `torch.cuda.CUDAGraph` that are used here."""

    def capture_begin(self) -> None: ...  # noqa: D102
    def capture_end(self) -> None: ...  # noqa: D102
    def replay(self) -> None: ...  # noqa: D102
    def reset(self) -> None: ...  # noqa: D102


def record(step: Callable[[], None], graph: Recording) -> Recording | None:
    """`graph` with the launches of one `step`, which has not been done; None if it cannot be recorded."""
    try:
        graph.capture_begin()
        try:
            step()
        finally:
            graph.capture_end()
    except RuntimeError:
        with contextlib.suppress(RuntimeError):
            graph.reset()
        return None
    return graph
