import pytest
import torch
from error_checks import raises

from metazoo.errors import UsageError
from metazoo.models import Generator


@pytest.mark.parametrize(("side", "parameters"), [(32, 2_328_899), (84, 14_730_691)])
def test_it_has_the_published_number_of_parameters(side: int, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in Generator(side).parameters()) == parameters


@pytest.mark.parametrize(("side", "channels"), [(16, 3), (20, 1)])
def test_images_are_in_range_and_each_latent_has_its_own(side: int, channels: int) -> None:
    network = Generator(side, channels, latent=8, width=4)
    network.initialise(torch.Generator().manual_seed(0))
    images = network(torch.randn(6, 8, generator=torch.Generator().manual_seed(1)))
    assert images.shape == (6, channels, side, side)
    assert 0 < images.min() < images.max() < 1
    assert torch.pdist(images.flatten(1)).min() > 0


def test_fresh_weights_are_drawn_from_the_generator_alone() -> None:
    networks = [Generator(16, latent=32, width=16) for _ in range(3)]
    for network, seed in zip(networks, (0, 0, 1), strict=True):
        network.initialise(torch.Generator().manual_seed(seed))
    first, same, other = (network.state_dict() for network in networks)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["project.weight"], other["project.weight"])
    assert first["project.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert first["layers.0.weight"].mean().item() == pytest.approx(1, abs=0.01)
    assert first["project.bias"].abs().max() == 0


def test_a_side_that_cannot_be_halved_twice_is_refused() -> None:
    with raises(UsageError, subject="generator", problem="not 18"):
        Generator(18)


def test_a_conditional_generator_takes_half_of_its_first_maps_from_the_labels() -> None:
    network = Generator(8, latent=8, width=4, classes=3)
    network.initialise(torch.Generator().manual_seed(0))
    latents, labels = torch.randn(6, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 2, 1, 0])
    images = network(latents, labels)
    assert images.shape == (6, 3, 8, 8)
    # The first layer by hand: maps 0 to 3 from the latent vectors, 4 to 7 from the column of the label.
    first = latents @ network.project.weight.T + network.project.bias
    assert network.project_classes is not None
    second = network.project_classes.weight.T[labels] + network.project_classes.bias
    maps = torch.cat([first.view(6, 4, 2, 2), second.view(6, 4, 2, 2)], 1)
    torch.testing.assert_close(images, network.layers(maps))
    assert not torch.allclose(images, network(latents, labels.flip(0).roll(1)), atol=1e-6)
    assert not torch.allclose(images, network(latents.roll(1, 0), labels), atol=1e-6)
