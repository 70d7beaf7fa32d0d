import shutil
from pathlib import Path

import pytest
from adapt_helpers import made, network, of_two_domains

from metazoo.adapt import MetaModel


@pytest.fixture(scope="session")
def _saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    made(head="nearest-mean").save(folder / "classifier")
    MetaModel(network(), method="tgr", preset="default", seed=3).save(folder / "meta-model")
    MetaModel(of_two_domains(), method="tgr", preset="default", seed=3).save(folder / "of-two-domains")
    return folder


@pytest.fixture
def saved(_saved: Path, tmp_path: Path) -> Path:
    """Folder of an undamaged classifier: nearest mean on one conv4."""
    return shutil.copytree(_saved / "classifier", tmp_path / "saved" / "classifier")


@pytest.fixture
def meta_model(_saved: Path, tmp_path: Path) -> Path:
    """Folder of an undamaged meta-model."""
    return shutil.copytree(_saved / "meta-model", tmp_path / "saved" / "meta-model")


@pytest.fixture
def two_domains(_saved: Path, tmp_path: Path) -> Path:
    """Folder of an undamaged meta-model of two domains."""
    return shutil.copytree(_saved / "of-two-domains", tmp_path / "saved" / "of-two-domains")
