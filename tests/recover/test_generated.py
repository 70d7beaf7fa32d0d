from typing import Literal

import pytest
import torch
from recover_helpers import distances, recover, spec_of, teacher_of, trained

from metazoo.models import Generator
from metazoo.recover import GeneratorCanvas, GeneratorConfig
from metazoo.zoo import WhiteBoxTeacher

WANTED = torch.arange(4).repeat(6)
SMALL = GeneratorConfig(iterations=60, learning_rate=5e-3, latent=32, width=8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shared", [True, False])
def test_the_teacher_recognises_what_is_recovered_and_is_as_it_was(teacher: WhiteBoxTeacher, shared: bool) -> None:
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    hooks = sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in teacher.modules())
    config = SMALL.model_copy(update={"shared_augmentation": shared})
    result = recover(teacher, WANTED, config, seeded())
    assert (result.images.shape, result.images.dtype) == ((24, 3, 16, 16), torch.uint8)
    assert torch.equal(result.labels, WANTED)
    assert result.health.agreement > 0.8
    distance, at_start = distances(result.health)
    assert distance < at_start / 2
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert hooks == sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in teacher.modules())


def test_a_second_bucket_continues_with_the_generator_of_the_first(teacher: WhiteBoxTeacher) -> None:
    short = SMALL.model_copy(update={"iterations": 10})
    one, two = (inversion.run().best() for inversion in short.inversions(teacher, [WANTED, WANTED], seeded()))
    alone = recover(teacher, WANTED, short, seeded())
    assert torch.equal(one.images, alone.images)
    pairs = zip(distances(one.health), distances(two.health), strict=True)
    assert all(second < first for first, second in pairs)


@pytest.mark.parametrize(("side", "channels"), [(18, 3), (16, 1)])
def test_every_size_and_channel_of_teacher_is_served(side: int, channels: Literal[1, 3]) -> None:
    teacher = teacher_of(trained(spec_of(4, side, channels)))
    result = recover(teacher, WANTED, SMALL, seeded())
    assert result.images.shape == (24, channels, -(-side // 4) * 4, -(-side // 4) * 4)
    assert result.health.agreement > 0.6


def test_a_conditional_generator_alone_is_trained_if_the_latent_vectors_are_fixed(teacher: WhiteBoxTeacher) -> None:
    config = SMALL.model_copy(update={"conditional": True, "fixed_latents": True})
    (inversion,) = config.inversions(teacher, [WANTED], seeded())
    canvas = inversion.canvas
    assert isinstance(canvas, GeneratorCanvas)
    assert isinstance(canvas.network, Generator)
    latents, weights = canvas.latents.clone(), canvas.network.project.weight.clone()
    result = inversion.run().best()
    assert result.health.agreement > 0.8
    assert torch.equal(canvas.latents, latents)
    assert not torch.equal(canvas.network.project.weight, weights)
    assert canvas.labels is not None
    assert torch.equal(canvas.labels, WANTED)
    trained = GeneratorConfig(**{**config.model_dump(), "fixed_latents": False})
    (inversion,) = trained.inversions(teacher, [WANTED], seeded())
    assert isinstance(inversion.canvas, GeneratorCanvas)
    inversion.step()
    assert not torch.equal(inversion.canvas.latents, latents)
