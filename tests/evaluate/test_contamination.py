import pytest
from error_checks import raises
from evaluate_helpers import noise_images

from metazoo.errors import UsageError
from metazoo.evaluate import Contamination, exclude_known, find_contamination


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("lion", "lion", True),
        ("lion", "LION ", True),
        ("aquarium_fish", "Aquarium fish", True),
        ("aquarium_fish", "aquarium-fish", True),
        ("street car", "streetcar", True),
        ("_lion-", "lion", True),
        ("ﬂower", "flower", True),
        ("lion", "sea lion", False),
        ("lion", "lions", False),
        ("latin/A", "greek/A", False),
        ("class 1", "class-1", True),
        ("class1", "class 1", True),
        ("class 1", "class 11", False),
        ("class 1 2", "class 12", False),
        ("class 1 2", "class_1-2", True),
        ("20 euro", "50 euro", False),
        ("n02129165", "n02129165", True),
        ("n02129165_Lion", "lion", True),
        ("n02129165 lion", "n02129165", True),
        ("n02129165", "lion", False),
        ("n02012849 crane", "n03126707 crane", False),
        ("n02012849", "n03126707", False),
        ("n021291650", "n02129165", False),
        ("001.Black_footed_Albatross", "black-footed albatross", True),
        ("001.Albatross", "002.Albatross", True),
        ("001", "002", False),
        ("001.", "002.", False),
        ("-", "_", False),
        ("", "-", False),
    ],
)
def test_comparison_of_class_names(one: str, other: str, same: bool) -> None:
    for name, known in ((one, other), (other, one)):
        assert find_contamination([name], {"model": [known]}).known == ({name: ("model",)} if same else {})


def test_every_model_that_knows_a_class_is_named() -> None:
    lists = {"b": ("Tiger", "lion"), "a": ("LION", "bear"), "c": ("wolf",)}
    found = find_contamination(("sea", "bear", "lion"), lists)
    assert found == Contamination(models=3, classes=3, known={"bear": ("a",), "lion": ("a", "b")})
    assert list(found.known) == ["bear", "lion"]
    assert not found.excluded


def test_classes_that_models_know_are_left_out() -> None:
    images = noise_images(classes=6, each=4)
    found = find_contamination(images.class_names, {"a": ["Class-1", "class 4"], "b": ["class_1"]})
    left, report = exclude_known(images, found, 4)
    assert left.class_names == ("class 0", "class 2", "class 3", "class 5")
    assert left.sha256 == images.select_classes([0, 2, 3, 5]).sha256
    assert left.name == "noise without 2 known classes"
    assert report == found.model_copy(update={"excluded": True})
    with raises(UsageError, subject="noise", problem="only 4 of 6 classes are unseen, too few for 5-way"):
        exclude_known(images, found, 5)


def test_results_of_version_0_1_warn_of_classes_that_models_were_selected_by() -> None:
    record = {"models": 1, "classes": 6, "known": {}, "selected_by": ["class 1"], "excluded": False}
    (warning,) = Contamination.model_validate(record).warnings("noise")
    assert "with images of 1 of these classes" in warning


def test_without_known_classes_nothing_is_left_out() -> None:
    images = noise_images()
    found = find_contamination(images.class_names, {"a": ["another"]})
    assert exclude_known(images, found, 6) == (images, found.model_copy(update={"excluded": True}))
    with raises(UsageError, subject="--exclude-known", problem="known"):
        exclude_known(images, find_contamination(images.class_names, {}), 2)


def test_images_that_directed_a_run_are_warned_of() -> None:
    found = find_contamination(["a"], {"model": ["b"]})
    assert found.model_copy(update={"validated": 0}).warnings("ships") == []
    (warning,) = found.model_copy(update={"validated": 1200}).warnings("ships")
    assert warning.startswith("1,200 images of ships are among the labelled validation images")
