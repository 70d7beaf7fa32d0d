import numpy as np
import pytest
import torch
from error_checks import raises
from PIL import Image

from metazoo.data import ImageSet
from metazoo.data.images import evenly_of_each
from metazoo.errors import DataError, UsageError


def make(count: int = 12, classes: int = 3, side: int = 8, groups: bool = False) -> ImageSet:
    random = torch.Generator().manual_seed(1)
    return ImageSet(
        images=torch.randint(0, 256, (count, 3, side, side), generator=random, dtype=torch.uint8),
        labels=torch.arange(count) % classes,
        class_names=tuple(f"class {index}" for index in range(classes)),
        groups=torch.arange(count) // 2 if groups else None,
        name="made",
    )


def test_selected_classes_are_relabelled_in_the_order_asked_for() -> None:
    whole = make(groups=True)
    part = whole.select_classes([2, 0])
    assert part.class_names == ("class 2", "class 0")
    assert part.groups is not None
    assert whole.groups is not None
    for new, old in ((0, 2), (1, 0)):
        assert torch.equal(part.images[part.indices_of(new)], whole.images[whole.indices_of(old)])
        assert torch.equal(part.groups[part.indices_of(new)], whole.groups[whole.indices_of(old)])
    assert len(part) == 8


@pytest.mark.parametrize("classes", [[], [0, 0], [3], [-1]])
def test_impossible_selection_is_wrong_use(classes: list[int]) -> None:
    with raises(UsageError, problem=str(classes)):
        make().select_classes(classes)


def test_hash_covers_pixels_labels_names_and_groups_but_not_the_name() -> None:
    base = make()
    pixels = base.images.clone()
    pixels[3, 1, 2, 2] ^= 1
    labels = base.labels.flip(0)
    others = [
        ImageSet(pixels, base.labels, base.class_names),
        ImageSet(base.images, labels, base.class_names),
        ImageSet(base.images, base.labels, ("class 0", "class 1", "class 3")),
        ImageSet(base.images, base.labels, base.class_names, torch.zeros(12, dtype=torch.int64)),
        ImageSet(base.images, base.labels, base.class_names, base.labels),
    ]
    assert len({base.sha256, *(other.sha256 for other in others)}) == 6
    assert ImageSet(base.images.clone(), base.labels, base.class_names, name="else").sha256 == base.sha256


def test_hash_does_not_depend_on_the_memory_layout() -> None:
    base = make()
    strided = base.images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not strided.is_contiguous()
    assert ImageSet(strided, base.labels, base.class_names).sha256 == base.sha256


def test_resizing_agrees_with_another_library() -> None:
    whole = make(side=24)
    small = whole.resized(9)
    for ours, source in zip(small.images, whole.images, strict=True):
        oracle = Image.fromarray(source.permute(1, 2, 0).numpy()).resize((9, 9), Image.Resampling.BILINEAR)
        difference = ours.permute(1, 2, 0).numpy().astype(int) - np.array(oracle).astype(int)
        assert np.abs(difference).max() <= 1
    assert whole.resized(24) is whole
    assert small.sha256 != whole.sha256
    with raises(UsageError, subject="side", problem="not 0"):
        whole.resized(0)


def test_what_does_not_fit_is_refused() -> None:
    good = make()
    with raises(DataError, problem="not float32"):
        ImageSet(good.images.float(), good.labels, good.class_names)
    with raises(DataError, problem="uint8 [n, 3, side, side], not uint8 [12, 3, 8, 4]"):
        ImageSet(good.images[..., :4], good.labels, good.class_names)
    with raises(DataError, problem="labels must be int64 [12]"):
        ImageSet(good.images, good.labels[:5], good.class_names)
    with raises(DataError, problem="image 2 has label 2"):
        ImageSet(good.images, good.labels, good.class_names[:2])
    with raises(DataError, problem="'class 0'"):
        ImageSet(good.images, good.labels, ("class 0", "class 1", "class 0"))
    with raises(DataError, problem="groups"):
        ImageSet(good.images, good.labels, good.class_names, good.labels[:3])
    with raises(DataError, problem="no image"):
        ImageSet(good.images[:0], good.labels[:0], good.class_names)


@pytest.mark.parametrize("classes", [1, 2, 3, 5, 10, 64])
def test_entries_are_taken_evenly_of_each_value(classes: int) -> None:
    labels = torch.arange(30 * classes) % classes
    for count in (1, 7, 15 * classes, 30 * classes, 1000 * classes):
        found = evenly_of_each(labels, count)
        taken = torch.bincount(labels[found], minlength=classes)
        assert len(found) == min(count, len(labels))
        assert int(taken.max() - taken.min()) <= 1
        assert torch.equal(found, torch.arange(len(found)))  # stored images go round the classes


def test_values_that_are_used_up_leave_their_part_to_others() -> None:
    assert evenly_of_each(torch.tensor([2, 2, 2, 0, 2, 1, 0]), 5).tolist() == [0, 1, 3, 5, 6]
    assert evenly_of_each(torch.tensor([2, 2, 2, 0, 2]), 4).tolist() == [0, 1, 2, 3]


def test_classes_with_the_same_images_in_any_order_are_found() -> None:
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    order = torch.tensor([0, 1, 2, 2, 0, 1, 0, 1])
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
    assert ImageSet(images[order], labels, ("a", "b", "c", "empty", "none")).equal_classes() == [("a", "b")]
