import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from error_checks import raises
from torch import Tensor, nn
from torch.nn import functional

from metazoo.errors import UsageError
from metazoo.features.batch_norm import (
    batch_norm_mode,
    batch_statistics,
    has_batch_norm,
    measure_statistics,
    store_statistics,
    stored_statistics,
    support_statistics,
)
from metazoo.features.embedders import PixelFeatures


class Tiny(nn.Module):
    """Module with two batch norms, one of which may store no statistics, and dropout."""

    def __init__(self, tracks: bool = True) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.first = nn.BatchNorm2d(4)
        self.second = nn.BatchNorm1d(4, track_running_stats=tracks)
        self.dropout = nn.Dropout(0.5)
        with torch.no_grad():
            self.first.running_mean = torch.rand(4)
            self.first.running_var = torch.rand(4) + 0.5

    def features(self, images: Tensor) -> Tensor:
        return self.dropout(self.second(self.first(self.convolution(images)).relu().mean((2, 3))))


@pytest.fixture
def tiny() -> Tiny:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Tiny()


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def whole_state(module: nn.Module) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for name, part in module.named_modules():
        state[f"{name} training"] = part.training
        state[f"{name} hooks"] = len(part._forward_pre_hooks) + len(part._forward_hooks)
        state[f"{name} tracks"] = getattr(part, "track_running_stats", None)
        for key, buffer in part.named_buffers(recurse=False):
            state[f"{name} {key}"] = (id(buffer), None if buffer is None else buffer.tolist())
    return state


def normalised(values: Tensor, layer: nn.Module, mean: Tensor, variance: Tensor) -> Tensor:
    assert isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)
    shape = [1, -1] + [1] * (values.dim() - 2)
    scaled = (values - mean.view(shape)) / (variance.view(shape) + layer.eps).sqrt()
    return scaled * layer.weight.view(shape) + layer.bias.view(shape)


def by_hand(module: Tiny, images: Tensor, reference: Tensor) -> Tensor:
    """Features of `images` with the statistics of `reference`, computed layer by layer."""

    def through(layer: nn.Module, values: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        axes = [0, *range(2, others.dim())]
        mean, variance = others.mean(axes), others.var(axes, correction=0)
        return normalised(values, layer, mean, variance), normalised(others, layer, mean, variance)

    values, others = through(module.first, module.convolution(images), module.convolution(reference))
    values, _ = through(module.second, values.relu().mean((2, 3)), others.relu().mean((2, 3)))
    return values


def test_running_uses_stored_statistics(tiny: Tiny) -> None:
    images = pictures(5)
    expected = copy.deepcopy(tiny).eval().features(images)
    tiny.train()
    with stored_statistics(tiny):
        assert torch.equal(tiny.features(images), expected)
        torch.testing.assert_close(tiny.features(images[:1]), expected[:1])


def test_query_normalises_each_batch_by_itself(tiny: Tiny) -> None:
    tiny.eval()
    images, others = pictures(5), pictures(7, seed=1)
    with batch_statistics(tiny):
        torch.testing.assert_close(tiny.features(images), by_hand(tiny, images, images))
        torch.testing.assert_close(tiny.features(others), by_hand(tiny, others, others))
        together = tiny.features(torch.cat([images, others]))
    assert not torch.allclose(together[:5], by_hand(tiny, images, images), atol=1e-3)


def test_support_normalises_all_by_the_support(tiny: Tiny) -> None:
    support, query = pictures(5), pictures(7, seed=1)
    with support_statistics(tiny, support):
        torch.testing.assert_close(tiny.features(support), by_hand(tiny, support, support))
        torch.testing.assert_close(tiny.features(query), by_hand(tiny, query, support))
        torch.testing.assert_close(tiny.features(query[2:3]), by_hand(tiny, query, support)[2:3])


def test_storing_the_support_statistics_makes_running_equal_support(tiny: Tiny) -> None:
    support, query = pictures(5), pictures(7, seed=1)
    stored = copy.deepcopy(tiny)
    store_statistics(stored, support)
    with stored_statistics(stored), support_statistics(tiny, support):
        assert torch.equal(stored.features(query), tiny.features(query))


def test_gradients_flow_through_batch_statistics(tiny: Tiny) -> None:
    images = pictures(5).requires_grad_(True)
    with batch_statistics(tiny):
        (gradient,) = torch.autograd.grad(tiny.features(images)[0].sum(), images)
    assert bool((gradient[1:] != 0).any())
    assert not measure_statistics(tiny, images)[tiny.first][0].requires_grad


@pytest.mark.parametrize("mode", ["running", "support", "query", "measure"])
@pytest.mark.parametrize("fails", [False, True])
def test_contexts_restore_the_module(tiny: Tiny, mode: str, fails: bool) -> None:
    tiny.train()
    tiny.first.eval()  # a mixture of flags has to come back as it was
    before = whole_state(tiny)
    contexts: dict[str, AbstractContextManager[Any]] = {
        "running": stored_statistics(tiny),
        "support": support_statistics(tiny, pictures(5)),
        "query": batch_statistics(tiny),
    }
    if mode == "measure":
        wrong = torch.zeros(2, 5, 6, 6) if fails else pictures(4)
        try:
            measure_statistics(tiny, wrong)
        except RuntimeError:
            assert fails
    else:
        ending = pytest.raises(KeyError) if fails else nullcontext()
        with ending, contexts[mode]:
            tiny.features(pictures(3))
            if fails:
                raise KeyError
    assert whole_state(tiny) == before


def test_layers_without_stored_statistics_work_in_modes_support_and_query() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny = Tiny(tracks=False)
    support, query = pictures(5), pictures(4, seed=1)
    with raises(UsageError, subject="model", remedy="support or query"), stored_statistics(tiny):
        pass
    with support_statistics(tiny, support):
        torch.testing.assert_close(tiny.features(query), by_hand(tiny, query, support))
    assert tiny.second.running_mean is None
    with batch_statistics(tiny):
        torch.testing.assert_close(tiny.features(query), by_hand(tiny, query, query))


def test_a_single_value_has_no_batch_statistics(tiny: Tiny) -> None:
    with raises(UsageError, subject="batch norm", remedy="more images"), batch_statistics(tiny):
        tiny.features(pictures(1))
    assert tiny.training


def test_modules_without_batch_norm_work_in_every_mode() -> None:
    pixels, images = PixelFeatures(6), pictures(3)
    assert not has_batch_norm(pixels)
    for context in (stored_statistics(pixels), batch_statistics(pixels), support_statistics(pixels, images)):
        with context:
            assert torch.equal(pixels.features(images), images.flatten(1))
    store_statistics(pixels, images)


def test_torch_agrees_on_the_statistics_of_a_batch(tiny: Tiny) -> None:
    images = pictures(9)
    mean, variance = measure_statistics(tiny, images)[tiny.first]
    values = tiny.convolution(images)
    torch.testing.assert_close(
        functional.batch_norm(values, mean, variance), functional.batch_norm(values, None, None, training=True)
    )


def test_an_unknown_mode_is_refused() -> None:
    assert batch_norm_mode("query") == "query"
    with raises(UsageError, problem="'train'", remedy="running, support, query"):
        batch_norm_mode("train")
