import json
from pathlib import Path

import pytest
import torch
from error_checks import raises
from zoo_helpers import classifier

from metazoo.errors import UsageError
from metazoo.zoo import ClassIdentity, ModelContract, Zoo, identify_classes


@pytest.fixture(scope="module")
def contracts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelContract, ...]:
    zoo = Zoo.create(tmp_path_factory.mktemp("classes") / "zoo")
    for name, domain, classes in (
        ("a", "pets", ("cat", "dog")),
        ("b", "pets", ("dog", "tabby", "siamese")),
        ("c", "signs", ("dog", "3")),
    ):
        zoo.store(name, classifier(classes=len(classes)), class_names=classes, domain=domain)
    return zoo.contracts


def identities(identity: ClassIdentity) -> list[list[int]]:
    return [own.tolist() for own in identity.identities]


def test_without_a_map_every_class_is_its_own(contracts: tuple[ModelContract, ...]) -> None:
    identity = identify_classes(contracts)
    assert identities(identity) == [[0, 1], [2, 3, 4], [5, 6]]
    assert identity.names[1::4] == ("dog of a", "dog of c")
    assert identity.flat.tolist() == list(range(7))
    assert identity.conflicts is None
    assert identity.of(1).dtype == torch.int64


def test_equal_names_are_the_same_class_within_a_domain(contracts: tuple[ModelContract, ...]) -> None:
    identity = identify_classes(contracts, "names")
    assert identities(identity) == [[0, 1], [1, 2, 3], [4, 5]]
    assert identity.names == (
        "cat of pets",
        "dog of pets",
        "tabby of pets",
        "siamese of pets",
        "dog of signs",
        "3 of signs",
    )


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_a_file_says_which_classes_are_the_same(
    contracts: tuple[ModelContract, ...], tmp_path: Path, form: str
) -> None:
    classes = {"feline": {"a": "cat", "b": ["tabby", "siamese"]}, "dog": {"a": "dog", "c": "dog"}}
    text = "format_version: 1\nclasses:\n  feline: {a: cat, b: [tabby, siamese]}\n  dog:\n    a: dog\n    c: dog\n"
    path = tmp_path / "classes"
    path.write_text(text if form == "yaml" else json.dumps({"classes": classes}))
    identity = identify_classes(contracts, path)
    assert identities(identity) == [[0, 1], [2, 0, 0], [1, 3]]
    assert identity.names == ("feline", "dog", "dog of b", "3 of c")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("classes: {x: {d: dog}}", ("'x'", "model 'd'", "inspect")),
        ("classes: {x: {a: dgo}}", ("'x'", "model a", "'dgo'", "'dog'?")),
        ("classes: {x: {a: unlike}}", ("'x'", "model a", "'unlike'", "`metazoo zoo inspect`")),
        ("classes: {x: {a: dog}, y: {a: [cat, dog]}}", ("'y'", "'dog' of a", "'x'")),
        ("classes: {x: {c: 3}}", ("'x'", "class 3 of c", "quote")),
        ("classes: {x: {a: yes}}", ("class True of a", "quote")),
        ("classes: {x: [dog]}", ("'x'", "`model: class`")),
        ("classes: [x]", ("`classes`",)),
        ("x: {a: dog}", ("`classes`",)),
        ("[x]", ("list",)),
        ("format_version: 2\nclasses: {}", ("version 2", "1")),
        ("classes: &a {x: *a}", ("anchors",)),
        ('classes: {"x\\e[31m": {d: dog}}', (r"'x\x1b[31m'", "model 'd'")),
    ],
)
def test_what_does_not_fit_is_named(
    contracts: tuple[ModelContract, ...], tmp_path: Path, text: str, values: tuple[str, ...]
) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    with raises(UsageError, subject=str(path)) as caught:
        identify_classes(contracts, path)
    assert all(value in str(caught.value) for value in values), caught.value


def test_a_missing_file_is_named(contracts: tuple[ModelContract, ...], tmp_path: Path) -> None:
    with raises(UsageError, subject="none.yaml"):
        identify_classes(contracts, tmp_path / "none.yaml")


def test_conflicts_of_classes_are_conflicts_of_their_identities(contracts: tuple[ModelContract, ...]) -> None:
    conflicts = torch.zeros(7, 7, dtype=torch.bool)
    for first, second in ((1, 2), (0, 6), (3, 5)):  # the first pair is one identity
        conflicts[first, second] = conflicts[second, first] = True
    identity = identify_classes(contracts, "names").with_conflicts(conflicts)
    assert identity.conflicts is not None
    assert identity.conflicts.nonzero().tolist() == [[0, 5], [2, 4], [4, 2], [5, 0]]
    assert torch.equal(identify_classes(contracts).with_conflicts(conflicts).conflicts, conflicts)  # pyright: ignore[reportArgumentType]
