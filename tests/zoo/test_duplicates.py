from pathlib import Path

from zoo_helpers import classifier

from metazoo.zoo import Zoo
from metazoo.zoo.checking.duplicates import duplicate_models


def test_models_with_the_same_weights_are_duplicates_whatever_their_names_and_classes(tmp_path: Path) -> None:
    zoo = Zoo.create(tmp_path)
    for name, seed in (("a", 0), ("b", 1), ("c", 0), ("d", 2), ("e", 1), ("f", 0)):
        classes = (f"{name} one", f"{name} two", f"{name} three")
        zoo.store(name, classifier(seed=seed), class_names=classes, domain="glyphs")
    assert duplicate_models(zoo) == [("a", "c", "f"), ("b", "e")]


def test_no_duplicates_among_different_models(tmp_path: Path) -> None:
    zoo = Zoo.create(tmp_path)
    for seed in range(2):
        zoo.store(f"m{seed}", classifier(seed=seed), class_names=("one", "two", "three"), domain="glyphs")
    assert duplicate_models(zoo) == []
