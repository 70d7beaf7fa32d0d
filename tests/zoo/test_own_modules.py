"""`Zoo.add`: any module whose architecture is registered, with its own outputs and without changing it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from error_checks import raises
from plugins.plugin_helpers import without_plugins
from torch import Tensor, nn
from zoo_helpers import classifier, content

import metazoo
from metazoo.errors import MetazooError, UsageError, ZooError
from metazoo.zoo import Zoo

SIDE = 8
FIELDS: dict[str, Any] = {
    "classes": ["cat", "dog", "emu"],
    "input_size": SIDE,
    "mean": (0.4, 0.5, 0.6),
    "std": 0.25,
    "domain": "pets",
}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    with without_plugins():
        yield


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    return Zoo.create(tmp_path / "zoo")


class Small(nn.Module):
    def __init__(
        self, *, classes: int, channels: int, input_size: int, width: int = 5, stride: int = 1, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, stride=stride)
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))
        self.fc = nn.Linear(width, classes)
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        hidden = self.norm(self.conv(images)).relu().amax((2, 3))
        return self.scale * self.fc(self.dropout(hidden))


def trained(seed: int = 0, **arguments: Any) -> Small:
    torch.manual_seed(seed)
    module = Small(classes=3, channels=3, input_size=SIDE, **arguments)
    module(torch.randn(16, 3, SIDE, SIDE))
    return module


def logits_of(module: nn.Module, images: Tensor) -> Tensor:
    """Logits of images in [0, 1], normalised as `FIELDS` has it."""
    with torch.no_grad():
        return module((images - torch.tensor(FIELDS["mean"]).view(3, 1, 1)) / FIELDS["std"])


IMAGES = torch.rand(5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


def flags_of(module: nn.Module) -> list[tuple[bool, int, int]]:
    return [(part.training, len(part._forward_hooks), len(part._forward_pre_hooks)) for part in module.modules()]


def test_a_module_is_added_with_its_outputs_and_does_not_change(zoo: Zoo) -> None:
    metazoo.register_architecture("small", Small)
    module = trained()
    module.conv.requires_grad_(False)
    module.fc.eval()
    module.fc.register_forward_hook(lambda *_: None)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    pointers = [tensor.data_ptr() for tensor in module.state_dict().values()]
    flags = flags_of(module)
    contract = zoo.add(module, **FIELDS, licence="mit", accuracy=81.5, recovered_images="discard")
    assert flags == [
        (part.training, len(part._forward_hooks), len(part._forward_pre_hooks)) for part in module.modules()
    ]
    assert [parameter.requires_grad for parameter in module.conv.parameters()] == [False, False]
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())
    assert pointers == [tensor.data_ptr() for tensor in module.state_dict().values()]
    assert module.dropout.p == 0.5
    assert (contract.name, contract.spec.architecture, contract.accuracy) == ("small", "small", 81.5)
    assert (contract.domain, contract.class_names) == ("pets", ("cat", "dog", "emu"))
    assert contract.recovered_images == "discard"
    assert contract.provenance is not None
    assert contract.provenance.source == f"module {__name__}.Small"
    assert contract.provenance.licence == "mit"
    assert Zoo.open(zoo.folder).contracts == (contract,)
    with torch.no_grad():
        assert torch.allclose(zoo.teacher("small")(IMAGES), logits_of(module.eval(), IMAGES), atol=1e-5)


def test_the_architecture_is_found_by_the_class_of_the_module(zoo: Zoo) -> None:
    subject = "module of class Small"
    with raises(UsageError, subject=subject, remedy="metazoo.register_architecture('small', Small)"):
        zoo.add(trained(), **FIELDS)
    metazoo.register_architecture("narrow", lambda **shape: Small(**shape, width=4))
    metazoo.register_architecture("broken", lambda **shape: nn.Linear(1 // 0, 2))
    metazoo.register_architecture("sequence", lambda **shape: nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 3)))
    metazoo.register_architecture("wide", lambda **shape: Small(**shape, width=6))
    assert zoo.add(trained(width=4), **FIELDS).spec.architecture == "narrow"
    assert zoo.add(trained(width=6), **FIELDS).spec.architecture == "wide"
    assert zoo.add(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 3)), **FIELDS).name == "sequence"
    metazoo.register_architecture("other", lambda **shape: Small(**shape, width=6))
    with raises(UsageError, subject=subject, problem="wide, other", remedy="architecture="):
        zoo.add(trained(width=6), **FIELDS)
    assert zoo.add(trained(width=6), **FIELDS, architecture="other").spec.architecture == "other"


def test_arguments_of_the_builder_are_given(zoo: Zoo) -> None:
    metazoo.register_architecture("small", Small)
    module = trained(width=3, stride=2)
    contract = zoo.add(module, **FIELDS, architecture="small", arguments={"width": 3, "stride": 2}, name="one")
    assert contract.spec.arguments == {"width": 3, "stride": 2}
    with torch.no_grad():
        assert torch.allclose(zoo.teacher("one")(IMAGES), logits_of(module.eval(), IMAGES), atol=1e-5)


def test_networks_and_classifiers_of_metazoo_are_added_too(zoo: Zoo) -> None:
    given = classifier("thin-resnet", size=SIDE)
    known = {"classes": FIELDS["classes"], "domain": "pets"}
    contract = zoo.add(given, **known)
    assert contract.spec == given.spec
    again = zoo.add(given.network, **FIELDS, arguments={"width": 4}, name="again")
    assert again.spec.architecture == "thin-resnet"
    with torch.no_grad():
        assert torch.equal(zoo.teacher("thin-resnet")(IMAGES), given(IMAGES))
    with raises(UsageError, subject=str(zoo.folder), problem="'thin-resnet'"):
        zoo.add(given, **known)


class Noisy(Small):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + torch.rand(())


def noisy() -> nn.Module:
    module = trained()
    module.__class__ = Noisy
    return module


def not_finite() -> nn.Module:
    module = trained()
    with torch.no_grad():
        module.fc.weight[0, 0] = float("inf")
    return module


class WithState(Small):
    def get_extra_state(self) -> Any:
        return {"steps": 3}

    def set_extra_state(self, state: Any) -> None:
        pass


REFUSED: dict[str, tuple[Any, dict[str, Any], type[MetazooError], str]] = {
    "other width": (lambda: trained(width=6), {}, ZooError, "conv.bias as float32 [6] instead of float32 [5]"),
    "other classes": (trained, {"classes": ["a", "b"]}, ZooError, "fc.bias as float32 [3] instead of float32 [2]"),
    "other class": (lambda: nn.Conv2d(3, 3, 1), {}, ZooError, "has tensor 'weight', which the architecture lacks"),
    "other stride": (lambda: trained(stride=2), {}, ZooError, "is neither that nor the softmax"),
    "scaled": (lambda: trained(scale=3.0), {}, ZooError, "its output is 3 times that of small with the same weights"),
    "random": (noisy, {}, ZooError, "gives other outputs at every call"),
    "not finite": (not_finite, {}, ZooError, "not finite in tensor fc.weight"),
    "lazy": (lambda: nn.LazyLinear(3), {}, UsageError, "lazy parameters without values"),
    "no module": (lambda: "small", {}, UsageError, "must be an nn.Module, not str"),
    "unknown field": (trained, {"colour": 3}, UsageError, "unknown colour"),
    "no mean": (trained, {"mean": None}, UsageError, "missing --mean"),
    "unknown architecture": (trained, {"architecture": "smal"}, UsageError, "is not registered (did you mean small?)"),
    "bad name": (trained, {"name": "../x"}, UsageError, "name"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_and_leaves_nothing(name: str, zoo: Zoo) -> None:
    metazoo.register_architecture("small", Small)
    make, changes, error, problem = REFUSED[name]
    before = content(zoo.folder)
    with raises(error, problem=problem):
        zoo.add(make(), **FIELDS | {"architecture": "small"} | changes)
    assert content(zoo.folder) == before
    assert len(Zoo.open(zoo.folder)) == 0


def test_state_that_is_no_tensor_is_named(zoo: Zoo) -> None:
    metazoo.register_architecture("with-state", WithState)
    shape = {"classes": 3, "channels": 3, "input_size": SIDE}
    with raises(UsageError, subject="module of class WithState", problem="'_extra_state' is no dense tensor"):
        zoo.add(WithState(**shape), **FIELDS)


def test_a_module_in_another_precision_is_converted(zoo: Zoo) -> None:
    metazoo.register_architecture("small", Small)
    module = trained().to(torch.bfloat16)
    zoo.add(module, **FIELDS)
    assert next(module.parameters()).dtype is torch.bfloat16
    assert zoo.teacher("small").classifier.network.head.weight.dtype is torch.float32


def test_wrappers_of_torch_are_removed(zoo: Zoo) -> None:
    metazoo.register_architecture("small", Small)
    module = trained()
    assert zoo.add(nn.DataParallel(module), **FIELDS).spec.architecture == "small"
