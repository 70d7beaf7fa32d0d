"""Stored batch-norm statistics over several batches, against those of one."""

import copy

import pytest
import torch
from learn_helpers import SIDE, student
from torch import Tensor, nn

from metazoo.features.batch_norm import calibrate_statistics, measure_statistics, store_statistics
from metazoo.models import ClassifierSpec, ImageClassifier, build_classifier


def classifier() -> ImageClassifier:
    return student().classifier


def pictures(count: int, seed: int) -> Tensor:
    """Brighter or darker by seed, so that the means of batches differ."""
    images = torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return images * (0.2 + 0.15 * seed)


BATCHES = [pictures(7, 0), pictures(4, 2), pictures(9, 4)]


def layers(module: ImageClassifier) -> list[nn.BatchNorm2d]:
    return [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]


def stored(layer: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean, layer.running_var


def test_the_first_layer_has_the_statistics_of_all_batches_at_once() -> None:
    module = classifier()
    first = layers(module)[0]
    expected = measure_statistics(module, torch.cat(BATCHES))[first]
    calibrate_statistics(module, BATCHES)
    torch.testing.assert_close(stored(first), expected)


def test_later_layers_pool_the_statistics_of_all_batches() -> None:
    module = classifier()
    inputs: dict[nn.BatchNorm2d, list[Tensor]] = {layer: [] for layer in layers(module)}

    def note(layer: nn.BatchNorm2d, given: tuple[Tensor]) -> None:
        inputs[layer].append(given[0].detach())

    for layer in inputs:
        layer.register_forward_pre_hook(note)
    calibrate_statistics(module, BATCHES)
    for layer, seen in inputs.items():
        together = torch.cat([part.transpose(0, 1).flatten(1) for part in seen], 1)
        torch.testing.assert_close(stored(layer), (together.mean(1), together.var(1, correction=0)))


def test_one_batch_is_stored_as_it_is() -> None:
    one, other = classifier(), classifier()
    calibrate_statistics(one, BATCHES[:1])
    store_statistics(other, BATCHES[0])
    for own, expected in zip(layers(one), layers(other), strict=True):
        torch.testing.assert_close(stored(own), stored(expected))


def test_the_order_of_the_batches_does_not_matter_and_their_sizes_do() -> None:
    ends = []
    for batches in (BATCHES, BATCHES[::-1], [*BATCHES[:2], BATCHES[2][:3]]):
        module = classifier()
        calibrate_statistics(module, batches)
        ends.append(stored(layers(module)[0]))
    torch.testing.assert_close(ends[0], ends[1])
    assert not torch.allclose(ends[0][0], ends[2][0], rtol=1e-3)


@pytest.mark.parametrize("training", [False, True])
def test_nothing_else_changes(training: bool) -> None:
    module = classifier().train(training)
    parameters = copy.deepcopy(dict(module.named_parameters()))
    calibrate_statistics(module, BATCHES)
    assert all(torch.equal(value, parameters[name]) for name, value in module.named_parameters())
    assert all(part.training == training for part in module.modules())
    assert not any(part._forward_pre_hooks for part in module.modules())
    assert not any(buffer.requires_grad for buffer in module.buffers())


def test_a_network_without_batch_norm_is_left_alone() -> None:
    spec = ClassifierSpec(architecture="timm:test_vit", classes=2, input_size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
    network = build_classifier(spec, torch.Generator().manual_seed(0))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    calibrate_statistics(network, iter(()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
