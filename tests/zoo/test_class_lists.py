"""Zoos of models with listed classes."""

import dataclasses
import signal
from pathlib import Path
from typing import Any

import pytest
from error_checks import raises
from zoo_helpers import SIDE, coloured_images, content

from metazoo.data import ImageSet
from metazoo.errors import Interrupted, UsageError
from metazoo.zoo import TrainingConfig, Zoo, build_zoo
from metazoo.zoo.building.class_lists import class_lists

CONFIG = TrainingConfig(epochs=1, batch_size=8)
NAMES = ("cat", "dog, wild", 'the "ape"', "bird", "naïve")


@pytest.fixture(scope="module")
def animals() -> ImageSet:
    return dataclasses.replace(coloured_images(classes=len(NAMES)), name="animals", class_names=NAMES)


def build(out: Path, images: ImageSet, classes: Any, **more: Any) -> Zoo:
    return build_zoo(out, images, "thin-resnet", classes=classes, width=4, workers=1, config=CONFIG, **more)


def listed(zoo: Zoo) -> list[tuple[str, ...]]:
    return [contract.class_names for contract in zoo]


def test_a_file_and_lists_make_the_same_zoo(animals: ImageSet, tmp_path: Path) -> None:
    file = tmp_path / "classes.csv"
    file.write_text('bird, cat,"dog, wild"\r\n\r\n  naïve ,"the ""ape"""\r\n', encoding="utf-8-sig")
    wanted = [("bird", "cat", "dog, wild"), ("naïve", 'the "ape"')]
    zoo = build(tmp_path / "zoo", animals, file)
    assert listed(zoo) == wanted
    for index, contract in enumerate(zoo):
        assert contract.spec.input_size == SIDE
        assert contract.training is not None
        record = contract.training
        assert (record.choice, record.index, record.ways) == ("listed", index, len(wanted[index]))
    assert content(build(tmp_path / "again", animals, wanted).folder) == content(zoo.folder)
    # Further lines add models, and the same call trains nothing.
    more = build(tmp_path / "zoo", animals, [*wanted, ("cat", "bird")])
    assert listed(more) == [*wanted, ("cat", "bird")]
    before = content(zoo.folder)
    assert content(build(tmp_path / "zoo", animals, [*wanted, ("cat", "bird")]).folder) == before


def test_an_interrupted_build_of_listed_classes_continues(animals: ImageSet, tmp_path: Path) -> None:
    lists = [("cat", "bird"), ("bird", "naïve", "cat"), ("naïve", "cat")]
    whole = build(tmp_path / "whole", animals, lists)
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:  # a model takes two checks
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        build(tmp_path / "zoo", animals, lists, check=check)
    assert 0 < len(Zoo.open(tmp_path / "zoo")) < len(lists)
    assert content(build(tmp_path / "zoo", animals, lists).folder) == content(whole.folder)


def test_another_list_or_draw_is_refused(animals: ImageSet, tmp_path: Path) -> None:
    zoo = build(tmp_path / "zoo", animals, [("cat", "bird")])
    before = content(zoo.folder)
    with raises(UsageError, subject="animals-thin-resnet-w4-s0-000", problem="class_names"):
        build(zoo.folder, animals, [("bird", "cat")])
    drawn = build_zoo(tmp_path / "drawn", animals, "thin-resnet", 1, 3, width=4, workers=1, config=CONFIG)
    with raises(UsageError, subject="animals-thin-resnet-w4-s0-000", problem="training.choice (drawn, not listed)"):
        build(drawn.folder, animals, listed(drawn))
    assert content(zoo.folder) == before


def test_a_draw_has_no_lists(animals: ImageSet, tmp_path: Path) -> None:
    for name, given in (("--models", {"models": 2}), ("--ways", {"ways": 3})):
        with raises(UsageError, subject=name, problem="class lists", remedy=f"omit {name}"):
            build(tmp_path / "zoo", animals, [("cat", "bird")], **given)
    for name, given in (("--models", {"ways": 2}), ("--ways", {"models": 1})):
        with raises(UsageError, subject=name, problem="missing", remedy="--classes-file"):
            build(tmp_path / "zoo", animals, None, **given)
    assert not (tmp_path / "zoo").exists()


WRONG = {
    "cat,brid\n": ("line 1", "unknown class 'brid' of animals", "did you mean bird?"),
    "cat,bird\n\nbird,xyz\n": ("line 3", "unknown class 'xyz'", "choose among cat, dog, wild"),
    'cat,"dog, wild",cat\n': ("line 1", "'cat' is given twice", "remove one"),
    "cat,bird\ncat\n": ("line 2", "at least 2 classes", "one model a line"),
    "cat,,bird\n": ("line 1", "empty class name", "remove a comma"),
    'cat,bird\n"cat,bird\n': ("line 2", "not a line of CSV", "quote names"),
    "cat,\x00\x1b[2J\n": ("line 1", "unknown class", "choose among"),
    "": ("classes.csv", "has no class names", "one model a line"),
    " \n,,\n": ("classes.csv", "has no class names", "one model a line"),
}


@pytest.mark.parametrize("text", WRONG)
def test_the_line_of_a_mistake_is_named(text: str, animals: ImageSet, tmp_path: Path) -> None:
    path = tmp_path / "classes.csv"
    path.write_text(text, encoding="utf-8")
    subject, problem, remedy = WRONG[text]
    with raises(UsageError, subject=subject, problem=problem, remedy=remedy) as caught:
        build(tmp_path / "zoo", animals, path)
    assert "\x1b" not in str(caught.value)
    assert not (tmp_path / "zoo").exists()


def test_files_that_cannot_be_read_are_named(animals: ImageSet, tmp_path: Path) -> None:
    latin = tmp_path / "latin.csv"
    latin.write_bytes("cat,na\xefve".encode("latin-1"))
    with raises(UsageError, subject="latin.csv", problem="not UTF-8"):
        class_lists(latin, animals)
    for path in (tmp_path / "missing.csv", tmp_path):
        with raises(UsageError, subject=str(path), problem="cannot be read"):
            class_lists(path, animals)


def test_mistakes_in_python_are_named(animals: ImageSet) -> None:
    with raises(UsageError, subject="classes[1]", problem="unknown class 'dog'"):
        class_lists([("cat", "bird"), ("dog", "bird")], animals)
    with raises(UsageError, subject="classes[0]", problem="at least 2"):
        class_lists(["cat", "bird"], animals)  # pyright: ignore[reportArgumentType]
