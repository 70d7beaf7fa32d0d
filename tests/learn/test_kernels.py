import pytest
import torch
from torch import Tensor
from torch.nn import functional

from metazoo.learn.kernels import predicted_kernel, related_kernel, sharpened_kernel
from metazoo.learn.linear_inputs import normalised_inputs
from metazoo.learn.losses import relational_loss

SIZE = 6


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(count: int, seed: int = 0, size: int = SIZE) -> Tensor:
    return torch.rand(count, size, generator=random(seed)) + 0.1


def test_a_predicted_kernel_is_the_inner_product_of_what_ridge_regression_predicts() -> None:
    own, others = features(40), features(9, seed=1)
    targets = [functional.normalize(torch.randn(40, size, generator=random(size)), dim=1) for size in (4, 3)]
    inputs, shown = (normalised_inputs(part.double())[:, :-1] for part in (own, others))
    penalty = 1e-3 * (len(own) * inputs.var(0, correction=0)).mean()
    products = torch.zeros(9, 9, dtype=torch.float64)
    for weight, target in zip((1.0, 3.0), targets, strict=True):
        # The same minimum by another way: a least-squares problem with the penalty as more samples.
        centred, mean = inputs - inputs.mean(0), target.double().mean(0)
        rows = torch.cat([centred, penalty.sqrt() * torch.eye(SIZE, dtype=torch.float64)])
        values = torch.cat([target.double() - mean, torch.zeros(SIZE, target.shape[1], dtype=torch.float64)])
        slope = torch.linalg.lstsq(rows, values).solution
        predicted = (shown - inputs.mean(0)) @ slope + mean
        products += weight / 4 * predicted @ predicted.T
    kernel, cosines = predicted_kernel(normalised_inputs(own.double()), iter(targets), [1.0, 3.0])
    augmented = normalised_inputs(others.double())
    torch.testing.assert_close(augmented @ kernel @ augmented.T, products)
    expected = (targets[0] @ targets[0].T + 3 * targets[1] @ targets[1].T) / 4
    torch.testing.assert_close(cosines, expected)
    alike, _ = predicted_kernel(normalised_inputs(own.double()), targets, [1.0, 1.0])
    assert not torch.allclose(kernel, alike)


def test_a_related_kernel_finds_the_cosines_that_a_linear_map_hides() -> None:
    own, unseen = (normalised_inputs(features(count, seed).double()) for count, seed in ((300, 0), (100, 1)))
    hidden = torch.randn(SIZE + 1, 3, generator=random(2), dtype=torch.float64)

    def cosines(inputs: Tensor) -> Tensor:
        seen = functional.normalize(inputs @ hidden, dim=1)
        return (seen @ seen.T).float()

    begun = torch.eye(SIZE + 1, dtype=torch.float64)
    found = related_kernel(begun, own, cosines(own), random(3))
    before, after = (
        float(relational_loss((unseen @ torch.linalg.cholesky(kernel + 1e-9 * begun)).float(), cosines(unseen)))
        for kernel in (begun, found)
    )
    assert after < 0.4 * before
    torch.testing.assert_close(found, found.T)
    assert torch.equal(found, related_kernel(begun, own, cosines(own), random(3)))
    assert not torch.equal(found, related_kernel(begun, own, cosines(own), random(4)))


def classes(spread: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Images of 8 classes whose means differ in direction k by `spread[k]`, and their classes."""
    means = torch.randn(8, SIZE, generator=random(1)) * spread
    labels = torch.arange(8).repeat_interleave(12)
    shown = means[labels] + noise * torch.randn(96, SIZE, generator=random(2))
    return normalised_inputs(shown.double()), labels


def test_a_kernel_becomes_sharper_where_that_tells_classes_apart() -> None:
    kernel = torch.tensor([1.0, 1.0, 0.7, 0.7, 0.7, 0.7, 0.0], dtype=torch.float64).diag()
    inputs, labels = classes(torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 0.0]), noise=0.6)
    found = sharpened_kernel(kernel, inputs, labels, random())
    assert float(found[2, 2]) < 0.6
    torch.testing.assert_close(found, kernel ** (found[2, 2].log() / kernel[2, 2].log()))
    inputs, labels = classes(torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0, 1.0]), noise=0.6)
    torch.testing.assert_close(sharpened_kernel(kernel, inputs, labels, random()), kernel)


@pytest.mark.parametrize(
    "labels", [torch.arange(6), torch.zeros(6, dtype=torch.int64), torch.tensor([0, 0, 0, 1, 2, 3])]
)
def test_too_few_images_leave_a_kernel_as_it_is(labels: Tensor) -> None:
    kernel = torch.tensor([2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0], dtype=torch.float64).diag()
    inputs = normalised_inputs(features(6).double())
    torch.testing.assert_close(sharpened_kernel(kernel, inputs, labels, random()), kernel)


def test_two_classes_of_two_images_are_enough_to_judge() -> None:
    kernel = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64).diag()
    # The second direction misleads as long as it counts half as much as the first.
    inputs = torch.tensor([[0.5, 0.0, 1.0], [0.5, 1.3, 1.0], [-0.5, 1.3, 1.0], [-0.5, 0.0, 1.0]], dtype=torch.float64)
    found = sharpened_kernel(kernel, inputs, torch.tensor([0, 0, 1, 1]), random())
    assert float(found[1, 1]) < 0.45
