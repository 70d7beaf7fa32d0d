from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from metazoo.errors import UsageError
from metazoo.models import ClassifierSpec, architectures, build_classifier, square_images

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)


def spec(**changes: Any) -> ClassifierSpec:
    values: dict[str, Any] = {"architecture": "thin-resnet", "arguments": {"width": 4}, "classes": 5, "input_size": 8}
    return ClassifierSpec.model_validate({**values, "mean": MEAN, "std": STD, **changes})


def test_images_that_fit_are_only_normalised() -> None:
    images = torch.rand(4, 3, 8, 8)
    found = build_classifier(spec()).preprocess(images)
    for channel in range(3):
        expected = (images[:, channel] - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(found[:, channel], expected)


def test_grey_is_repeated_and_colour_becomes_luma() -> None:
    grey, colour = torch.rand(2, 1, 8, 8), torch.rand(2, 3, 8, 8)
    found = build_classifier(spec()).preprocess(grey)
    for channel in range(3):
        torch.testing.assert_close(found[:, channel], (grey[:, 0] - MEAN[channel]) / STD[channel])
    of_grey = build_classifier(spec(channels=1, mean=(0.5,), std=(0.25,)))
    luma = 0.299 * colour[:, 0] + 0.587 * colour[:, 1] + 0.114 * colour[:, 2]
    torch.testing.assert_close(of_grey.preprocess(colour), ((luma - 0.5) / 0.25).unsqueeze(1))
    torch.testing.assert_close(of_grey.preprocess(grey), (grey - 0.5) / 0.25)
    assert of_grey(colour).shape == (2, 5)


def test_other_sizes_are_resized_with_antialiasing() -> None:
    classifier = build_classifier(spec(mean=(0.0,) * 3, std=(1.0,) * 3))
    # Halving with an antialiased triangle: the inner pixels weigh their 4 nearest by 1, 3, 3, 1 in each direction.
    images = torch.rand(2, 3, 16, 16)
    weights = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = (weights[:, None] * weights).expand(3, 1, 4, 4)
    expected = nn.functional.conv2d(images, kernel, stride=2, padding=1, groups=3)
    found = classifier.preprocess(images)
    assert found.shape == (2, 3, 8, 8)
    torch.testing.assert_close(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])
    even = torch.full((1, 3, 5, 9), 0.25)
    torch.testing.assert_close(classifier.preprocess(even), torch.full((1, 3, 8, 8), 0.25))
    assert classifier(torch.rand(2, 1, 40, 3)).shape == (2, 5)


def test_features_and_logits_go_through_the_preprocessing() -> None:
    classifier = build_classifier(spec(), torch.Generator().manual_seed(0)).eval()
    images = torch.rand(3, 3, 8, 8)
    prepared = classifier.preprocess(images)
    assert torch.equal(classifier.features(images), classifier.network.features(prepared))
    assert torch.equal(classifier(images), classifier.network(prepared))


def test_its_weights_are_those_of_its_network() -> None:
    classifier = build_classifier(spec())
    assert {name.removeprefix("network.") for name in classifier.state_dict()} == set(classifier.network.state_dict())


@pytest.mark.parametrize("architecture", architectures())
def test_a_generator_fixes_the_weights_and_the_global_one_is_left_alone(architecture: str) -> None:
    wanted = spec(architecture=architecture, input_size=32)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    random = torch.Generator().manual_seed(3)
    first, second = build_classifier(wanted, random), build_classifier(wanted, random)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = build_classifier(wanted, torch.Generator().manual_seed(3))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert not torch.equal(first.network.head.weight, second.network.head.weight)
    torch.manual_seed(2)
    unseeded = [build_classifier(wanted).network.head.weight for _ in range(2)]
    torch.manual_seed(2)
    assert torch.equal(build_classifier(wanted).network.head.weight, unseeded[0])
    assert not torch.equal(*unseeded)


def test_weights_are_channels_last() -> None:
    for module in build_classifier(spec()).modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": (0.5,)},
        {"std": (0.2, 0.2)},
        {"std": (0.2, 0.0, 0.2)},
        {"std": (0.2, -1.0, 0.2)},
        {"std": (0.2, float("nan"), 0.2)},
        {"std": (0.2, float("inf"), 0.2)},
        {"mean": (0.5, float("nan"), 0.5)},
        {"mean": (0.5, float("inf"), 0.5)},
        {"channels": 2, "mean": (0.5, 0.5), "std": (0.5, 0.5)},
        {"channels": 1},
        {"classes": 0},
        {"input_size": 0},
        {"input_size": 1025},
        {"code": "os.system"},
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        spec(**changes)


def test_a_spec_that_cannot_be_built_is_wrong_use_and_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    for changes, value in (
        ({"architecture": "os.system"}, "'os.system'"),
        ({"arguments": {"depth": 1}}, "'depth'"),
        ({"arguments": {"width": 0}}, "width"),
    ):
        with pytest.raises(UsageError, match=value):
            build_classifier(spec(**changes), torch.Generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_spec_comes_back_from_json() -> None:
    assert ClassifierSpec.model_validate_json(spec().model_dump_json()) == spec()


@pytest.mark.parametrize(
    ("height", "width", "top", "left"), [(11, 8, 1, 0), (8, 13, 0, 2), (10, 8, 1, 0), (9, 8, 0, 0)]
)
def test_the_centre_is_kept_and_the_odd_row_or_column_is_cut_off_last(
    height: int, width: int, top: int, left: int
) -> None:
    images = torch.rand(2, 3, height, width)
    assert torch.equal(square_images(images, 8), images[..., top : top + 8, left : left + 8])
    square = images[..., top : top + 8, left : left + 8]
    expected = nn.functional.interpolate(square, (5, 5), mode="bilinear", antialias=True)
    assert torch.equal(square_images(images, 5), expected)
    assert torch.equal(build_classifier(spec()).preprocess(images), build_classifier(spec()).preprocess(square))


@pytest.mark.parametrize("side", [3, 16, 40])
def test_eight_bits_are_not_rounded_to_again(side: int) -> None:
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    expected = images.float() / 255
    if side != 16:
        expected = nn.functional.interpolate(expected, (side, side), mode="bilinear", antialias=True)
    assert torch.equal(square_images(images, side), expected)
    assert torch.equal(square_images(images.float() / 255, side), expected)
    if side == 16:
        assert square_images(expected, side) is expected
