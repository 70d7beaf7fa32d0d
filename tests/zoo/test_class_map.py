import json
from pathlib import Path

import pytest
import torch
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
        zoo.add(name, classifier(classes=len(classes)), class_names=classes, domain=domain)
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
    ("text", "message"),
    [
        ("classes: {x: {d: dog}}", r"'x': the zoo has no model 'd'; "),
        ("classes: {x: {a: dgo}}", r"'x': model a has no class 'dgo'; did you mean 'dog'\?"),
        ("classes: {x: {a: unlike}}", r"'x': model a has no class 'unlike'; see `metazoo zoo inspect`"),
        ("classes: {x: {a: dog}, y: {a: [cat, dog]}}", r"class 'dog' of a is both 'x' and 'y'; name it once"),
        ("classes: {x: {c: 3}}", r"'x': class 3 of c is no text; quote it"),
        ("classes: {x: {a: yes}}", r"class True of a is no text; quote it"),
        ("classes: {x: [dog]}", r"'x' must name models, each with its class"),
        ("classes: [x]", r"is no class map, which holds `classes` and nothing else"),
        ("x: {a: dog}", r"is no class map"),
        ("[x]", r"must hold options by name, such as `classes: \{\}`, not list"),
        ("format_version: 2\nclasses: {}", r"has format version 2, this metazoo reads 1; update metazoo"),
        ("classes: &a {x: *a}", r"anchors and aliases"),
        ('classes: {"x\\e[31m": {d: dog}}', r"'x\\x1b\[31m': the zoo has no model 'd'"),
    ],
)
def test_what_does_not_fit_is_named(
    contracts: tuple[ModelContract, ...], tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=f"^{path}:? .*{message}"):
        identify_classes(contracts, path)


def test_a_missing_file_is_named(contracts: tuple[ModelContract, ...], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml: does not exist; give a YAML file that describes a class map"):
        identify_classes(contracts, tmp_path / "none.yaml")


def test_conflicts_of_classes_are_conflicts_of_their_identities(contracts: tuple[ModelContract, ...]) -> None:
    conflicts = torch.zeros(7, 7, dtype=torch.bool)
    for first, second in ((1, 2), (0, 6), (3, 5)):  # the first pair is one identity
        conflicts[first, second] = conflicts[second, first] = True
    identity = identify_classes(contracts, "names").with_conflicts(conflicts)
    assert identity.conflicts is not None
    assert identity.conflicts.nonzero().tolist() == [[0, 5], [2, 4], [4, 2], [5, 0]]
    assert torch.equal(identify_classes(contracts).with_conflicts(conflicts).conflicts, conflicts)  # pyright: ignore[reportArgumentType]
