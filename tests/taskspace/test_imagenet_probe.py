"""The published probe, with random weights instead of those of ImageNet."""

import sys
from pathlib import Path

import pytest
import torch
from error_checks import raises
from safetensors.torch import save_file
from torch.nn import functional
from torchvision.models import resnet18, resnet34

from metazoo.errors import UsageError
from metazoo.taskspace import ImageNetProbe
from metazoo.taskspace.layer_squares import kept_blocks
from metazoo.taskspace.probe import FISHER_ENTRIES, ProbeConfig


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet34.safetensors"
    save_file(resnet34().state_dict(), path)
    return path


def pictures(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, 32, 32), generator=random, dtype=torch.uint8), torch.arange(count) % 3


def test_the_published_fisher_is_the_squared_gradient_of_the_mean_loss(weights: Path) -> None:
    images, labels = pictures(6)
    probe = ImageNetProbe.load(weights)
    embedding = probe.embed("a", images, labels, ProbeConfig(fisher="published"))
    assert len(embedding.tensors) == 110
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (images.float() / 255 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    network = probe.network
    gradients = torch.autograd.grad(functional.cross_entropy(network(pixels), labels), list(network.parameters()))
    kept = kept_blocks(dict(network.named_parameters()), FISHER_ENTRIES)
    for (name, _), gradient in zip(network.named_parameters(), gradients, strict=True):
        expected = kept[name].of(gradient) if name in kept else gradient
        torch.testing.assert_close(embedding.tensors[name], expected.square(), rtol=1e-3, atol=1e-9)
    assert not network.training
    whole = probe.embed("a", images, labels, ProbeConfig(fisher="published", fisher_entries=None))
    for (name, _), gradient in zip(network.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(whole.tensors[name], gradient.square(), rtol=1e-3, atol=1e-9)


def test_the_published_probe_is_in_training_mode(weights: Path) -> None:
    images, labels = pictures(6)
    config = ProbeConfig(fisher="published", batch_statistics=True)
    found = ImageNetProbe.load(weights).embed("a", images, labels, config).tensors["fc.bias"]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    network = ImageNetProbe.load(weights).network.train()
    logits = network((images.float() / 255 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1))
    expected = torch.autograd.grad(functional.cross_entropy(logits, labels), list(network.parameters()))[-1].square()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-9)
    with pytest.raises(ValueError, match="batch_statistics needs fisher published"):
        ProbeConfig(batch_statistics=True)


def test_by_sample_it_is_the_mean_of_squares(weights: Path) -> None:
    images, labels = pictures(2)
    probe = ImageNetProbe.load(weights)
    both = probe.embed("both", images, labels)
    single = [probe.embed("one", images[index : index + 1], labels[index : index + 1]) for index in range(2)]
    for name in ("conv1.weight", "fc.bias"):
        mean = (single[0].tensors[name] + single[1].tensors[name]) / 2
        torch.testing.assert_close(both.tensors[name], mean, rtol=1e-3, atol=1e-9)


def test_a_pth_file_of_tensors_is_read_and_anything_else_refused(tmp_path: Path) -> None:
    torch.save(resnet34().state_dict(), tmp_path / "right.pth")
    assert ImageNetProbe.load(tmp_path / "right.pth").embed("a", *pictures(1)).name == "a"
    torch.save(resnet18().state_dict(), tmp_path / "other.pth")
    torch.save(resnet18(), tmp_path / "pickled.pth")
    for name in ("other.pth", "pickled.pth", "missing.pth"):
        with raises(UsageError, subject=name, problem="ResNet-34 ("):
            ImageNetProbe.load(tmp_path / name)


def test_without_torchvision_the_extra_is_named(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with raises(UsageError, subject="imagenet-resnet34", remedy="`metazoo[torchvision]`"):
        ImageNetProbe.load(weights)
