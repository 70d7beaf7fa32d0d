import copy
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from metazoo.models import (
    AdapterSpec,
    ClassifierSpec,
    ImageClassifier,
    architectures,
    build_classifier,
    network_with_weights,
    network_without_weights,
)

ADAPTER = AdapterSpec(rank=2, alpha=3.0)


def spec(architecture: str = "conv4", adapter: AdapterSpec | None = ADAPTER, size: int = 32) -> ClassifierSpec:
    arguments: dict[str, Any] = {"width": 4} if architecture in architectures() else {}
    return ClassifierSpec(
        architecture=architecture, arguments=arguments, classes=3, input_size=size, adapter=adapter,
        mean=(0.5,) * 3, std=(0.25,) * 3,
    )  # fmt: skip


def built(architecture: str = "conv4", adapter: AdapterSpec | None = ADAPTER) -> ImageClassifier:
    return build_classifier(spec(architecture, adapter), torch.Generator().manual_seed(0)).eval()


def trained(architecture: str = "conv4") -> ImageClassifier:
    """A classifier whose adapters do something."""
    made, random = built(architecture), torch.Generator().manual_seed(1)
    for name, parameter in made.named_parameters():
        if name.endswith(".up"):
            nn.init.normal_(parameter, std=0.1, generator=random)
    return made


def images(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(2))


ANY = [*(name for name in architectures() if name != "resnet50"), "timm:test_vit", "timm:test_convnext"]


@pytest.mark.parametrize("architecture", ANY)
@torch.no_grad()
def test_merged_weights_give_the_same_outputs(architecture: str) -> None:
    plain, fresh, adapted = built(architecture, None), built(architecture), trained(architecture)
    torch.testing.assert_close(fresh(images()), plain(images()))  # the layout of weights in memory can differ
    assert not torch.allclose(adapted(images()), plain(images()), rtol=1e-3, atol=1e-3)
    merged = adapted.merged()
    torch.testing.assert_close(merged(images()), adapted(images()))
    assert merged.spec == plain.spec
    assert merged.state_dict().keys() == plain.state_dict().keys()
    assert adapted(images()).shape == (4, 3)  # which is as it was


def test_a_convolution_gets_the_update_of_two_convolutions() -> None:
    adapted, plain = trained(), built(adapter=None)
    layer = adapted.network.get_submodule("blocks.1.0")
    down, up = (dict(layer.named_parameters())[f"parametrizations.weight.0.{name}"] for name in ("down", "up"))
    inputs = torch.rand(2, 4, 8, 8)
    low = functional.conv2d(inputs, down.view(2, 4, 3, 3), padding=1)
    update = functional.conv2d(low, up.view(4, 2, 1, 1)) * 3.0 / 2
    expected = plain.network.get_submodule("blocks.1.0")(inputs) + update
    torch.testing.assert_close(layer(inputs), expected)


@pytest.mark.parametrize("architecture", ["conv4", "timm:test_vit"])
def test_adapters_alone_learn(architecture: str) -> None:
    made = built(architecture)
    trainable = {name for name, parameter in made.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, _ in made.named_parameters() if name.endswith((".up", ".down"))}
    assert not any("head" in name for name in trainable)
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in made.parameters() if p.requires_grad], 0.5)
    for _ in range(2):
        functional.cross_entropy(made(images()), torch.tensor([0, 1, 2, 0])).backward()
        optimiser.step()
        optimiser.zero_grad()
    changed = {name for name, tensor in made.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed <= trainable
    assert {name.rpartition(".")[2] for name in changed} == {"up", "down"}


def test_the_rank_is_at_most_that_of_the_weight() -> None:
    made = built(adapter=AdapterSpec(rank=1024, alpha=1))
    shapes = [tuple(p.shape) for name, p in made.named_parameters() if name.endswith(".down")]
    assert shapes == [(4, 27), (4, 36), (4, 36), (4, 36)]


@pytest.mark.parametrize("architecture", ["conv4", "thin-resnet", "timm:test_vit"])
def test_weights_come_back(architecture: str) -> None:
    made = trained(architecture)
    state = made.network.state_dict()
    shapes = network_without_weights(spec(architecture)).state_dict()
    assert {name: (t.shape, t.dtype) for name, t in state.items()} == {n: (t.shape, t.dtype) for n, t in shapes.items()}
    again = ImageClassifier(spec(architecture), network_with_weights(spec(architecture), state)).eval()
    assert torch.equal(again(images()), made(images()))
    frozen = {name: parameter.requires_grad for name, parameter in made.named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in again.named_parameters()} == frozen
    assert torch.equal(copy.deepcopy(made)(images()), made(images()))


def test_specs_without_one_are_written_as_before() -> None:
    plain = spec(adapter=None)
    assert list(plain.model_dump()) == ["architecture", "arguments", "classes", "input_size", "channels", "mean", "std"]
    assert "adapter" not in plain.model_dump_json()
    for own in (plain, spec()):
        assert ClassifierSpec.model_validate_json(own.model_dump_json()) == own
        assert ClassifierSpec.model_validate(own.model_dump(mode="json")) == own


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"alpha": 0}, {"alpha": float("inf")}, {"rank": 2.5}, {"kind": "x"}])
def test_adapters_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AdapterSpec.model_validate({"rank": 2, "alpha": 1.0} | wrong)
