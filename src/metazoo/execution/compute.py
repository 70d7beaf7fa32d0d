"""Where tensors are worked on, and how exactly."""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import cast

import torch

from metazoo.choices import PRECISIONS, Precision
from metazoo.errors import UsageError
from metazoo.execution.executor import default_workers

_MOST_WORKERS_ON_A_GPU = 4
_IMAGES_ON_A_CORE, _PIXELS_ON_A_GPU = 64, 2**22


@dataclass(frozen=True)
class Compute:
    """A device and a precision; it travels to worker processes.

    Attributes:
        device: as torch names it: `cpu`, `cuda` or `cuda:1`.
        precision: of frozen teachers while images are recovered from them or shown to them. `bfloat16` is torch's
            automatic mixed precision. The meta-model itself always learns in float32, see `in_full_float32`.
    """

    device: str = "cpu"
    precision: Precision = "float32"

    @classmethod
    def choose(cls, device: str | None = None, precision: str | None = None) -> "Compute":
        """What the user asks for; where it says nothing the first GPU, else the CPU, mixed precision on a GPU alone.

        Raises:
            UsageError: an unknown device or precision, or a device that is not there.
        """
        chosen = _device("cuda" if device is None and torch.cuda.is_available() else device or "cpu")
        if precision is None:
            precision = "bfloat16" if chosen.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
        if precision not in PRECISIONS:
            raise UsageError(f"unknown precision {precision!r}; choose one of {', '.join(PRECISIONS)}")
        return cls(str(chosen), cast(Precision, precision))

    @property
    def default_workers(self) -> int:
        """Processes for independent work: one a core, but few where they share the memory of one GPU."""
        return default_workers() if self.device == "cpu" else min(default_workers(), _MOST_WORKERS_ON_A_GPU)

    def mixed(self) -> AbstractContextManager[object]:
        """Within the block, convolutions and products of matrices are of this precision."""
        if self.precision == "float32":
            return contextlib.nullcontext()
        # What is cached of a parameter would not follow its steps, and the block may be a whole inversion.
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, cache_enabled=False)


@contextlib.contextmanager
def in_full_float32() -> Iterator[None]:
    """Within the block the convolutions of a GPU are of float32 itself.

    By default torch rounds what goes into them to ten bits (TF32). Regularisation takes the difference of two gradients
    a thousandth of a step apart, which is lost in that, as it would be in bfloat16.
    """
    convolutions = torch.backends.cudnn.conv  # pyright: ignore[reportAttributeAccessIssue]
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


CPU = Compute()
"""The plain one, in float32."""


def images_at_once(device: torch.device, side: int) -> int:
    """How many images of `side` x `side` pixels a network that does not learn is shown together.

    Of a core, more would only take memory: 20 Conv4 are as fast with 64 of 32 pixels as with 256. A GPU is kept busy by
    more small images.
    """
    return _IMAGES_ON_A_CORE if device.type == "cpu" else max(_IMAGES_ON_A_CORE, _PIXELS_ON_A_GPU // side**2)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UsageError(f"unknown device {name!r}; choose cpu, cuda, or one of several GPUs, such as cuda:1")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if not torch.cuda.is_available() or (device.index or 0) >= count:
            there = f"{count} GPU{'s' * (count != 1)}" if torch.cuda.is_available() else "no GPU"
            raise UsageError(f"device {name!r} is not there: torch finds {there}; choose cpu or another one")
    return torch.device("cpu") if device.type == "cpu" else device
