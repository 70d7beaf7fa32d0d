import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_helpers import BUDGET, OPTIONS, SIDE, build, coloured_images

from metazoo.bank import Bank
from metazoo.data import ImageSet
from metazoo.errors import Interrupted, RunError, UsageError
from metazoo.pipeline.layout import BANK
from metazoo.runs.config import resolve_config
from metazoo.runs.train import train
from metazoo.zoo import Zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return build(tmp_path_factory.mktemp("zoo") / "zoo")


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tmp_path_factory.mktemp("pack") / "colours.npz", coloured_images(6, SIDE))


def write_pack(path: Path, images: ImageSet) -> Path:
    np.savez(
        path,
        images=images.images.permute(0, 2, 3, 1).numpy(),
        labels=images.labels.numpy(),
        class_names=np.array(images.class_names),
    )
    return path


def options(**source: Any) -> dict[str, Any]:
    return {**OPTIONS, "source": source}


@pytest.mark.parametrize("kind", ["leaves", "fractals", "glyphs", "noise"])
def test_procedural_images_are_stored_as_they_are_with_the_labels_of_the_teacher(
    kind: str, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metazoo.recover.adam.PlainAdam.step", pytest.fail)
    run = train(zoo, out=tmp_path / "run", config=options(kind=kind), workers=1)
    bank = Bank.open(run.path / BANK)
    for teacher in zoo.teachers():
        images, labels = bank.images_of(teacher.contract.name)
        assert len(images) == BUDGET["images_per_class"] * teacher.contract.spec.classes
        assert torch.equal(teacher(images.float() / 255).argmax(1), labels)
        assert torch.pdist(images.flatten(1).float()).min() > 0


def test_real_images_are_those_of_the_classes_of_each_teacher(zoo: Zoo, pack: Path, tmp_path: Path) -> None:
    run = train(zoo, out=tmp_path / "run", config=options(kind="images", data=str(pack)), workers=1)
    real, bank = coloured_images(6, SIDE), Bank.open(run.path / BANK)
    known = {image.numpy().tobytes(): label for image, label in zip(real.images, real.labels.tolist(), strict=True)}
    for contract in zoo:
        images, labels = bank.images_of(contract.name)
        assert torch.bincount(labels).tolist() == [BUDGET["images_per_class"]] * contract.spec.classes
        names = [real.class_names[known[image.numpy().tobytes()]] for image in images]
        assert names == [contract.class_names[label] for label in labels.tolist()]


def test_data_without_a_class_of_a_teacher_is_refused(zoo: Zoo, tmp_path: Path) -> None:
    few = write_pack(tmp_path / "few.npz", coloured_images(1, SIDE))
    with pytest.raises(UsageError, match=r"few has no class 'colour \d' of model "):
        train(zoo, out=tmp_path / "run", config=options(kind="images", data=str(few)), workers=1)


def test_a_run_does_not_go_on_with_other_images(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = write_pack(tmp_path / "own.npz", coloured_images(6, SIDE))
    given = {"out": tmp_path / "run", "config": options(kind="images", data=str(own)), "workers": 1}
    real, calls = Bank.add, []

    def add(*arguments: Any, **keywords: Any) -> None:
        calls.append(real(*arguments, **keywords))
        if len(calls) == 2:
            raise Interrupted("stopped")

    with monkeypatch.context() as patched:
        patched.setattr(Bank, "add", add)
        with pytest.raises(Interrupted):
            train(zoo, **given)
    changed = coloured_images(6, SIDE)
    write_pack(own, dataclasses.replace(changed, images=changed.images.flip(-1)))
    with pytest.raises(RunError, match=r"the images of source\.data, .*own\.npz, have changed since .*run was begun"):
        train(zoo, resume=True, **given)
    write_pack(own, coloured_images(6, SIDE))
    assert train(zoo, resume=True, **given).finished


@pytest.mark.parametrize("source", [{"kind": "images"}, {"kind": "leaves", "data": "pack.npz"}])
def test_data_goes_with_real_images_and_only_with_them(source: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="source: data is given for kind images, and only for it"):
        resolve_config({"source": source})
