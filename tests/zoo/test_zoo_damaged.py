import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from error_checks import raises
from torch import Tensor
from zoo_helpers import BAD_NAMES, content

from metazoo.errors import ArtefactError, MetazooError, UsageError, ZooError
from metazoo.storage.artefacts import sha256_of_file
from metazoo.storage.tensor_files import read_tensors, write_tensors
from metazoo.zoo import Zoo

REMOVE = "`metazoo zoo remove`"


def edited(zoo: Zoo, name: str, change: Callable[[Any], Any]) -> Zoo:
    """The zoo with `change` made to the contract of a model."""
    path = zoo.folder / "models" / f"{name}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return Zoo.open(zoo.folder)


def with_file(zoo: Zoo, name: str, change: Callable[[Path], object]) -> Zoo:
    """The zoo with another weights file, and its hash in the contract."""
    path = zoo.folder / "models" / f"{name}.safetensors"
    change(path)
    return edited(zoo, name, lambda content: content.update(weights_sha256=sha256_of_file(path)))


def with_tensors(zoo: Zoo, change: Callable[[dict[str, Tensor]], object]) -> Zoo:
    def rewrite(path: Path) -> None:
        tensors = read_tensors(path)
        change(tensors)
        write_tensors(path, tensors)

    return with_file(zoo, "second", rewrite)


ZOO = {"format": "metazoo-zoo", "format_version": 2}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not valid JSON"),
        ('{"format": "metazoo-zoo", ', "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[]", "not the marker of a zoo"),
        ('{"format": "other"}', "not the marker of a zoo"),
        ('{"format": "metazoo-zoo"}', "version None"),
        (json.dumps(ZOO | {"format_version": 3}), "version 3"),
        (json.dumps(ZOO | {"models": []}), "damaged"),
        (json.dumps(ZOO | {"format_version": 1}), "damaged"),
        (json.dumps(ZOO | {"format_version": 1, "models": {}}), "damaged"),
        (json.dumps(ZOO | {"format_version": 1, "models": [], "import": "os"}), "damaged"),
        (json.dumps(ZOO | {"format_version": 1, "models": [7]}), "damaged contract"),
        (json.dumps(ZOO | {"format_version": 1, "models": [{"name": "x"}]}), "of model 'x' (spec: is missing"),
    ],
)
def test_a_damaged_mark_or_former_list_is_a_clear_error(zoo: Zoo, text: str, problem: str) -> None:
    path = zoo.folder / "zoo.json"
    path.write_text(text)
    for act in (lambda: Zoo.open(zoo.folder), lambda: Zoo.create(zoo.folder), lambda: zoo.remove(["first"])):
        with raises(ArtefactError, subject=str(path)) as caught:
            act()
        assert problem in str(caught.value)


@pytest.mark.parametrize("name", [*BAD_NAMES, 7, None, ["a"]])
def test_names_in_a_contract_or_former_list_cannot_escape(zoo: Zoo, name: object) -> None:
    path = zoo.folder / "models" / "first.json"
    record = json.loads(path.read_text())
    with raises(ArtefactError, subject=str(path), problem="name: "):
        edited(zoo, "first", lambda content: content.update(name=name))
    del record["format_version"]
    (zoo.folder / "zoo.json").write_text(json.dumps(ZOO | {"format_version": 1, "models": [record | {"name": name}]}))
    with raises(ArtefactError, subject="zoo.json", problem="name: "):
        Zoo.open(zoo.folder)


def test_contracts_are_checked(zoo: Zoo) -> None:
    path = zoo.folder / "models" / "first.json"
    whole = path.read_text()
    for change, problem in (
        (lambda model: model.update(code="os.system"), "code: is unknown"),
        (lambda model: model["spec"].update(std=[0.5, 0, 1]), "std must be positive"),
        (lambda model: model["spec"].update(architecture="a" * 101), "name of the architecture"),
        (lambda model: model["spec"].update(classes=3), "2 class names for 3 classes"),
        (lambda model: model.update(weights_sha256="../../../etc/passwd"), "weights_sha256: "),
        (lambda model: model.update(accuracy=-1), "accuracy: "),
        (lambda model: model.update(training={"seed": 1}), "training.source: is missing"),
    ):
        path.write_text(whole)
        with raises(ArtefactError, subject=str(path), problem=problem):
            edited(zoo, "first", change)
    (zoo.folder / "models" / "FIRST.json").write_text(whole.replace('"first"', '"FIRST"'))
    path.write_text(whole)
    with raises(ArtefactError, problem="ignoring capitals"):
        Zoo.open(zoo.folder)


def test_opening_reads_the_contracts_alone(zoo: Zoo) -> None:
    for path in (zoo.folder / "models").glob("*.safetensors"):
        path.write_bytes(b"")
    assert len(Zoo.open(zoo.folder)) == 2


def test_a_missing_or_changed_file_is_named_with_its_model(zoo: Zoo) -> None:
    first, second = (zoo.folder / "models" / f"{name}.safetensors" for name in ("first", "second"))
    whole = second.read_bytes()
    for damaged in (whole[:-1], whole[:7], b"", whole[:-1] + bytes([whole[-1] ^ 1]), whole + b"x", first.read_bytes()):
        second.write_bytes(damaged)
        with raises(ArtefactError, subject="'second'", problem=str(second), remedy=REMOVE):
            zoo.teacher("second")
    second.write_bytes(whole + bytes(2 << 20))
    with raises(ArtefactError, problem=f"{len(whole) + (2 << 20)} bytes instead of", remedy=REMOVE):
        zoo.teacher("second")
    second.unlink()
    for missing in (lambda: None, second.mkdir):
        missing()
        with raises(ArtefactError, subject="'second'", problem=f"{second}: missing", remedy=REMOVE):
            zoo.teachers()
    assert zoo.teacher("first").contract.name == "first"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_the_place_of_a_file_does_not_hang(zoo: Zoo) -> None:
    files = [zoo.folder / name for name in ("models/first.safetensors", "models/first.json", "zoo.json")]
    errors = (ArtefactError, "missing"), (ArtefactError, "not a file"), (UsageError, "not a zoo")
    for path, (error, problem) in zip(files, errors, strict=True):
        path.unlink()
        os.mkfifo(path)
        with raises(error, problem=problem):
            Zoo.open(zoo.folder).teacher("first")


class _Exploit:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was read",))


def test_a_pickle_is_never_read(zoo: Zoo) -> None:
    def zipped(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(_Exploit()))

    for write in (lambda path: path.write_bytes(pickle.dumps(_Exploit())), zipped):
        with raises(ArtefactError, subject="'second'", problem="pickle"):
            with_file(zoo, "second", write).teacher("second")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda tensors: tensors.pop("head.bias"), "lacks tensor head.bias"),
        (lambda tensors: tensors.clear(), "lacks tensor head.bias"),
        (lambda tensors: tensors.update(more=torch.zeros(1)), "has tensor 'more'"),
        (
            lambda tensors: tensors.update({"head.bias": torch.zeros(4)}),
            "head.bias as float32 [4] instead of float32 [3]",
        ),
        (lambda tensors: tensors.update({"head.bias": torch.zeros(3).half()}), "float16 [3] instead of float32 [3]"),
        (lambda tensors: tensors["head.weight"].view(-1)[5].fill_(torch.nan), "not finite in tensor head.weight"),
        (lambda tensors: tensors["stem.1.running_mean"].fill_(torch.inf), "not finite in tensor stem.1.running_mean"),
        (lambda tensors: tensors["stem.1.running_var"][1].fill_(-1), "negative variance in tensor stem.1.running_var"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    zoo: Zoo, change: Callable[[dict[str, Tensor]], object], problem: str
) -> None:
    with raises(ZooError, subject="'second'", problem=problem, remedy=REMOVE):
        with_tensors(zoo, change).teacher("second")


def test_a_variance_of_zero_is_sound(zoo: Zoo) -> None:
    teacher = with_tensors(zoo, lambda tensors: tensors["stem.1.running_var"].zero_()).teacher("second")
    assert bool(teacher(torch.rand(1, 3, 16, 16)).isfinite().all())


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"architecture": "os.system"}, "'os.system'"),
        ({"arguments": {"depth": 3}}, "'depth'"),
        ({"arguments": {"width": 0}}, "width"),
        ({"architecture": "conv4", "input_size": 15}, "16 pixels, not 15"),
    ],
)
def test_a_spec_that_cannot_be_built_is_named(zoo: Zoo, spec: dict[str, Any], problem: str) -> None:
    changed = edited(zoo, "second", lambda content: content["spec"].update(spec))
    with raises(ZooError, subject="'second'", problem=problem, remedy=REMOVE):
        changed.teacher("second")


def test_a_gigantic_spec_takes_no_memory(zoo: Zoo) -> None:
    classes = 100_000
    gigantic = {"architecture": "conv4", "arguments": {"width": 4096}, "input_size": 1024, "classes": classes}

    def grow(content: Any) -> None:
        content["spec"].update(gigantic)
        content["class_names"] = [str(number) for number in range(classes)]

    with raises(ZooError, subject="'second'", problem="lacks tensor blocks"):
        edited(zoo, "second", grow).teacher("second")


def test_weights_outside_the_zoo_are_refused(zoo: Zoo, tmp_path: Path) -> None:
    models, outside = zoo.folder / "models", tmp_path / "outside"
    models.rename(outside)
    before = content(outside)

    def refused() -> None:
        for act in (lambda: zoo.teacher("first"), lambda: zoo.remove(["first"])):
            with raises(ZooError, problem="leads out of the zoo"):
                act()
        assert content(outside) == before

    models.symlink_to(outside)
    refused()
    models.unlink()
    models.mkdir()
    shutil.copy(outside / "first.json", models)
    (models / "first.safetensors").symlink_to(outside / "first.safetensors")
    refused()
    (models / "first.safetensors").unlink()
    (models / "first.safetensors").symlink_to("first.safetensors")
    with pytest.raises(MetazooError, match=r"first.safetensors: (a link leads out|missing)"):
        zoo.teacher("first")


def test_links_within_the_zoo_and_to_the_zoo_are_followed(zoo: Zoo, tmp_path: Path) -> None:
    path = zoo.folder / "models" / "first.safetensors"
    path.rename(zoo.folder / "blob")
    path.symlink_to("../blob")
    (tmp_path / "alias").symlink_to(zoo.folder)
    assert Zoo.open(tmp_path / "alias").teacher("first").contract == zoo.contract("first")
