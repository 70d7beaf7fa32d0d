import pytest
import torch
from error_checks import raises
from torch.nn import functional

from metazoo.errors import UsageError
from metazoo.features.embedders import JointFeatures, MirroredFeatures, PixelFeatures, count_parameters, device_of
from metazoo.models import ClassifierSpec, ImageClassifier, build_classifier


def classifier(architecture: str, width: int, seed: int = 0, channels: int = 3) -> ImageClassifier:
    spec = ClassifierSpec.model_validate(
        {
            "architecture": architecture,
            "arguments": {"width": width},
            "classes": 3,
            "input_size": 16,
            "channels": channels,
            "mean": (0.5,) * channels,
            "std": (0.25,) * channels,
        }
    )
    return build_classifier(spec, torch.Generator().manual_seed(seed)).eval()


def pictures(count: int, side: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_the_cosine_of_joint_features_is_the_mean_of_the_members_cosines() -> None:
    members = [classifier("conv4", 8), classifier("thin-resnet", 4), classifier("conv4", 4, channels=1)]
    images = pictures(6)
    joint = JointFeatures(members).features(images)
    assert joint.shape == (6, 8 + 16 + 4)
    cosines = torch.stack(
        [
            functional.cosine_similarity(features[:, None], features[None], dim=2)
            for features in (member.features(images) for member in members)
        ]
    )
    torch.testing.assert_close(functional.cosine_similarity(joint[:, None], joint[None], dim=2), cosines.mean(0))


def test_joint_features_nest_and_need_a_member() -> None:
    members = [classifier("conv4", 4), classifier("conv4", 4, seed=1)]
    nested = JointFeatures([JointFeatures(members), PixelFeatures(4)])
    assert nested.features(pictures(2)).shape == (2, 8 + 48)
    with raises(UsageError, subject="members", remedy="at least one"):
        JointFeatures([])


@torch.no_grad()
@pytest.mark.parametrize("joint", [False, True])
def test_mirrored_features_are_means_and_those_of_the_mirror_image(joint: bool) -> None:
    embedder = (
        JointFeatures([classifier("conv4", 4), classifier("thin-resnet", 4)]) if joint else classifier("conv4", 4)
    )
    images = pictures(5)
    found = MirroredFeatures(embedder).features(images)
    expected = (embedder.features(images) + embedder.features(images.flip(3))) / 2
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(MirroredFeatures(embedder).features(images.flip(3)), found)
    assert (found - embedder.features(images)).abs().max() > 1e-3
    assert count_parameters(MirroredFeatures(embedder)) == count_parameters(embedder)


def test_pixels_are_the_image_and_are_resized_by_area() -> None:
    images = pictures(3, side=8)
    assert torch.equal(PixelFeatures(8).features(images), images.flatten(1))
    flat = torch.full((2, 3, 8, 8), 0.3)
    torch.testing.assert_close(PixelFeatures(4).features(flat), torch.full((2, 48), 0.3))
    assert PixelFeatures(4).features(images).shape == (3, 48)
    with raises(UsageError, subject="side", problem="0"):
        PixelFeatures(0)


def test_parameters_are_counted_without_class_heads() -> None:
    one, other = classifier("conv4", 8), classifier("thin-resnet", 4)
    by_hand = {
        member: sum(p.numel() for name, p in member.network.named_parameters() if not name.startswith("head."))
        for member in (one, other)
    }
    assert count_parameters(one) == by_hand[one] > 0
    assert count_parameters(JointFeatures([one, other, one])) == by_hand[one] + by_hand[other]
    assert count_parameters(PixelFeatures(4)) == 0


def test_the_device_is_that_of_the_tensors() -> None:
    assert device_of(PixelFeatures(4)) is None
    assert device_of(JointFeatures([PixelFeatures(4), classifier("conv4", 4)])) == torch.device("cpu")
