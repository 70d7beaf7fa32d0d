from pathlib import Path
from typing import Any, cast

import pytest
import torch
from error_checks import raises
from zoo_helpers import BAD_NAMES, classifier, content

from metazoo.errors import ArtefactError, RunError, UsageError, ZooError
from metazoo.storage.lock import exclusive
from metazoo.zoo import ModelContract, Zoo


def add(zoo: Zoo, name: str, seed: int = 0) -> ModelContract:
    return zoo.store(name, classifier(seed=seed), class_names=("a", "b", "c"), domain="letters")


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    given = classifier("conv4", classes=3)
    zoo = Zoo.create(tmp_path / "made" / "zoo")
    assert len(zoo) == 0
    added = zoo.store("one", given, class_names=["x", "y", "[z]"], domain="päts", accuracy=99.95)
    for opened in (zoo, Zoo.open(tmp_path / "made" / "zoo"), Zoo.create(str(tmp_path / "made" / "zoo"))):
        assert opened.contracts == (added,)
        assert (added.class_names, added.domain, added.accuracy) == (("x", "y", "[z]"), "päts", 99.95)
        teacher = opened.teacher("one")
        state = given.network.state_dict()
        assert teacher.classifier.network.state_dict().keys() == state.keys()
        for name, tensor in teacher.classifier.network.state_dict().items():
            assert torch.equal(tensor, state[name]), name
        images = torch.rand(4, 3, 20, 20)
        assert torch.equal(teacher(images), given(images))
        assert teacher.contract == added


def test_contracts_are_sorted_and_identify_the_zoo(tmp_path: Path) -> None:
    zoos = [Zoo.create(tmp_path / folder) for folder in ("a", "b")]
    for zoo, names in zip(zoos, (("x", "B", "a"), ("a", "x", "B")), strict=True):
        for name in names:
            add(zoo, name)
    assert [contract.name for contract in zoos[0]] == ["B", "a", "x"]
    assert [teacher.contract.name for teacher in zoos[0].teachers()] == ["B", "a", "x"]
    assert zoos[0].sha256 == zoos[1].sha256 == Zoo.open(tmp_path / "a").sha256
    assert content(tmp_path / "a") == content(tmp_path / "b")
    before = zoos[0].sha256
    add(zoos[0], "y", seed=3)
    assert zoos[0].sha256 != before
    zoos[0].remove(["y"])
    assert zoos[0].sha256 == before
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_removing_deletes_the_weights_and_an_unknown_name_removes_nothing(zoo: Zoo) -> None:
    before = content(zoo.folder)
    with raises(UsageError, subject=str(zoo.folder), problem="'third'", remedy="first, second"):
        zoo.remove(["first", "third"])
    assert content(zoo.folder) == before
    zoo.remove("first")
    assert sorted(content(zoo.folder)) == ["models/second.json", "models/second.safetensors", "zoo.json"]
    assert [contract.name for contract in Zoo.open(zoo.folder)] == ["second"]
    zoo.remove(["second"])
    assert len(Zoo.open(zoo.folder)) == 0
    with raises(UsageError, problem="'second'", remedy="add"):
        zoo.teacher("second")


def test_a_model_whose_file_is_lost_or_damaged_can_still_be_removed(zoo: Zoo) -> None:
    (zoo.folder / "models" / "first.safetensors").unlink()
    (zoo.folder / "models" / "second.safetensors").write_bytes(b"rubbish")
    zoo.remove(["first", "second"])
    assert sorted(content(zoo.folder)) == ["zoo.json"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_cannot_escape(zoo: Zoo, name: str) -> None:
    before = content(zoo.folder.parent)
    with raises(UsageError, problem="name: "):
        add(zoo, name)
    with raises(UsageError, problem="no model"):
        zoo.remove([name])
    assert content(zoo.folder.parent) == before


def test_what_cannot_be_described_is_refused(zoo: Zoo) -> None:
    before = content(zoo.folder)
    for change, problem in (
        ({"class_names": ("a", "b")}, "2 class names for 3 classes"),
        ({"class_names": ("a", "b", "a")}, "duplicate class name"),
        ({"class_names": ("a", "b", "")}, "class_names.2: "),
        ({"domain": "red\x1b[31m"}, "domain: "),
        ({"domain": "d" * 501}, "domain: "),
        ({"accuracy": 100.5}, "accuracy: Input should be less than or equal to 100"),
        ({"accuracy": float("nan")}, "accuracy: "),
    ):
        with raises(UsageError, subject="'new'", problem=problem):
            zoo.store("new", classifier(), **cast(Any, {"class_names": ("a", "b", "c"), "domain": "letters"} | change))
    for name in ("first", "FIRST"):
        with raises(UsageError, subject=str(zoo.folder), problem="'first'"):
            add(zoo, name)
    assert content(zoo.folder) == before


@pytest.mark.parametrize(
    ("tensor", "value", "problem"),
    [
        ("head.bias", float("nan"), "not finite in tensor head.bias"),
        ("stem.0.weight", float("inf"), "not finite in tensor stem.0.weight"),
        ("stem.1.running_var", -1e-6, "negative variance in tensor stem.1.running_var"),
    ],
)
def test_unsound_weights_are_not_taken_in(zoo: Zoo, tensor: str, value: float, problem: str) -> None:
    before = content(zoo.folder)
    unsound = classifier()
    unsound.network.state_dict()[tensor][0] = value
    with raises(ZooError, subject="'new'", problem=problem):
        zoo.store("new", unsound, class_names=("a", "b", "c"), domain="letters")
    with raises(ZooError, subject="'new'", problem="as float64"):
        zoo.store("new", classifier().double(), class_names=("a", "b", "c"), domain="letters")
    assert content(zoo.folder) == before


def test_what_is_not_a_zoo_is_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("x")
    for missing in (tmp_path / "nowhere", tmp_path / "file", tmp_path / ("x" * 300), Path("\0")):
        with raises(UsageError, subject=str(missing), remedy="zoo build"):
            Zoo.open(missing)
    with raises(UsageError, subject="photos", problem="zoo.json"):
        Zoo.open(tmp_path / "photos")
    with raises(UsageError, subject="photos", problem="'cat.jpg'"):
        Zoo.create(tmp_path / "photos")
    with raises(UsageError, subject="file"):
        Zoo.create(tmp_path / "file")
    assert sorted(content(tmp_path)) == ["file", "photos/cat.jpg"]


def test_a_second_writer_is_refused_and_readers_are_not(zoo: Zoo) -> None:
    other = Zoo.open(zoo.folder)
    with exclusive(zoo.folder):
        for change in (lambda: add(zoo, "third"), lambda: zoo.remove(["first"])):
            with raises(RunError):
                change()
        assert len(Zoo.open(zoo.folder).teachers()) == 2
    with zoo.writing():
        add(zoo, "third")
        with pytest.raises(RunError, match="in use"):
            add(other, "fourth")
        zoo.remove(["first"])
    assert len(other) == 2
    add(other, "fourth")
    assert [contract.name for contract in other] == ["fourth", "second", "third"]
    assert len(zoo) == 2


def test_a_zoo_that_is_gone_is_not_made_again_by_a_writer(zoo: Zoo, tmp_path: Path) -> None:
    zoo.folder.rename(tmp_path / "moved")
    with raises(UsageError, subject=str(zoo.folder), problem="not a folder"):
        add(zoo, "third")
    assert not zoo.folder.exists()


def test_a_failed_commit_leaves_the_zoo_as_it_was(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: Path, _value: object) -> None:
        raise ArtefactError("cannot write zoo.json: No space left on device; free some space and call again")

    before = zoo.sha256
    with monkeypatch.context() as patch:
        patch.setattr("metazoo.zoo.contract_files.write_json", fail)
        with pytest.raises(ArtefactError, match="No space left"):
            add(zoo, "third", seed=1)
        with pytest.raises(ArtefactError, match="No space left"):
            zoo.permit(["first"], "keep")
    assert zoo.sha256 == Zoo.open(zoo.folder).sha256 == before
    assert len(zoo.teachers()) == 2
    # The weights of the failed attempt are replaced by those of the next one.
    add(zoo, "third", seed=2)
    expected = classifier(seed=2).network.head.weight
    assert torch.equal(zoo.teacher("third").classifier.network.head.weight, expected)


def test_its_repr_says_what_it_holds(zoo: Zoo, tmp_path: Path) -> None:
    assert repr(zoo) == f"Zoo({str(tmp_path / 'zoo')!r}, 2 models, 2 domains)"
    zoo.remove(["first"])
    assert repr(zoo).endswith("1 model, 1 domain)")
