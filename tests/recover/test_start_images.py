from typing import get_args

import pytest
import torch

from metazoo.recover.start_images import StartImages, dead_leaves, start_images


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("start", get_args(StartImages))
@pytest.mark.parametrize(("count", "channels", "side"), [(7, 3, 32), (2, 1, 16), (1, 3, 8)])
def test_starts_are_in_range_and_the_generator_alone_decides(
    start: StartImages, count: int, channels: int, side: int
) -> None:
    images = start_images(start, count, channels, side, seeded())
    assert (images.shape, images.dtype) == ((count, channels, side, side), torch.float32)
    assert bool((images >= 0).all())
    assert bool((images <= 1).all())
    assert torch.equal(images, start_images(start, count, channels, side, seeded()))
    assert not torch.equal(images, start_images(start, count, channels, side, seeded(1)))


def test_leaves_have_edges_and_plains_colour_and_no_two_alike() -> None:
    images = dead_leaves(40, 3, 32, seeded())
    steps = (images[..., 1:] - images[..., :-1]).abs().mean(1).flatten()
    assert steps.median() < 0.06  # most neighbours are similar
    assert steps.quantile(0.99) > 0.25  # a few are not
    assert (images.amax(1) - images.amin(1)).mean() > 0.1
    assert torch.pdist(images.flatten(1)).min() > 1
    assert 0.1 < images.std() < 0.4
