import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from metazoo.recover.objectives import (
    batch_norm_distance,
    cross_entropy,
    l2,
    neighbour_norms,
    pixel_norm,
    total_variation,
)


def test_cross_entropy_of_known_logits() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])
    expected = -(math.log(3 / 4) + math.log(1 / 2)) / 2
    assert cross_entropy(logits, torch.tensor([0, 1])).item() == pytest.approx(expected)


def test_batch_norm_distance_is_a_sum_of_plain_norms() -> None:
    observed = [(torch.tensor([3.0, 0.0]), torch.tensor([1.0, 1.0])), (torch.tensor([1.0]), torch.tensor([2.0]))]
    stored = [(torch.tensor([0.0, 4.0]), torch.tensor([1.0, 1.0])), (torch.tensor([1.0]), torch.tensor([5.0]))]
    assert batch_norm_distance(observed, stored).item() == pytest.approx(5 + 0 + 0 + 3)


def test_batch_norm_distance_is_zero_for_a_match_and_its_gradient_is_finite_there() -> None:
    mean, variance = torch.randn(4, requires_grad=True), torch.rand(4, requires_grad=True)
    distance = batch_norm_distance([(mean, variance)], [(mean.detach().clone(), variance.detach().clone())])
    assert distance.item() == 0
    gradients = torch.autograd.grad(distance, (mean, variance))
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_batch_norm_distance_without_batch_norm_is_zero() -> None:
    assert batch_norm_distance([], []).item() == 0
    with pytest.raises(ValueError, match="shorter"):
        batch_norm_distance([(torch.ones(1), torch.ones(1))], [])


def test_total_variation_of_a_ramp_is_the_sum_of_its_squared_slopes() -> None:
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(9.0), indexing="ij")
    ramp = (0.02 * rows + 0.05 * columns).expand(4, 3, 6, 9)
    assert total_variation(ramp).item() == pytest.approx(0.02**2 + 0.05**2, rel=1e-4)
    assert total_variation(torch.full((2, 1, 5, 5), 0.3)).item() == 0


def test_l2_is_the_mean_squared_distance_from_grey() -> None:
    images = torch.tensor([0.5, 0.7, 0.1, 0.5]).view(1, 1, 2, 2)
    assert l2(images).item() == pytest.approx((0.2**2 + 0.4**2) / 4)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradients_agree_with_finite_differences(memory_format: torch.memory_format) -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 4, 5, generator=random, dtype=torch.float64)
    images = images.contiguous(memory_format=memory_format).requires_grad_()
    weights = torch.randn(3 * 4 * 5, 4, generator=random, dtype=torch.float64)
    stored = [(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))]

    def statistics(values: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(values, (0, 2, 3), correction=0)
        return batch_norm_distance([(mean, variance)], stored)

    for function in (
        total_variation,
        l2,
        statistics,
        lambda values: cross_entropy(functional.relu(values.flatten(1) @ weights), torch.tensor([0, 3])),
    ):
        assert torch.autograd.gradcheck(function, images)


def test_neighbour_norms_are_those_of_a_loop_over_pixels() -> None:
    images = np.random.default_rng(0).random((2, 3, 5, 4))
    height, width = images.shape[2:]
    expected = 0.0
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        total = 0.0
        for y in range(height - down):
            for x in range(width):
                if 0 <= x + right < width:
                    total += float(((images[:, :, y + down, x + right] - images[:, :, y, x]) ** 2).sum())
        expected += total**0.5
    assert neighbour_norms(torch.from_numpy(images)).item() == pytest.approx(expected, rel=1e-12)
    assert pixel_norm(torch.from_numpy(images)).item() == pytest.approx(np.linalg.norm((images - 0.5).ravel()))


def test_norms_of_even_images_have_a_finite_gradient() -> None:
    images = torch.full((2, 3, 4, 4), 0.5, requires_grad=True)
    value = neighbour_norms(images) + pixel_norm(images)
    assert value.item() == 0
    (gradient,) = torch.autograd.grad(value, images)
    assert not gradient.any()
