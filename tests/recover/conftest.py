from pathlib import Path

import pytest
from recover_helpers import LETTERS, spec_of, teacher_of, trained

from metazoo.zoo import WhiteBoxTeacher, Zoo


@pytest.fixture(scope="session")
def teacher() -> WhiteBoxTeacher:
    """A conv4 trained on four letters at 16 pixels."""
    return teacher_of(trained(spec_of()))


@pytest.fixture(scope="session")
def zoo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`colour` (4 letters, 16 pixels), `grey` (one channel, 5 letters), `large` (20 pixels, thin-resnet)."""
    zoo = Zoo.create(tmp_path_factory.mktemp("recover") / "zoo")
    specs = {
        "colour": spec_of(),
        "grey": spec_of(5, 16, channels=1),
        "large": spec_of(4, 20, architecture="thin-resnet"),
    }
    for name, spec in specs.items():
        zoo.store(name, trained(spec, steps=30), class_names=tuple(LETTERS[: spec.classes]), domain="letters")
    return zoo.folder
