"""Alignment finds planted permutations, and agrees with a search through all permutations."""

import itertools
import math

import numpy as np
import pytest
import torch
from fusion_helpers import Sharing, classifier, pictures, random_orders, sharing, shuffled_copy, with_tensors
from plugins.plugin_helpers import without_plugins
from torch import Tensor

from metazoo.fusion import average_parameters, fuse_by_transport
from metazoo.fusion.average import feature_tensors
from metazoo.fusion.channel_groups import channel_groups, permuted
from metazoo.fusion.optimal_transport import align
from metazoo.models import ImageClassifier, register_architecture

NETWORKS = [("conv4", 8), ("resnet18", 4), ("cifar-resnet20", 4), ("mobilenet-v2", 4), ("lenet5", 4)]


@pytest.mark.parametrize("sweeps", [0, 5])
@pytest.mark.parametrize(("architecture", "width"), NETWORKS)
def test_a_planted_permutation_is_found_exactly(architecture: str, width: int, sweeps: int) -> None:
    original = classifier(architecture, width=width)
    groups, target = channel_groups(original), feature_tensors(original)
    moved = permuted(target, groups, random_orders(groups))
    assert any(not torch.equal(moved[name], target[name]) for name in target)
    aligned = align(moved, target, groups, sweeps)
    assert all(torch.equal(aligned[name], target[name]) for name in target)


@pytest.mark.parametrize(("architecture", "width"), NETWORKS[:2])
def test_permuted_copies_fuse_to_the_original(architecture: str, width: int) -> None:
    original = classifier(architecture, width=width)
    groups = channel_groups(original)
    copies = [shuffled_copy(original, groups, seed) for seed in range(3)]
    images = pictures(4)
    fused, plain = fuse_by_transport([*copies, original], original), average_parameters(copies, original.spec)
    assert fused is not None
    assert plain is not None
    torch.testing.assert_close(fused.features(images), original.features(images))
    assert not torch.allclose(plain.features(images), original.features(images), rtol=0.1)
    assert not fused.network.head.weight.any()


def test_permuted_copies_of_a_network_with_shared_tensors_fuse_to_the_original() -> None:
    with without_plugins():
        register_architecture("sharing", Sharing)
        original = sharing(0)
        groups, images = channel_groups(original), pictures(4, 12)
        copies = [shuffled_copy(original, groups, seed) for seed in range(3)]
        wanted = original.features(images)
        for copy in copies:
            found = copy.features(images)
            assert not torch.allclose(found, wanted)
            torch.testing.assert_close(found.sort(1).values, wanted.sort(1).values)
        fused = fuse_by_transport([*copies, original], original)
    assert fused is not None
    torch.testing.assert_close(fused.features(images), wanted)


def noisy(of: ImageClassifier, seed: int, noise: float) -> ImageClassifier:
    random = torch.Generator().manual_seed(seed)
    tensors = {
        name: tensor + noise * tensor.abs().mean() * torch.rand(tensor.shape, generator=random)
        for name, tensor in of.network.state_dict().items()
        if not name.startswith("head.") and tensor.is_floating_point()
    }
    return with_tensors(of, tensors)


def test_unequal_models_are_averaged_after_the_alignment() -> None:
    original = classifier("conv4", width=6)
    groups, near = channel_groups(original), noisy(original, 1, 0.2)
    fused = fuse_by_transport([shuffled_copy(near, groups, 2), original], original)
    mean = average_parameters([near, original], original.spec)
    assert fused is not None
    assert mean is not None
    for name, tensor in mean.network.state_dict().items():
        torch.testing.assert_close(fused.network.state_dict()[name], tensor)


def test_the_order_of_the_models_does_not_matter() -> None:
    models = [classifier("conv4", seed, width=6) for seed in range(4)]
    one, other = (fuse_by_transport(order, models[0]) for order in (models, models[::-1]))
    assert one is not None
    assert other is not None
    for name, tensor in one.network.state_dict().items():
        torch.testing.assert_close(other.network.state_dict()[name], tensor)
    assert fuse_by_transport(models[:1], models[0]) is None


def search_conv4(own: dict[str, np.ndarray], target: dict[str, np.ndarray]) -> list[tuple[int, ...]]:
    """Best order of each layer of a conv4, given those before it, among all permutations."""
    orders: list[tuple[int, ...]] = []
    for block in range(4):
        weight, wanted = own[f"blocks.{block}.0.weight"], target[f"blocks.{block}.0.weight"]
        if orders:
            weight = weight[:, list(orders[-1])]
        rows = [np.append(row, bias) for row, bias in zip(weight, own[f"blocks.{block}.0.bias"], strict=True)]
        ends = [np.append(row, bias) for row, bias in zip(wanted, target[f"blocks.{block}.0.bias"], strict=True)]
        costs = {
            order: sum(math.sqrt(sum((rows[p] - ends[q]) ** 2)) for q, p in enumerate(order))
            for order in itertools.permutations(range(len(rows)))
        }
        orders.append(min(costs, key=costs.__getitem__))
    return orders


@pytest.mark.parametrize("seed", range(5))
def test_a_search_through_all_permutations_finds_the_same(seed: int) -> None:
    own, target = (classifier("conv4", number, width=4, size=16) for number in (2 * seed, 2 * seed + 1))
    tensors, wanted = feature_tensors(own), feature_tensors(target)
    orders = search_conv4(*({k: v.numpy() for k, v in some.items()} for some in (tensors, wanted)))
    aligned = align(tensors, wanted, channel_groups(target))
    expected = permuted(tensors, channel_groups(target), [torch.tensor(order) for order in orders])
    assert all(torch.equal(aligned[name], expected[name]) for name in expected)


def distance(own: dict[str, Tensor], target: dict[str, Tensor]) -> float:
    return sum(float((own[name] - target[name]).square().sum()) for name in own if "running" not in name)


@pytest.mark.parametrize("architecture", ["conv4", "thin-resnet"])
def test_sweeps_end_where_no_single_layer_can_be_improved(architecture: str) -> None:
    own, target = (classifier(architecture, seed, width=4) for seed in (0, 1))
    groups, wanted = channel_groups(target), feature_tensors(target)
    once = align(feature_tensors(own), wanted, groups)
    swept = align(feature_tensors(own), wanted, groups, sweeps=50)
    least = distance(swept, wanted)
    assert least < distance(once, wanted)
    identity = [torch.arange(group.size) for group in groups]
    for number, group in enumerate(groups):
        if group.size <= 4:
            for order in itertools.permutations(range(group.size)):
                orders = [*identity[:number], torch.tensor(order), *identity[number + 1 :]]
                assert distance(permuted(swept, groups, orders), wanted) >= least - 1e-9
