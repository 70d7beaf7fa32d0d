import dataclasses
from typing import Any

import pytest
import torch
from error_checks import raises
from pydantic import ValidationError
from recorded_operations import PlayedBack
from torch import Tensor
from torch.nn import functional
from zoo_helpers import SIDE, coloured_images

from metazoo.data import ImageSet, split_images
from metazoo.errors import Interrupted, UsageError, ZooError
from metazoo.execution.signals import stopped_by
from metazoo.models import ClassifierSpec, build_classifier
from metazoo.zoo import TrainingConfig, train_classifier, with_pixel_statistics
from metazoo.zoo.building import classifier_training

SHORT = TrainingConfig(epochs=3, batch_size=16)


def spec(classes: int = 6, architecture: str = "thin-resnet", size: int = SIDE, channels: Any = 3) -> ClassifierSpec:
    mean, std = (0.5,) * channels, (0.25,) * channels
    return ClassifierSpec(
        architecture=architecture,
        arguments={"width": 4},
        classes=classes,
        input_size=size,
        channels=channels,
        mean=mean,
        std=std,
    )


def train(image_set: ImageSet, config: TrainingConfig, seed: int = 0, **more: Any) -> tuple[dict[str, Tensor], float]:
    parts = split_images(image_set)
    random = torch.Generator().manual_seed(seed)
    classifier, accuracy = train_classifier(spec(len(image_set.class_names)), *parts, config, random, **more)
    assert not any(module.training for module in classifier.modules())
    return classifier.state_dict(), accuracy


@pytest.mark.parametrize(
    ("architecture", "given", "expected"),
    [
        ("conv4", {}, ("adam", 0.01, 0.0, 0.0, (70,))),
        ("thin-resnet", {}, ("sgd", 0.01, 0.9, 5e-4, (30, 50, 80))),
        ("conv4", {"optimiser": "sgd", "learning_rate": 0.1}, ("sgd", 0.1, 0.9, 5e-4, (30, 50, 80))),
        ("thin-resnet", {"optimiser": "adam", "milestones": ()}, ("adam", 0.01, 0.0, 0.0, ())),
        ("thin-resnet", {"momentum": 0.0, "weight_decay": 0.0}, ("sgd", 0.01, 0.0, 0.0, (30, 50, 80))),
    ],
)
def test_the_published_config(architecture: str, given: dict[str, Any], expected: tuple[Any, ...]) -> None:
    config = TrainingConfig(**given)
    assert (config.epochs, config.batch_size, config.decay, config.gradient_norm) == (60, 128, 0.2, 50)
    resolved = config.resolved(architecture)
    found = (resolved.optimiser, resolved.learning_rate, resolved.momentum, resolved.weight_decay, resolved.milestones)
    assert found == expected
    assert resolved.is_resolved
    assert not config.is_resolved
    assert resolved.resolved(architecture) == resolved


def test_the_learning_rate_falls_at_milestones() -> None:
    config = TrainingConfig().resolved("thin-resnet")
    rates = [config.learning_rate_in(epoch) for epoch in (0, 29, 30, 49, 50, 79, 80)]
    assert rates == pytest.approx([0.01, 0.01, 0.002, 0.002, 0.0004, 0.0004, 0.00008])


@pytest.mark.parametrize(
    "values", [{"epochs": 0}, {"batch_size": 1}, {"learning_rate": 0}, {"learning_rate": float("inf")}, {"lr": 1}]
)
def test_impossible_configs(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainingConfig(**values)
    with raises(UsageError, subject="momentum", problem="0.5"):
        TrainingConfig(momentum=0.5).resolved("conv4")


def test_it_learns_and_is_deterministic() -> None:
    image_set = coloured_images(each=30)
    config = TrainingConfig(epochs=12, batch_size=16, learning_rate=0.05)
    before = torch.get_rng_state()
    state, accuracy = train(image_set, config)
    assert torch.equal(torch.get_rng_state(), before)
    assert accuracy > 80
    again, same = train(image_set, config)
    other, _ = train(image_set, config, seed=1)
    assert same == accuracy
    assert all(torch.equal(state[name], again[name]) for name in state)
    assert not torch.equal(state["network.head.weight"], other["network.head.weight"])


def test_steps_are_those_of_a_plain_loop() -> None:
    """One batch an epoch, so that only the order within it, which matters to rounding alone, is left open."""
    image_set = coloured_images(classes=3, each=5)
    training_set, validation_set = split_images(image_set)
    config = TrainingConfig(epochs=3, milestones=(1,), decay=0.1, gradient_norm=0.5, learning_rate=0.2)
    trained, _ = train_classifier(spec(3), training_set, validation_set, config, torch.Generator().manual_seed(5))
    oracle = build_classifier(spec(3), torch.Generator().manual_seed(5)).train()
    velocity = [torch.zeros_like(parameter) for parameter in oracle.parameters()]
    for rate in (0.2, 0.02, 0.02):
        loss = functional.cross_entropy(oracle(training_set.images / 255), training_set.labels)
        gradients = torch.autograd.grad(loss, list(oracle.parameters()))
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        assert norm > 0.5
        with torch.no_grad():
            for parameter, gradient, speed in zip(oracle.parameters(), gradients, velocity, strict=True):
                speed.mul_(0.9).add_(gradient * 0.5 / norm + 5e-4 * parameter)
                parameter.sub_(rate * speed)
    for name, tensor in trained.state_dict().items():
        torch.testing.assert_close(tensor, oracle.state_dict()[name], rtol=1e-3, atol=1e-4, msg=name)


def test_augmentation_moves_images_and_nothing_else() -> None:
    """Images of one colour are the same wherever they are moved to, so with them nothing may change."""
    pictures = coloured_images(classes=3, each=5)
    flat = dataclasses.replace(pictures, images=pictures.images[:, :, :1, :1].expand(-1, -1, SIDE, SIDE).contiguous())
    for image_set, same in ((flat, True), (pictures, False)):
        plain, _ = train(image_set, SHORT)
        for largest_shift in (0, 4):
            moved, _ = train(image_set, SHORT.model_copy(update={"largest_shift": largest_shift}))
            assert all(torch.equal(plain[name], moved[name]) for name in plain) is same


@pytest.mark.parametrize("largest_shift", [None, 2])
def test_steps_played_back_from_a_recording_train_the_same(
    largest_shift: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whole batches and a smaller one by three learning rates: six recordings. Momentum would begin with the first step.
    config = TrainingConfig(epochs=3, batch_size=5, milestones=(1, 2), momentum=0.0, largest_shift=largest_shift)
    image_set = coloured_images(classes=3, each=7)
    assert len(split_images(image_set)[0]) % 5 > 1
    called, _ = train(image_set, config)
    monkeypatch.setattr(classifier_training, "Repeated", PlayedBack)
    played, _ = train(image_set, config)
    assert all(torch.equal(value, played[name]) for name, value in called.items())


def test_a_last_single_image_is_left_out_and_two_are_not() -> None:
    for each, left_out in ((5, 1), (6, 0)):  # 12 or 15 training images in batches of 11 or 13
        parts = split_images(coloured_images(classes=3, each=each))
        count = len(parts[0])
        config = TrainingConfig(epochs=1, batch_size=count - 1 if left_out else count - 2)
        trained, _ = train_classifier(spec(3), *parts, config, torch.Generator().manual_seed(0))
        assert int(trained.state_dict()["network.stem.1.num_batches_tracked"]) == 2 - left_out


@pytest.mark.parametrize("architecture", ["thin-resnet", "conv4"])
def test_a_training_that_does_not_stay_finite_is_named(architecture: str) -> None:
    image_set = coloured_images(classes=2, each=6, side=16)
    config = TrainingConfig(epochs=20, learning_rate=1e6, gradient_norm=1e6, optimiser="sgd", weight_decay=100)
    random = torch.Generator().manual_seed(0)
    with raises(ZooError, subject="wild", problem="in epoch", remedy="1e+06"):
        train_classifier(spec(2, architecture, 16), *split_images(image_set), config, random, name="wild")


def test_it_stops_after_an_epoch_when_asked_to(image_set: ImageSet) -> None:
    epochs = []

    def check() -> None:
        epochs.append(1)
        if len(epochs) == 2:
            raise Interrupted("stop")

    with pytest.raises(Interrupted), stopped_by(check):
        train(image_set, SHORT)
    assert len(epochs) == 2


def test_sets_that_do_not_fit_are_wrong_use(image_set: ImageSet) -> None:
    training_set, validation_set = split_images(image_set)
    random = torch.Generator()
    with raises(UsageError, problem="6 training and 6 validation classes for a model of 5"):
        train_classifier(spec(5), training_set, validation_set, SHORT, random)
    with raises(UsageError, problem="6 training and 2 validation classes"):
        train_classifier(spec(6), training_set, validation_set.select_classes([0, 1]), SHORT, random)
    with raises(UsageError, problem="one image"):
        train_classifier(spec(6), training_set.take(torch.tensor([0])), validation_set, SHORT, random)


def test_pixel_statistics_are_those_the_network_sees(image_set: ImageSet) -> None:
    pixels = image_set.images.double() / 255
    colour = with_pixel_statistics(spec(), image_set.images)
    assert colour.mean == tuple(round(value, 4) for value in pixels.mean((0, 2, 3)).tolist())
    assert colour.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=6e-5)
    grey = with_pixel_statistics(spec(channels=1), image_set.images)
    luma = (pixels * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1)
    assert grey.mean == pytest.approx([luma.mean().item()], abs=6e-5)
    assert grey.std == pytest.approx([luma.std(correction=0).item()], abs=6e-5)
    assert colour.model_copy(update={"mean": spec().mean, "std": spec().std}) == spec()


def test_a_channel_that_does_not_vary_counts_as_varying_by_one_level() -> None:
    images = torch.zeros(300, 3, SIDE, SIDE, dtype=torch.uint8)
    images[::2, 0] = 255
    images[:, 2] = 51
    found = with_pixel_statistics(spec(), images)
    assert found.mean == (0.5, 0.0, 0.2)
    assert found.std == (0.5, 0.0039, 0.0039)
