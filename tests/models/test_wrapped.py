"""Modules of other origin: the head is found by running them, and what is no linear head is refused."""

import copy
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from error_checks import raises
from plugins.plugin_helpers import without_plugins
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

import metazoo
from metazoo.errors import UsageError
from metazoo.models import ClassifierSpec, WrappedNetwork, build_network, network_with_weights, network_without_weights
from metazoo.models.wrapped import wrap_module

CLASSES, SIDE = 4, 12
IMAGES = torch.randn(5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    with without_plugins():
        yield


class Net(nn.Module):
    """Small network whose forward pass ends as `ending` says."""

    def __init__(self, ending: Callable[["Net", Tensor], Any], **parts: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())
        self.fc = nn.Linear(6, CLASSES)
        self.conv = nn.Conv2d(6, CLASSES, 1)
        self.ending = ending
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, images: Tensor) -> Any:
        return self.ending(self, self.stem(images))


def pooled(hidden: Tensor) -> Tensor:
    return hidden.mean((2, 3))


def last(hidden: Tensor) -> Tensor:
    return hidden.permute(0, 2, 3, 1)


def two_heads(net: Net, hidden: Tensor) -> tuple[Tensor, Tensor]:
    logits = net.fc(pooled(hidden))
    return logits, net.get_submodule("other")(pooled(hidden))


ENDINGS: dict[str, tuple[Callable[[Net, Tensor], Any], Callable[[Any], Tensor], dict[str, Callable[[], nn.Module]]]] = {
    # Ending, logits in the output up to a constant per image, and further parts.
    "linear": (lambda net, x: net.fc(pooled(x)), lambda y: y, {}),
    "without bias": (lambda net, x: net.fc(pooled(x)), lambda y: y, {"fc": lambda: nn.Linear(6, 4, bias=False)}),
    "softmax": (lambda net, x: net.fc(pooled(x)).softmax(1), torch.log, {}),
    "log-softmax": (lambda net, x: functional.log_softmax(net.fc(pooled(x)), 1), lambda y: y, {}),
    "sigmoid": (lambda net, x: net.fc(pooled(x)).sigmoid(), torch.logit, {}),
    "dropout": (lambda net, x: net.fc(functional.dropout(pooled(x), 0.5, net.training)), lambda y: y, {}),
    "convolution, then mean": (lambda net, x: pooled(net.conv(x)), lambda y: y, {}),
    "mean, then convolution": (lambda net, x: net.conv(x.mean((2, 3), keepdim=True)), lambda y: y.flatten(1), {}),
    "channels last": (lambda net, x: net.fc(last(x)).mean((1, 2)), lambda y: y, {}),
    "features and logits": (lambda net, x: (pooled(x), net.fc(pooled(x))), lambda y: y[1], {}),
    "auxiliary head": (two_heads, lambda y: y[0], {"other": lambda: nn.Linear(6, 4)}),
    "mapping": (lambda net, x: {"features": x, "logits": net.fc(pooled(x))}, lambda y: y["logits"], {}),
    "object": (lambda net, x: SimpleNamespace(logits=net.fc(pooled(x))), lambda y: y.logits, {}),
    "lazy": (lambda net, x: net.fc(x.flatten(1)), lambda y: y, {"fc": lambda: nn.LazyLinear(4)}),
    "numpy": (lambda net, x: net.fc(pooled(x) * float(np.abs(x.detach().numpy()).max())), lambda y: y, {}),
    "changed in shape": (lambda net, x: net.fc(x.mean(3).unsqueeze_(3).mean((2, 3))), lambda y: y, {}),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_module_is_wrapped_with_its_logits(name: str) -> None:
    ending, logits_of, parts = ENDINGS[name]

    def builder(*, classes: int, channels: int, input_size: int) -> nn.Module:
        return Net(ending, **{part: make() for part, make in parts.items()})

    metazoo.register_architecture("own", builder)
    torch.manual_seed(2)
    original = builder(classes=CLASSES, channels=3, input_size=SIDE)
    original(IMAGES)  # moves the statistics, and gives lazy layers their weights
    original.eval()
    spec = spec_of("own")
    empty = network_without_weights(spec)
    assert all(tensor.is_meta for tensor in empty.state_dict().values())
    assert isinstance(empty, WrappedNetwork)
    network = network_with_weights(spec, empty.own_state(original.state_dict())).eval()
    with torch.no_grad():
        expected = logits_of(original(IMAGES))
        found = network(IMAGES)
        assert network.features(IMAGES).shape == (5, network.feature_size)
        # Equal up to one number per image, as logits are.
        offsets = (expected - found).mean(1, keepdim=True)
        assert torch.allclose(found + offsets, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(copy.deepcopy(network)(IMAGES), found)


def test_a_parametrised_head_becomes_a_plain_one() -> None:
    net = Net(ENDINGS["linear"][0], fc=weight_norm(nn.Linear(6, 4))).eval()
    trained = copy.deepcopy(net)
    with torch.no_grad():
        trained.fc.parametrizations.weight.original0.mul_(3)  # pyright: ignore
        network = wrap_module(net, IMAGES, CLASSES).eval()
        network.load_state_dict(network.own_state(trained.state_dict()))
        assert torch.allclose(network(IMAGES), trained(IMAGES), atol=1e-6)


def test_only_batch_norm_is_trained_in_training_mode() -> None:
    net = Net(
        lambda net, x: net.fc(net.get_submodule("drop")(functional.dropout(pooled(x), 0.5, net.training))),
        drop=nn.Dropout(0.5),
    )
    network = wrap_module(net, IMAGES, CLASSES).train()
    before = network.body.get_buffer("stem.1.running_mean").clone()
    assert torch.equal(network(IMAGES), network(IMAGES))
    assert not torch.equal(network.body.get_buffer("stem.1.running_mean"), before)
    assert network.head.training
    assert not any(part.training for part in network.eval().modules())


class Squeezed(nn.Sequential):
    """As SqueezeNet ends: a rectifier between the convolution and the mean."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Padded(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return functional.pad(features, (0, 1))


class CosineLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as the class calls it
        return 10 * functional.linear(functional.normalize(input), functional.normalize(self.weight))


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "rectified": (Squeezed, "'1' (Conv2d(6, 4"),
    "scaled": (lambda: Net(lambda net, x: 2 * net.fc(pooled(x))), "is 2 times that of its last layer, 'fc'"),
    "sum": (lambda: Net(lambda net, x: net.fc(pooled(x)) + pooled(net.conv(x))), "is neither that nor the softmax"),
    "used twice": (lambda: Net(lambda net, x: net.fc(pooled(x)) + net.fc(pooled(-x))), "'fc' (Linear(in_features=6"),
    "maximum": (lambda: Net(lambda net, x: net.conv(x).amax((2, 3))), "is neither that nor the softmax"),
    "cosine": (lambda: Net(lambda net, x: net.fc(pooled(x)), fc=CosineLinear(6, 4)), "CosineLinear"),
    "functional": (
        lambda: Net(lambda net, x: functional.linear(pooled(x), net.fc.weight)),
        "'stem.0' (Conv2d(3, 6, kernel_size=(3, 3), stride=(2, 2))) is not linear with 4 outputs",
    ),
    "other classes": (lambda: Net(lambda net, x: net.fc(pooled(x)), fc=nn.Linear(6, 5)), "one number for each of 4"),
    "grouped": (lambda: Net(lambda net, x: pooled(net.conv(x)), conv=nn.Conv2d(6, 4, 1, groups=2)), "groups=2"),
    "map": (lambda: Net(lambda net, x: net.conv(x)), "([2, 4, 5, 5]) is not one number for each of 4 classes"),
    "random": (lambda: Net(lambda net, x: net.fc(functional.dropout(pooled(x), 0.5))), "neither that nor"),
    "not finite": (lambda: Net(lambda net, x: net.fc(pooled(x)) * float("nan")), "is not finite"),
    "no layer": (lambda: nn.Sequential(nn.AvgPool2d(12), nn.Flatten(), Padded()), "uses no linear layer"),
    "text": (lambda: Net(lambda net, x: (net.fc(pooled(x)), "text")[1]), "(str)"),
    "error": (lambda: Net(lambda net, x: net.fc(x)), "cannot be built for 3 channels and 12 pixels ("),
    "exit": (lambda: Net(lambda net, x: exit(3)), "cannot be built for 3 channels and 12 pixels (3)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_linear_head_is_refused_with_the_reason(name: str) -> None:
    make, problem = REFUSED[name]
    metazoo.register_architecture("own", lambda *, classes, channels, input_size: make())
    torch.manual_seed(3)
    with raises(UsageError, subject="own", problem=problem):
        build_network("own", classes=CLASSES, channels=3, input_size=SIDE)


def reading(*, classes: int, channels: int, input_size: int) -> nn.Module:
    return Net(lambda net, x: net.fc(pooled(x) if x.sum() > -1e9 else pooled(-x)))


def spec_of(architecture: str) -> ClassifierSpec:
    return ClassifierSpec(architecture=architecture, classes=CLASSES, input_size=SIDE, mean=(0.0,) * 3, std=(1.0,) * 3)


def test_a_builder_may_name_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["metazoo.models.architectures"], "_MOST_NUMBERS", 100)
    metazoo.register_architecture("named", lambda **shape: WrappedNetwork(reading(**shape), "fc"))
    original = reading(classes=CLASSES, channels=3, input_size=SIDE).eval()
    empty = network_without_weights(spec_of("named"))
    assert isinstance(empty, WrappedNetwork)
    with torch.no_grad():
        found = network_with_weights(spec_of("named"), empty.own_state(original.state_dict())).eval()(IMAGES)
        assert torch.allclose(found, original(IMAGES), atol=1e-6)


@pytest.mark.slow  # the meta device imports torch's compiler
def test_a_large_module_is_run_without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["metazoo.models.architectures"], "_MOST_NUMBERS", 100)
    metazoo.register_architecture("linear", lambda **shape: Net(ENDINGS["linear"][0]))
    metazoo.register_architecture("reading", reading)
    assert network_without_weights(spec_of("linear")).head.weight.shape == (CLASSES, 6)
    with raises(UsageError, subject="reading", problem="without values", remedy="WrappedNetwork"):
        network_without_weights(spec_of("reading"))
