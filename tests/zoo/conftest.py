import shutil
from pathlib import Path

import pytest
from zoo_helpers import classifier, coloured_images

from metazoo.data import ImageSet
from metazoo.zoo import Zoo


@pytest.fixture(scope="session")
def image_set() -> ImageSet:
    return coloured_images()


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    zoo = Zoo.create(tmp_path_factory.mktemp("template") / "zoo")
    zoo.store("first", classifier("conv4", 2), class_names=("cat", "dog"), domain="pets", accuracy=75.5)
    zoo.store("second", classifier(), class_names=("a", "b", "c"), domain="letters")
    return zoo.folder


@pytest.fixture
def zoo(_template: Path, tmp_path: Path) -> Zoo:
    """Two models of untrained weights: `first` (conv4) and `second` (thin-resnet)."""
    return Zoo.open(shutil.copytree(_template, tmp_path / "zoo"))
