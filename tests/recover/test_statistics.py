import copy

import pytest
import torch
from recover_helpers import letters, recover, spec_of
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from metazoo.models import build_classifier
from metazoo.recover.objectives import batch_norm_distance
from metazoo.recover.pixels import RecoveryConfig
from metazoo.recover.statistics import BatchNormReader
from metazoo.zoo import WhiteBoxTeacher


class NormAndActivation(nn.BatchNorm2d):
    """Batch norm with another forward, as in some imported models."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return torch.relu(super().forward(input))


def smooth_network(norm: type[_BatchNorm] = nn.BatchNorm2d) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(2, 3, 3), norm(3), nn.Tanh(), nn.Conv2d(3, 2, 2), nn.BatchNorm2d(2, affine=False))
    layers(torch.randn(64, 2, 5, 5))
    for layer in layers:
        if isinstance(layer, _BatchNorm) and layer.affine:
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return layers.eval().requires_grad_(False)


def inputs_of_batch_norm(network: nn.Module, images: Tensor) -> list[Tensor]:
    seen: list[Tensor] = []
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    handles = [layer.register_forward_pre_hook(lambda _, given: seen.append(given[0])) for layer in layers]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    return seen


def traces(network: nn.Module) -> list[tuple[list[int], list[str]]]:
    """Everything that a reader could leave changed."""
    return [(list(part._forward_pre_hooks), sorted(vars(part))) for part in network.modules()]


@pytest.mark.parametrize("architecture", ["conv4", "thin-resnet"])
@pytest.mark.parametrize("parts", [1, 3])
def test_what_is_observed_is_what_each_layer_was_given(architecture: str, parts: int) -> None:
    classifier = build_classifier(spec_of(architecture=architecture), torch.Generator().manual_seed(0)).eval()
    images = torch.rand(10, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    plain = classifier(images)
    with BatchNormReader(classifier) as reader, torch.no_grad():
        classifier(images[:3])
        reader.clear()  # the next batch starts anew
        outputs = torch.cat([classifier(part) for part in images.tensor_split(parts)])
        observed, stored = reader.observed, reader.stored
    torch.testing.assert_close(outputs, plain)
    layers = [layer for layer in classifier.modules() if isinstance(layer, _BatchNorm)]
    seen = inputs_of_batch_norm(classifier, images)
    assert len(observed) == len(stored) == len(layers) == len(seen) > 3
    running = {layer.running_mean: layer.running_var for layer in layers}
    for (mean, variance), (stored_mean, stored_variance), values in zip(observed, stored, seen, strict=True):
        expected_variance, expected_mean = torch.var_mean(values, (0, 2, 3), correction=0)
        torch.testing.assert_close(mean, expected_mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(variance, expected_variance, rtol=1e-4, atol=1e-5)
        assert stored_variance is running[stored_mean]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, NormAndActivation])
def test_gradients_agree_with_finite_differences(norm: type[_BatchNorm], memory_format: torch.memory_format) -> None:
    network = smooth_network(norm).double()
    random = torch.Generator().manual_seed(3)
    images = torch.randn(3, 2, 4, 4, generator=random, dtype=torch.float64).contiguous(memory_format=memory_format)

    def loss(values: Tensor) -> tuple[Tensor, Tensor]:
        with BatchNormReader(network) as reader:
            outputs = torch.cat([network(part) for part in values.tensor_split(2)])
            return outputs.square().sum(), batch_norm_distance(reader.observed, reader.stored)

    assert torch.autograd.gradcheck(loss, images.requires_grad_())


@pytest.mark.parametrize("of_outputs", [False, True])
@pytest.mark.parametrize("of_statistics", [False, True])
def test_gradients_are_those_of_torch_itself(of_outputs: bool, of_statistics: bool, teacher: WhiteBoxTeacher) -> None:
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def gradient(network: nn.Module) -> Tensor:
        with BatchNormReader(network) as reader:
            logits = network(images)
            loss = (images * 0).sum()
            loss = loss + (functional.cross_entropy(logits, torch.arange(6) % 4) if of_outputs else 0)
            loss = loss + (batch_norm_distance(reader.observed, reader.stored) if of_statistics else 0)
            return torch.autograd.grad(loss, images)[0]

    watched = copy.deepcopy(teacher)
    for layer in watched.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.__class__ = Watched
    torch.testing.assert_close(gradient(teacher), gradient(watched), rtol=1e-4, atol=1e-6)


class Watched(nn.BatchNorm2d):
    """The same batch norm, in a subclass that the reader does not know."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input)


def test_nothing_is_left_behind_also_after_an_error(teacher: WhiteBoxTeacher) -> None:
    odd = smooth_network(NormAndActivation)
    for network in (teacher, odd):
        before = traces(network)
        with BatchNormReader(network):
            assert traces(network) != before
        assert traces(network) == before
        with pytest.raises(ZeroDivisionError), BatchNormReader(network):
            raise ZeroDivisionError
        assert traces(network) == before
    before = traces(teacher)
    recover(teacher, torch.tensor([0, 1]), RecoveryConfig(iterations=2), torch.Generator())
    assert traces(teacher) == before


def test_readers_within_each_other_both_see_and_clean_up(teacher: WhiteBoxTeacher) -> None:
    before, images = traces(teacher), torch.rand(3, 3, 16, 16)
    with BatchNormReader(teacher) as outer:
        with BatchNormReader(teacher) as inner:
            teacher(images)
        assert len(inner.observed) == len(outer.observed) == 4
        for (mean, variance), (other_mean, other_variance) in zip(inner.observed, outer.observed, strict=True):
            torch.testing.assert_close(mean, other_mean)
            torch.testing.assert_close(variance, other_variance, rtol=1e-4, atol=1e-5)
    assert traces(teacher) == before


def test_layers_that_keep_no_statistics_learn_or_do_not_run_are_absent() -> None:
    network = nn.Sequential(
        nn.BatchNorm2d(2, track_running_stats=False), nn.BatchNorm2d(2), nn.InstanceNorm2d(2), nn.Identity()
    )
    network[3].unused = nn.BatchNorm2d(5)
    network.eval()
    network[1].train()
    with BatchNormReader(network) as reader:
        network(torch.randn(4, 2, 3, 3))
        assert reader.observed == reader.stored == []
        assert batch_norm_distance(reader.observed, reader.stored).item() == 0


def test_a_layer_that_runs_twice_counts_both_inputs() -> None:
    norm = nn.BatchNorm1d(3).eval()
    first, second = torch.randn(5, 3), torch.randn(8, 3) + 2
    with BatchNormReader(norm) as reader:
        norm(first)
        norm(second)
        ((mean, variance),) = reader.observed
    expected, expected_mean = torch.var_mean(torch.cat([first, second]), 0, correction=0)
    torch.testing.assert_close(mean, expected_mean)
    torch.testing.assert_close(variance, expected)


def test_a_trained_teacher_is_nearer_to_its_letters_than_to_noise(teacher: WhiteBoxTeacher) -> None:
    distances = []
    for images in (letters(4, 16)[0], torch.rand(120, 3, 16, 16)):
        with BatchNormReader(teacher) as reader, torch.no_grad():
            teacher(images)
            distances.append(batch_norm_distance(reader.observed, reader.stored).item())
    assert distances[0] < distances[1] / 2


def statistics_of(norm: _BatchNorm, inputs: Tensor) -> tuple[Tensor, Tensor]:
    with BatchNormReader(norm) as reader:
        norm(inputs)
        ((mean, variance),) = reader.observed
    return mean, variance


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, NormAndActivation])
@pytest.mark.parametrize(("dtype", "mean", "tolerance"), [(torch.float32, 3000.0, 1e-4), (torch.bfloat16, 3.0, 1e-3)])
def test_the_variance_of_inputs_far_from_zero_is_exact(
    norm: type[_BatchNorm], dtype: torch.dtype, mean: float, tolerance: float
) -> None:
    layer = norm(2).eval()
    noise = torch.randn(40, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    layer.running_mean = torch.full((2,), mean + 0.1)
    inputs = (mean + 0.4 * noise).to(dtype)
    expected, expected_mean = torch.var_mean(inputs.double(), (0, 2, 3), correction=0)
    found_mean, found = statistics_of(layer, inputs)
    torch.testing.assert_close(found, expected.float(), rtol=tolerance, atol=0)
    torch.testing.assert_close(found_mean, expected_mean.float(), rtol=1e-5, atol=0)
