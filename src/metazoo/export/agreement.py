"""Agreement of an exported file with its classifier, measured on pictures that are always the same and on the user's.

What exported models get wrong most often is the preprocessing: resizing, cropping, the order of channels, rounding. It
shows on pictures of odd sizes, which is why the generated ones have twelve, from 1 x 1 pixel to 1500 x 2500.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from metazoo.data import decoded_images

SIZES = (
    (1, 1), (1, 17), (19, 1), (2, 3), (7, 5), (31, 33), (32, 32), (64, 47), (97, 128), (224, 225), (480, 641),
    (1500, 2500),
)  # fmt: skip
"""Heights and widths of the generated pictures in pixels."""
TOLERANCE = 1e-4
_TIE = 1e-5
_COARSE = 5

Function = Callable[[Tensor], tuple[Tensor, ...]]
"""Function from images, uint8 [n, 3, h, w], to outputs: float32 [n, d], and whether each image is unknown, bool [n]."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of two functions on pictures.

    Attributes:
        generated: number of generated pictures.
        given: number of pictures of the user.
        differing: number of pictures whose class differs, or one of which is unknown. Classes whose probabilities in
            the classifier are within 1e-5 of each other count as one, and a familiarity within 1e-5 of the threshold
            is both known and unknown.
        largest_difference: largest absolute difference of an output.
        worst: picture of the largest difference: its size, or its file.
    """

    generated: int
    given: int
    differing: int
    largest_difference: float
    worst: str

    @property
    def is_finite(self) -> bool:
        """Whether all outputs are numbers."""
        return self.largest_difference < float("inf")

    @property
    def is_exact(self) -> bool:
        """Whether no class differs and no output by more than 1e-4."""
        return self.differing == 0 and self.largest_difference <= TOLERANCE

    def record(self) -> dict[str, Any]:
        """Attributes by name, for the metadata of a file."""
        return asdict(self)

    def __str__(self) -> str:
        pictures = f"{self.generated} generated pictures"
        if self.given:
            pictures += f" and {self.given} of yours"
        classes = "no class differs" if self.differing == 0 else f"{self.differing} classes differ"
        return f"on {pictures}, {classes}; the largest difference is {self.largest_difference:.1e} ({self.worst})"


def generated_pictures(least_side: int = 1) -> Iterator[UInt8[Tensor, "2 3 height width"]]:
    """Pairs of pictures for each of `SIZES`, always the same: smooth colours, and the same with noise.

    Args:
        least_side: smallest height and width in pixels.
    """
    random = torch.Generator().manual_seed(0)
    for size in SIZES:
        if min(size) < least_side:
            continue
        coarse = torch.rand(1, 3, _COARSE, _COARSE, generator=random)
        smooth = functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
        noise = torch.rand(1, 3, *size, generator=random) - 0.5
        yield torch.cat([smooth, smooth + 0.6 * noise]).clamp(0, 1).mul(255).round().to(torch.uint8)


def measure_agreement(
    original: Function,
    exported: Function,
    files: Sequence[Path | str] = (),
    *,
    least_side: int = 1,
    outputs_are_probabilities: bool = True,
) -> Agreement:
    """Compare two functions on the generated pictures and on image files.

    Args:
        original: function of the classifier, which returns familiarity minus threshold instead of `is_unknown`.
        exported: function of the exported file.
        files: image files.
        least_side: smallest height and width of the generated pictures in pixels.
        outputs_are_probabilities: whether the greatest output names a class.

    Raises:
        UsageError, DataError: a file cannot be read.
    """
    differing, largest, worst = 0, 0.0, ""
    generated = given = 0
    for label, images in _pictures(files, least_side):
        generated, given = generated + (len(images) if label is None else 0), given + (label is not None)
        (expected, *margin), (found, *unknown) = original(images), exported(images)
        expected, found = expected.double(), found.double()
        if outputs_are_probabilities:
            differs = _differs(expected, found)
            for own, its in zip(margin, unknown, strict=True):
                differs |= (its.bool() != (own < 0)) & (own.abs() > _TIE)
            differing += int(differs.sum())
        # A NaN is a difference as well.
        difference = float((expected - found).abs().nan_to_num(nan=float("inf")).max())
        if difference > largest or not worst:
            largest, worst = difference, label or f"{images.shape[2]} x {images.shape[3]} pixels"
    return Agreement(generated, given, differing, largest, worst)


def _pictures(files: Sequence[Path | str], least_side: int) -> Iterable[tuple[str | None, Tensor]]:
    yield from ((None, pair) for pair in generated_pictures(least_side))
    yield from zip(map(str, files), (image.unsqueeze(0) for image in decoded_images(files)), strict=True)


def _differs(expected: Float[Tensor, "n ways"], found: Float[Tensor, "n ways"]) -> Tensor:
    """Whether the class found is not one of the most probable."""
    of_found = expected.gather(1, found.argmax(1, keepdim=True)).squeeze(1)
    return expected.max(1).values - of_found > _TIE
