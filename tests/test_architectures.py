"""Every architecture the whole way: built into a zoo, inverted, grouped, and learned as the meta-model."""

from pathlib import Path

import pytest
import torch
from training_helpers import OPTIONS, SIDE, coloured_images

from metazoo.runs.train import train
from metazoo.zoo import TrainingConfig, Zoo, build_zoo, verify_zoo

FAMILIES = ("conv4", "thin-resnet", "resnet10", "cifar-resnet20", "vgg11-bn", "densenet-bc", "lenet5")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """One model of each family, of 2, 3, ... classes and no two of one input size."""
    folder, images = tmp_path_factory.mktemp("architectures") / "zoo", coloured_images(8, SIDE)
    for index, name in enumerate(FAMILIES):
        config = TrainingConfig(epochs=1)
        build_zoo(folder, images, name, 1, 2 + index, config=config, width=4, input_size=SIDE + 4 * index, workers=1)
    return Zoo.open(folder)


def test_every_architecture_is_built_by_its_published_config(zoo: Zoo) -> None:
    assert {contract.spec.architecture for contract in zoo} == set(FAMILIES)
    for contract in zoo:
        assert contract.training is not None
        wanted = "adam" if contract.spec.architecture == "conv4" else "sgd"
        assert contract.training.recipe.optimiser == wanted
    assert {finding.status for finding in verify_zoo(zoo)} == {"sound"}


@pytest.mark.parametrize(
    "architecture", ["resnet10", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet18", "resnet50"))]
)
def test_a_resnet_learns_from_all_of_them(zoo: Zoo, tmp_path: Path, architecture: str) -> None:
    config = OPTIONS | {"meta_model": {"architecture": architecture, "width": 8}}
    model = train(zoo, out=tmp_path / "run", config=config, workers=1).meta_model
    assert model.spec.architecture == architecture
    assert model.spec.arguments == {"width": 8}
    support = coloured_images(3, 20)
    classifier = model.adapt(support.images, support.labels, support.class_names)
    probabilities = classifier.predict(support.images).probabilities
    assert probabilities.shape == (len(support), 3)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(support)))
