"""The files of the study of six families are what a user of the library would have, and no class stands in two."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file

from benchmarks.mixed_families import KINDS, Kind, classes_of, train_model
from metazoo.data import ImageSet
from metazoo.zoo import Zoo, add_folder


def _pack(name: str, classes: int) -> ImageSet:
    images = torch.randint(
        256, (10 * classes, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    labels = torch.arange(classes).repeat(10)
    return ImageSet(images, labels, tuple(f"{name} {number}" for number in range(classes)), name=name)


def test_no_class_stands_in_two_models() -> None:
    sets = classes_of(KINDS, {False: _pack("photos", 64), True: _pack("signs", 25)}, seed=0)
    names = [name for images in sets.values() for name in images.class_names]
    assert len(set(names)) == len(names) == sum(kind.classes for kind in KINDS)
    for kind in KINDS:
        assert len(sets[kind.name].class_names) == kind.classes
        assert sets[kind.name].name == ("signs" if kind.other else "photos")


def test_what_is_stored_is_read_by_timm_and_by_the_zoo_and_says_the_same(tmp_path: Path) -> None:
    by_name = {kind.name: kind for kind in KINDS}
    kinds = [replace(by_name[name], epochs=1) for name in ("grey-efficientnet", "vit", "resnet18")]
    for kind in kinds:
        train_model(kind, _pack("photos", kind.classes), tmp_path / "files", 0)
    assert {addition.status for addition in add_folder(tmp_path / "zoo", tmp_path / "files")} == {"added"}
    zoo = Zoo.open(tmp_path / "zoo")
    for kind in kinds[:2]:
        teacher = zoo.teacher(kind.name)
        spec = teacher.contract.spec
        assert (spec.classes, spec.channels, spec.input_size) == (kind.classes, kind.channels, kind.side)
        pixels = torch.rand(3, kind.channels, kind.side, kind.side)
        normalised = teacher.classifier.preprocess(pixels)
        with torch.no_grad():
            assert torch.allclose(_by_timm(kind, tmp_path / "files")(normalised), teacher(pixels), atol=1e-5)


def _by_timm(kind: Kind, folder: Path) -> torch.nn.Module:
    said: dict[str, Any] = {"num_classes": kind.classes, "in_chans": kind.channels, **kind.arguments}
    said |= {"img_size": kind.side} if kind.name == "vit" else {}
    model = timm.create_model(kind.architecture.removeprefix("timm:"), **said)
    model.load_state_dict(load_file(folder / f"{kind.name}.safetensors"))
    return model.eval()
