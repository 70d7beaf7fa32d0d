from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from metazoo.export.agreement import SIZES, Agreement, generated_pictures, measure_agreement


def probabilities(images: Tensor) -> Tensor:
    """Mean red, green and blue as probabilities."""
    return torch.softmax(images.double().mean((2, 3)) / 255, 1).float()


def compared(original: Callable[[Tensor], Tensor], exported: Callable[[Tensor], Tensor], *files: Path) -> Agreement:
    """Agreement of two functions with one output."""
    return measure_agreement(lambda images: (original(images),), lambda images: (exported(images),), files)


def test_generated_pictures_are_of_all_sizes_and_always_the_same() -> None:
    pictures, again = list(generated_pictures()), list(generated_pictures())
    assert [tuple(pair.shape) for pair in pictures] == [(2, 3, *size) for size in SIZES]
    assert all(torch.equal(one, other) for one, other in zip(pictures, again, strict=True))
    large = pictures[-1].double()
    assert large.std() > 20
    assert (large[0] - large[1]).abs().mean() > 10
    assert min(min(pair.shape[2:]) for pair in generated_pictures(least_side=2)) == 2


def test_a_function_agrees_with_itself() -> None:
    found = compared(probabilities, probabilities)
    assert (found.generated, found.given, found.differing, found.largest_difference) == (2 * len(SIZES), 0, 0, 0.0)
    assert found.is_exact


def test_another_order_of_channels_is_found() -> None:
    found = compared(probabilities, lambda images: probabilities(images.flip(1)))
    assert not found.is_exact
    assert found.differing > 0
    assert found.largest_difference > 1e-3


def test_a_difference_on_one_size_is_found_and_named() -> None:
    def rounded(images: Tensor) -> Tensor:
        return probabilities(images) + (2e-4 if images.shape[2:] == (480, 641) else 0)

    found = compared(probabilities, rounded)
    assert (found.worst, found.differing, found.is_exact) == ("480 x 641 pixels", 0, False)
    assert found.largest_difference == pytest.approx(2e-4, rel=1e-3)


def test_values_that_are_not_numbers_are_a_difference() -> None:
    found = compared(probabilities, lambda images: torch.full_like(probabilities(images), torch.nan))
    assert found.largest_difference == float("inf")
    assert not found.is_exact


def test_equal_probabilities_are_no_difference_of_classes() -> None:
    halves = torch.tensor([[0.5, 0.5]])

    def other(images: Tensor) -> Tensor:
        return (halves + torch.tensor([[0.0, 1e-7]])).expand(len(images), -1)

    assert compared(lambda images: halves.expand(len(images), -1), other).is_exact


def test_the_pictures_of_a_user_count(tmp_path: Path) -> None:
    file = tmp_path / "red.png"
    Image.new("RGB", (5, 3), (255, 0, 0)).save(file)

    def wrong_on_red(images: Tensor) -> Tensor:
        is_red = bool((images[:, 0] == 255).all() and (images[:, 1] == 0).all())
        return probabilities(images.flip(1) if is_red else images)

    found = compared(probabilities, wrong_on_red, file)
    assert (found.given, found.differing, found.worst) == (1, 1, str(file))


@pytest.mark.parametrize(("margin", "is_unknown", "differing"), [(0.1, True, 2), (-0.1, False, 2), (1e-6, True, 0)])
def test_another_answer_on_unknown_images_is_a_difference(margin: float, is_unknown: bool, differing: int) -> None:
    def original(images: Tensor) -> tuple[Tensor, Tensor]:
        return probabilities(images), torch.full((len(images),), margin)

    def exported(images: Tensor) -> tuple[Tensor, Tensor]:
        return probabilities(images), torch.full((len(images),), is_unknown)

    assert measure_agreement(original, exported).differing == differing * len(SIZES)
