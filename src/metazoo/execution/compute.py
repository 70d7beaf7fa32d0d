"""Device and precision of computations."""

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
    """Device and precision; it is sent to worker processes.

    Attributes:
        device: name of a torch device: `cpu`, `cuda` or `cuda:1`.
        precision: precision of frozen teachers, in recovery and in forward passes. `bfloat16` is torch's automatic
            mixed precision. The meta-model always learns in float32, see `in_full_float32`.
    """

    device: str = "cpu"
    precision: Precision = "float32"

    @classmethod
    def choose(cls, device: str | None = None, precision: str | None = None) -> "Compute":
        """Choose device and precision; None: the first GPU with mixed precision, else the CPU with float32.

        Raises:
            UsageError: the device or precision is unknown, or the device is missing.
        """
        chosen = _device("cuda" if device is None and torch.cuda.is_available() else device or "cpu")
        if precision is None:
            precision = "bfloat16" if chosen.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
        if precision not in PRECISIONS:
            raise UsageError("precision", f"unknown name {precision!r}", f"choose one of {', '.join(PRECISIONS)}")
        return cls(str(chosen), cast(Precision, precision))

    @property
    def default_workers(self) -> int:
        """Default number of worker processes: one per core, but few on a GPU, whose memory they share."""
        return default_workers() if self.device == "cpu" else min(default_workers(), _MOST_WORKERS_ON_A_GPU)

    def mixed(self) -> AbstractContextManager[object]:
        """Use this precision for convolutions and matrix products within the block."""
        if self.precision == "float32":
            return contextlib.nullcontext()
        # Cached casts of parameters would not follow their updates, and the block may be a whole inversion.
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, cache_enabled=False)


@contextlib.contextmanager
def in_full_float32() -> Iterator[None]:
    """Compute convolutions on a GPU in full float32 within the block.

    By default, torch rounds their inputs to ten bits (TF32). Regularisation uses the difference of two gradients at a
    distance of a thousandth of a step, which such rounding destroys, as bfloat16 does.
    """
    convolutions = torch.backends.cudnn.conv  # pyright: ignore[reportAttributeAccessIssue]
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


CPU = Compute()
"""The CPU in float32."""


def images_at_once(device: torch.device, side: int) -> int:
    """Number of images of `side` x `side` pixels in one forward pass of a frozen network.

    On a core, more images would only take memory: 20 Conv4 are as fast with 64 images of 32 pixels as with 256. A GPU
    needs more small images to be busy.
    """
    return _IMAGES_ON_A_CORE if device.type == "cpu" else max(_IMAGES_ON_A_CORE, _PIXELS_ON_A_GPU // side**2)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UsageError("device", f"unknown name {name!r}", "choose cpu, cuda, or one of several GPUs, such as cuda:1")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if not torch.cuda.is_available() or (device.index or 0) >= count:
            available = f"{count} GPU{'s' * (count != 1)}" if torch.cuda.is_available() else "no GPU"
            raise UsageError(f"device {name!r}", f"torch finds {available}", "choose another device, such as cpu")
    return torch.device("cpu") if device.type == "cpu" else device
