from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapt_helpers import NAMES, made, network, of_two_domains, pictures
from error_checks import raises
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metazoo.adapt import FewShotClassifier, adapt, growth
from metazoo.errors import UsageError

_POOL = pictures(14, seed=7)
_NETWORK = network()


def fresh(members: dict[str, list[int]], **options: Any) -> FewShotClassifier:
    """Classifier of rows of the pool by class."""
    rows = [row for own in members.values() for row in own]
    labels = [label for label, own in enumerate(members.values()) for _ in own]
    names = [f"picture {row}" for row in rows]
    return adapt(_NETWORK, _POOL[rows], labels, tuple(members), image_names=names, **options)


def check_equal(one: FewShotClassifier, two: FewShotClassifier) -> None:
    assert one.class_names == two.class_names
    first, second = one.as_module().fitted.tensors, two.as_module().fitted.tensors
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    for name in ("temperature", "threshold", "held_out", "head", "batch_norm", "mirrored"):
        assert getattr(one.description, name) == getattr(two.description, name), name
    pairs = zip((one.predict(_POOL), two.predict(_POOL)), strict=False)
    (first_found,), (second_found,) = pairs
    assert torch.equal(first_found.probabilities, second_found.probabilities)
    assert torch.equal(first_found.unknown, second_found.unknown)


_ACTIONS = st.lists(st.tuples(st.sampled_from(("add", "class", "remove", "image", "rename", "undo", "load")),
                              st.integers(0, 99)), min_size=1, max_size=6)  # fmt: skip


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=_ACTIONS, head=st.sampled_from(("logistic", "nearest-mean", "ridge")), mirrored=st.booleans())
def test_any_sequence_of_changes_equals_a_fresh_fit(
    tmp_path: Path, actions: list[tuple[str, int]], head: str, mirrored: bool
) -> None:
    states = [{"ant": [0, 1], "bee": [2, 3, 4], "cat": [5]}]
    grown = fresh(states[-1], head=head, mirrored=mirrored)
    for number, (action, choice) in enumerate(actions):
        state = {name: list(rows) for name, rows in states[-1].items()}
        names = list(state)
        name = names[choice % len(names)]
        free = [row for row in range(14) if row not in {own for rows in state.values() for own in rows}]
        if action == "add" and free:
            state[name].append(free[0])
            grown = growth.add_images(grown, _POOL[free[:1]], [name], [f"picture {free[0]}"])
        elif action == "class" and len(free) > 1:
            new = f"new {number}"
            state[new] = free[:2]
            grown = growth.add_images(grown, _POOL[free[:2]], [new, new], [f"picture {row}" for row in free[:2]])
        elif action == "remove" and len(names) > 2:
            del state[name]
            grown = growth.remove(grown, classes=[name])
        elif action == "image" and len(state[name]) > 1:
            row = state[name].pop(choice % len(state[name]))
            grown = growth.remove(grown, images=[f"picture {row}"])
        elif action == "rename":
            state = {f"other {number}" if own == name else own: rows for own, rows in state.items()}
            grown = growth.rename(grown, {name: f"other {number}"})
        elif action == "undo" and len(states) > 1:
            states.pop()
            grown = growth.undo(grown)
            continue
        elif action == "load":
            grown.save(tmp_path / "classifier")
            grown = FewShotClassifier.load(tmp_path / "classifier")
            continue
        else:
            continue
        states.append(state)
    check_equal(grown, fresh(states[-1], head=head, mirrored=mirrored))
    assert len(grown.description.versions) == len(states)


def test_merging_equals_a_fit_of_both() -> None:
    one, two = fresh({"ant": [0, 1], "bee": [2, 3]}), fresh({"bee": [3, 4], "cat": [5, 6, 7]}, head="ridge")
    check_equal(growth.merge(one, two), fresh({"ant": [0, 1], "bee": [2, 3, 4], "cat": [5, 6, 7]}))


def test_networks_and_domains_are_kept() -> None:
    module = of_two_domains()
    start = adapt(module, _POOL[:4], [0, 0, 1, 1], ("ant", "bee"))
    grown = growth.add_images(start, _POOL[4:6], ["ant", "bee"])
    assert grown.description.domains == start.description.domains
    assert torch.equal(grown.as_module().fitted.scale, start.as_module().fitted.scale)  # pyright: ignore[reportArgumentType]
    back = growth.undo(grown)
    assert torch.equal(back.as_module().fitted.weight, start.as_module().fitted.weight)


def test_a_changed_classifier_shares_nothing_with_the_former_one() -> None:
    start = fresh({"ant": [0, 1], "bee": [2, 3]})
    before = start.predict(_POOL).probabilities
    grown = growth.add_images(start, _POOL[4:5], ["ant"])
    for parameter in grown.as_module().parameters():
        parameter.data.zero_()
    assert torch.equal(start.predict(_POOL).probabilities, before)


def test_forgetting_removes_features_of_removed_images(tmp_path: Path) -> None:
    start = fresh({"ant": [0, 1], "bee": [2, 3]}, keep_images=True)
    smaller = growth.remove(start, images=["picture 1"])
    assert len(smaller.description.support) == 4
    forgotten = growth.forget(smaller)
    assert [image.name for image in forgotten.description.support if image.name == "picture 1"] == []
    assert forgotten.support_features is not None
    assert forgotten.support_images is not None
    assert len(forgotten.support_features) == len(forgotten.support_images) == 3
    forgotten.save(tmp_path / "classifier")
    loaded = FewShotClassifier.load(tmp_path / "classifier")
    check_equal(loaded, fresh({"ant": [0], "bee": [2, 3]}))
    with raises(UsageError, subject="classifier", problem="no former version"):
        growth.undo(loaded)


def test_stored_images_follow_their_rows() -> None:
    start = fresh({"ant": [0, 1], "bee": [2, 3]}, keep_images=True)
    grown = growth.remove(growth.add_images(start, _POOL[4:6], ["cat", "cat"]), classes=["ant"])
    members = grown.description.versions[-1].members
    assert grown.support_images is not None
    for row in (row for rows in members for row in rows):
        number = (
            int(grown.description.support[row].name.split()[-1])
            if "picture" in grown.description.support[row].name
            else 3 + int(grown.description.support[row].name.split()[-1])
        )
        assert torch.equal(grown.support_images[row], (_POOL[number] * 255).round().to(torch.uint8))


def test_images_that_are_there_are_ignored() -> None:
    start = fresh({"ant": [0, 1], "bee": [2, 3]})
    grown = growth.add_images(start, _POOL[[1, 4]], ["ant", "ant"])
    check_equal(grown, fresh({"ant": [0, 1, 4], "bee": [2, 3]}))
    with raises(UsageError, subject="images", problem="already"):
        growth.add_images(start, _POOL[[0, 1]], ["ant", "ant"])


@pytest.mark.parametrize(
    ("change", "subject", "problem"),
    [
        (lambda own: growth.remove(own, classes=["dog"]), "classes", "'dog'"),
        (lambda own: growth.remove(own, classes=["ant"]), "classes", "fewer than two"),
        (lambda own: growth.remove(own, images=["nothing"]), "images", "'nothing'"),
        (lambda own: growth.remove(own, images=["picture 0", "picture 1"]), "images", "'ant'"),
        (lambda own: growth.remove(own), "classes", "neither"),
        (lambda own: growth.rename(own, {"ant": "bee"}), "classes", "'bee'"),
        (lambda own: growth.rename(own, {"dog": "cat"}), "classes", "'dog'"),
        (lambda own: growth.rename(own, {}), "classes", "no new name"),
        (lambda own: growth.rename(own, {"ant": ""}), "classes", "no new name"),
        (lambda own: growth.undo(own), "classifier", "no former version"),
        (lambda own: growth.add_images(own, _POOL[:2], ["ant"]), "labels", "1 labels for 2"),
        (lambda own: growth.merge(own, made(module=network(3))), "other", "another model"),
    ],
)  # fmt: skip
def test_wrong_changes_are_refused(change: Any, subject: str, problem: str) -> None:
    start = fresh({"ant": [0, 1], "bee": [2, 3]})
    with raises(UsageError, subject=subject, problem=problem):
        change(start)


@pytest.mark.parametrize(
    "options",
    [{"head": "fine-tune"}, {"batch_norm": "support"}, {"batch_norm": "query"}, {"head": "soft-k-means-free"}],
)
def test_classifiers_whose_features_depend_on_the_support_cannot_grow(options: dict[str, str]) -> None:
    classifier = made(**options)
    for change in (
        lambda: growth.add_images(classifier, _POOL[:1], [NAMES[0]]),
        lambda: growth.remove(classifier, classes=[NAMES[0]]),
        lambda: growth.undo(classifier),
    ):
        with raises(UsageError, subject="classifier", remedy="adapt again"):
            change()


def test_forgetting_deletes_names_of_what_was_removed(tmp_path: Path) -> None:
    start = fresh({"Alice": [0, 1], "bee": [2, 3], "cat": [4, 5]})
    smaller = growth.remove(growth.rename(start, {"Alice": "A"}), classes=["cat"], images=["picture 2"])
    growth.forget(smaller).save(tmp_path / "classifier")
    saved = b"".join(path.read_bytes() for path in (tmp_path / "classifier").glob("*.[jm]*"))
    assert b"picture 1" in saved
    for name in (b"Alice", b'"cat"', b"picture 2", b"picture 4"):
        assert name not in saved


def test_images_of_one_name_stay_apart() -> None:
    start = fresh({"ant": [0, 1], "bee": [2, 3]})
    grown = growth.add_images(start, _POOL[4:6], ["ant", "bee"], ["picture 0", "picture 0"])
    names = [image.name for image in grown.description.support]
    assert names[-2:] == ["picture 0 (2)", "picture 0 (3)"]
    check_equal(growth.remove(grown, images=["picture 0 (3)"]), fresh({"ant": [0, 1, 4], "bee": [2, 3]}))
    other = fresh({"ant": [0, 6], "bee": [7, 8]}, head="ridge")
    assert len({image.name for image in growth.merge(grown, other).description.support}) == 9


def test_a_corrected_label_has_the_new_name() -> None:
    start = fresh({"ant": [0, 1, 2], "bee": [3, 4]})
    moved = growth.add_images(growth.remove(start, images=["picture 2"]), _POOL[2:3], ["bee"], ["bee/9"])
    check_equal(moved, fresh({"ant": [0, 1], "bee": [3, 4, 2]}))
    check_equal(growth.remove(moved, images=["bee/9"]), fresh({"ant": [0, 1], "bee": [3, 4]}))


def test_stored_images_are_not_lost_by_merging() -> None:
    with_images, without = fresh({"ant": [0, 1], "bee": [2]}, keep_images=True), fresh({"ant": [3], "cat": [4]})
    with raises(UsageError, subject="other", remedy="--keep-support"):
        growth.merge(with_images, without)
    assert growth.merge(growth.forget(with_images, pictures=True), without).support_images is None


@pytest.mark.parametrize("options", [{}, {"head": "fine-tune"}, {"batch_norm": "support"}])
def test_pictures_of_every_classifier_can_be_forgotten(options: dict[str, str], tmp_path: Path) -> None:
    start = made(keep_images=True, **options)
    forgotten = growth.forget(start, pictures=True)
    assert forgotten.support_images is None
    forgotten.save(tmp_path / "classifier")
    loaded = FewShotClassifier.load(tmp_path / "classifier")
    assert not loaded.description.has_support_images
    assert torch.equal(loaded.predict(_POOL).probabilities, start.predict(_POOL).probabilities)


def test_labels_may_be_a_tensor_or_an_array() -> None:
    start = adapt(_NETWORK, _POOL[:4], [0, 0, 1, 1])
    grown = growth.add_images(start, _POOL[4:6], torch.tensor([1, 2]))
    assert grown.class_names == ("0", "1", "2")
    assert growth.add_images(start, _POOL[4:6], np.array(["1", "2"])).class_names == ("0", "1", "2")


def test_grey_images_of_one_channel_are_those_of_three() -> None:
    grey = _POOL[:2, :1]
    start = adapt(_NETWORK, grey.expand(-1, 3, -1, -1), [0, 1])
    with raises(UsageError, subject="images", problem="already"):
        growth.add_images(start, grey, ["0", "1"])
