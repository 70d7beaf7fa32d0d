from collections.abc import Callable

import pytest
import torch
from recorded_operations import PlayedBack, RecordedOperations
from recover_helpers import VISION_TRANSFORMER, recover, spec_of, teacher_of, trained

from metazoo.execution.compute import Compute
from metazoo.execution.repeat import Repeated, record
from metazoo.recover import GeneratorConfig, RecoveredImages, RecoveryConfig, inversion
from metazoo.zoo import WhiteBoxTeacher

WANTED = torch.arange(4).repeat(6)
PIXELS = RecoveryConfig(iterations=9)
GENERATOR = GeneratorConfig(iterations=7, latent=16, width=4)


@pytest.mark.parametrize(
    "config",
    [
        PIXELS,
        RecoveryConfig(iterations=6, l2=0.1, total_variation=0),
        GENERATOR,
        GENERATOR.model_copy(update={"shared_augmentation": False}),
    ],
)
@pytest.mark.parametrize(
    ("architecture", "precision"), [("conv4", "float32"), ("thin-resnet", "float32"), ("conv4", "bfloat16")]
)
def test_a_recorded_step_played_back_recovers_the_same_images(
    config: RecoveryConfig | GeneratorConfig, architecture: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = teacher_of(trained(spec_of(architecture=architecture), steps=3))

    def recover() -> list[RecoveredImages]:
        with Compute.choose("cpu", precision).mixed():
            buckets = [WANTED] * (1 + isinstance(config, GeneratorConfig))
            return [inversion.run().best() for inversion in config.inversions(teacher, buckets, seeded())]

    called = recover()
    monkeypatch.setattr(inversion, "Repeated", PlayedBack)
    played = recover()
    for one, two in zip(called, played, strict=True):
        assert torch.equal(one.images, two.images)
        assert one.health == two.health


def test_so_does_one_with_a_guide(teacher: WhiteBoxTeacher, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = teacher_of(trained(spec_of(), batch_norm=False))
    called = recover(plain, WANTED, PIXELS, seeded(), guide=teacher)
    monkeypatch.setattr(inversion, "Repeated", PlayedBack)
    played = recover(plain, WANTED, PIXELS, seeded(), guide=teacher)
    assert torch.equal(called.images, played.images)


def test_a_step_that_waits_for_the_device_is_not_recorded_and_has_no_effect() -> None:
    values = torch.zeros(2)

    def step() -> None:
        values.add_(1)
        if values.sum() > 0:
            values.mul_(2)

    assert not record(step, RecordedOperations())
    assert torch.equal(values, torch.zeros(2))


def test_a_step_that_counts_in_python_is_wrong_when_it_is_played_back() -> None:
    values, done = torch.zeros(()), 0

    def step() -> None:
        nonlocal done
        done += 1
        values.add_(done)

    recording = RecordedOperations()
    assert record(step, recording)
    for _ in range(3):
        recording.replay()
    assert values.item() == 3  # and not 1 + 2 + 3, as a call at every step would give


def test_vision_transformers_that_lose_patches_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def watched(step: Callable[[], None], device: torch.device, *, recordable: bool) -> Repeated[None]:
        asked.append(recordable)
        return Repeated(step, device)

    monkeypatch.setattr(inversion, "Repeated", watched)
    teacher = teacher_of(trained(VISION_TRANSFORMER, steps=1))
    for share in (0.0, 0.5):
        config = RecoveryConfig(iterations=4, dropped_tokens=share)
        recover(teacher, WANTED, config, seeded())
    assert asked == [True, False]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
