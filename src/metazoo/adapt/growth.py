"""Changes of a few-shot classifier: add, remove, rename, merge, undo.

Every change is a new version, fitted to the stored features of its support images. On the CPU it equals, bit for bit, a
classifier that `adapt` makes of the same images, class order, networks and domains. The networks do not change, so
heads that change them (`fine-tune`), batch norm `support` and transductive classifiers cannot grow.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metazoo.adapt.adaptation import record_of
from metazoo.adapt.bundle import ClassifierDescription
from metazoo.adapt.few_shot import FewShotClassifier
from metazoo.adapt.fitting import calibrated, canonical_order, digests, features_one_by_one, fit_features
from metazoo.adapt.held_out import Fold, hold_out
from metazoo.adapt.support import checked_images, image_names_of, pixels_of, unique_names
from metazoo.adapt.support_record import SupportImage, Version
from metazoo.errors import UsageError
from metazoo.features.batch_norm import has_batch_norm
from metazoo.features.embedders import SideBySide
from metazoo.features.heads import FeatureHead, get_head
from metazoo.models import ImageClassifier
from metazoo.text import some_of

Members = dict[str, list[int]]


def add_images(
    classifier: FewShotClassifier, images: Any, labels: Any, image_names: Sequence[str] | None = None
) -> FewShotClassifier:
    """Classifier with more images of its classes, or with new classes, which follow the others in sorted order.

    Images that a class already has are ignored.

    Args:
        classifier: classifier, which is not changed.
        images: images in any form that `FewShotClassifier.predict` takes.
        labels: class name of each image, as a list or an array.
        image_names: names of the images; None stands for the end of their paths, or their numbers.

    Raises:
        UsageError: the classifier cannot grow, labels that do not fit, or no new image.
        DataError: images that cannot be used; see `FewShotClassifier.predict`.
    """
    head, members = _growable(classifier), _members(classifier)
    squares = checked_images(images, classifier.side)
    labels = [str(label) for label in (labels.tolist() if hasattr(labels, "tolist") else labels)]
    if len(labels) != len(squares):
        raise UsageError("labels", f"{len(labels)} labels for {len(squares)} images", "give one label per image")
    names = image_names_of(images, len(squares)) if image_names is None else image_names
    if len(names) != len(squares):
        raise UsageError("image_names", f"{len(names)} names for {len(squares)} images", "give one per image")
    new = sorted(set(labels) - members.keys())
    members |= {name: [] for name in new}
    support, chosen, added = list(classifier.description.support), list[int](), 0
    used = {row for rows in members.values() for row in rows}
    # A removed image that returns under its name takes its former row.
    former = {(image.sha256, image.name): row for row, image in enumerate(support) if row not in used}
    for number, (label, own) in enumerate(zip(labels, digests(squares), strict=True)):
        if any(support[row].sha256 == own for row in members[label]):
            continue
        row = former.pop((own, names[number]), None)
        if row is None:
            row = len(support)
            name = unique_names([names[number]], [image.name for image in support])[0]
            support.append(SupportImage(name=name, sha256=own))
            chosen.append(number)
        members[label].append(row)
        added += 1
    if not added:
        raise UsageError("images", "all of them are in the classifier already", "give other images")
    change = f"added {added} images" + (f" and the classes {some_of(new)}" if new else "")
    rows = (features_one_by_one(classifier.as_module().feature_embedder, squares[chosen]),) if chosen else ()
    return _version(classifier, head, change, members, support, rows, pixels_of(squares[chosen]) if chosen else None)


def remove(
    classifier: FewShotClassifier, *, classes: Sequence[str] = (), images: Sequence[str] = ()
) -> FewShotClassifier:
    """Classifier without some classes or images.

    Former versions keep the features of removed images, for `undo`; see `forget`.

    Args:
        classifier: classifier, which is not changed.
        classes: names of classes.
        images: names of support images.

    Raises:
        UsageError: the classifier cannot grow, an unknown class or image, a class would be left without images, or
            fewer than two classes would be left.
    """
    head, members = _growable(classifier), _members(classifier)
    if not classes and not images:
        raise UsageError("classes", "neither classes nor images to remove", "name some")
    for name in dict.fromkeys(classes):
        _check_class(name, members)
        del members[name]
    support = classifier.description.support
    known = {support[row].name for rows in members.values() for row in rows}
    for name in images:
        if name not in known:
            raise UsageError("images", f"{name!r} is not a support image", f"choose one of {some_of(sorted(known))}")
    members = {name: [row for row in rows if support[row].name not in images] for name, rows in members.items()}
    empty = next((name for name, rows in members.items() if not rows), None)
    if empty is not None:
        raise UsageError("images", f"class {empty!r} would have no image", "remove the class instead")
    if len(members) < 2:
        raise UsageError("classes", "fewer than two classes would be left", "keep at least two")
    what = [f"the classes {some_of(list(classes))}"] if classes else []
    what += [f"the images {some_of(list(images))}"] if images else []
    return _version(classifier, head, f"removed {' and '.join(what)}", members, support)


def rename(classifier: FewShotClassifier, names: Mapping[str, str]) -> FewShotClassifier:
    """Classifier with other names of classes, in the same order.

    Args:
        classifier: classifier, which is not changed.
        names: new name of each class to rename, by its former name.

    Raises:
        UsageError: the classifier cannot grow, an unknown class, or two classes would have the same name.
    """
    head, members = _growable(classifier), _members(classifier)
    if not names or not all(names.values()):
        raise UsageError("classes", "no new name", "give a new name for each class to rename")
    for name in names:
        _check_class(name, members)
    renamed = [names.get(name, name) for name in members]
    if len(set(renamed)) < len(renamed):
        duplicate = next(name for name in renamed if renamed.count(name) > 1)
        raise UsageError("classes", f"two would be called {duplicate!r}", "choose another name")
    change = f"renamed {some_of([f'{old} to {new}' for old, new in names.items()])}"
    own = dict(zip(renamed, members.values(), strict=True))
    return _version(classifier, head, change, own, classifier.description.support)


def merge(classifier: FewShotClassifier, other: FewShotClassifier) -> FewShotClassifier:
    """Classifier with the classes and images of two classifiers; classes of the same name become one.

    Args:
        classifier: classifier, whose head and rate of false rejection are kept. It is not changed.
        other: classifier of the same networks, domains and features, with any head that does not change them.

    Raises:
        UsageError: a classifier cannot grow, their features differ, or only `classifier` stores support images.
    """
    head, members = _growable(classifier), _members(classifier)
    _growable(other)
    if not _has_same_features(classifier, other):
        raise UsageError(
            "other",
            "is made from another model or other domains",
            "adapt both from the same meta-model, with the same --domain",
        )
    if classifier.support_images is not None and other.support_images is None:
        problem = "stores no support images, so those of the classifier would be lost"
        raise UsageError(
            "other", problem, "adapt it with --keep-support, or run `metazoo classifier forget --pictures`"
        )
    support, rows = list(classifier.description.support), list[int]()
    for name, its in _members(other).items():
        own = members.setdefault(name, [])
        present = {support[row].sha256 for row in own}
        for row in its:
            if other.description.support[row].sha256 not in present:
                own.append(len(support))
                image = other.description.support[row]
                name = unique_names([image.name], [known.name for known in support])[0]
                support.append(image.model_copy(update={"name": name}))
                rows.append(row)
    if not rows:
        raise UsageError("other", "has no image that is new", "give another classifier")
    assert other.support_features is not None
    images = None if other.support_images is None else other.support_images[rows]
    change = f"merged with {len(other.class_names)} classes"
    return _version(classifier, head, change, members, support, (other.support_features[rows],), images)


def undo(classifier: FewShotClassifier) -> FewShotClassifier:
    """Classifier of the version before the last change.

    Raises:
        UsageError: the classifier cannot grow, or this is its first version.
    """
    head, description = _growable(classifier), classifier.description
    if len(description.versions) < 2:
        raise UsageError("classifier", "has no former version", "adapt again to change it")
    return _fitted(classifier, head, description.versions[:-1], description.support, (), None)


def forget(classifier: FewShotClassifier, *, pictures: bool = False) -> FewShotClassifier:
    """Classifier without its former versions and without the features of images that only they have.

    Args:
        classifier: classifier, which is not changed.
        pictures: whether to forget all stored support images as well; their features are kept.

    Raises:
        UsageError: the classifier cannot grow. (Support images can be forgotten by every classifier that has some.)
    """
    if pictures and classifier.support_images is not None:
        described = classifier.description.model_copy(update={"has_support_images": False})
        fitted, module = classifier.as_module().fitted, copy.deepcopy(_module(classifier))
        features, held_out = classifier.support_features, classifier.held_out
        classifier = FewShotClassifier(module, fitted, described, features, None, held_out)
        if not isinstance(get_head(described.head), FeatureHead) or described.batch_norm == "support":
            return classifier
    head, last = _growable(classifier), classifier.description.versions[-1]
    # The text of a change names what it removed.
    last = last.model_copy(update={"change": "former versions deleted"})
    return _fitted(classifier, head, (last,), classifier.description.support, (), None)


def _growable(classifier: FewShotClassifier) -> FeatureHead:
    made = classifier.description
    if not made.versions:
        problem = "stores no features of its support images (it is transductive, or of version 0.1)"
        raise UsageError("classifier", problem, "adapt again to change it")
    head = get_head(made.head)
    changes_networks = made.batch_norm == "support" and has_batch_norm(classifier.as_module().embedder)
    if not isinstance(head, FeatureHead) or changes_networks:
        problem = f"head {made.head} with batch norm {made.batch_norm} changes the networks by the support images"
        raise UsageError("classifier", problem, "adapt again with all images")
    return head


def _members(classifier: FewShotClassifier) -> Members:
    version = classifier.description.versions[-1]
    return dict(zip(version.class_names, map(list, version.members), strict=True))


def _check_class(name: str, members: Members) -> None:
    if name not in members:
        raise UsageError("classes", f"{name!r} is not a class", f"choose one of {some_of(list(members))}")


def _has_same_features(classifier: FewShotClassifier, other: FewShotClassifier) -> bool:
    one, two = classifier.description, other.description
    if (one.networks, one.joint, one.mirrored) != (two.networks, two.joint, two.mirrored):
        return False
    states = [_tensors(own) for own in (classifier, other)]
    same = states[0].keys() == states[1].keys()
    return same and all(torch.equal(tensor.cpu(), states[1][name].cpu()) for name, tensor in states[0].items())


def _module(classifier: FewShotClassifier) -> ImageClassifier | SideBySide:
    module = classifier.as_module().embedder
    assert isinstance(module, ImageClassifier | SideBySide)
    return module


def _tensors(classifier: FewShotClassifier) -> dict[str, Tensor]:
    """Tensors that the features depend on."""
    scale = classifier.as_module().fitted.scale
    return {**_module(classifier).state_dict(), **({} if scale is None else {"scale": scale})}


def _version(
    classifier: FewShotClassifier,
    head: FeatureHead,
    change: str,
    members: Members,
    support: Sequence[SupportImage],
    features: tuple[Tensor, ...] = (),
    images: Tensor | None = None,
) -> FewShotClassifier:
    """Classifier with one more version; `features` and `images` are those of the rows that are new in `support`."""
    version = Version(change=change, class_names=tuple(members), members=tuple(map(tuple, members.values())))
    versions = (*classifier.description.versions, version)
    return _fitted(classifier, head, versions, support, features, images)


def _fitted(
    classifier: FewShotClassifier,
    head: FeatureHead,
    versions: Sequence[Version],
    support: Sequence[SupportImage],
    features: tuple[Tensor, ...],
    images: Tensor | None,
) -> FewShotClassifier:
    """Classifier of the last of `versions`; rows that no version uses are dropped."""
    assert classifier.support_features is not None
    own, table = classifier.description, torch.cat([classifier.support_features, *features])
    used = sorted({row for version in versions for rows in version.members for row in rows})
    new_row = {row: number for number, row in enumerate(used)}
    versions = [
        version.model_copy(update={"members": tuple(tuple(new_row[row] for row in rows) for rows in version.members)})
        for version in versions
    ]
    table, support = table[used], [support[row] for row in used]
    kept = classifier.support_images
    if kept is not None and images is not None:
        kept = torch.cat([kept, images])
    is_complete = kept is not None and len(kept) > max(used)
    kept = kept[used] if kept is not None and is_complete else None
    current = versions[-1]
    rows = [row for members in current.members for row in members]
    labels = [label for label, members in enumerate(current.members) for _ in members]
    order = canonical_order(labels, [support[row].sha256 for row in rows])
    chosen, label_of = table[[rows[i] for i in order]], torch.tensor([labels[i] for i in order])
    ways, scale = len(current.class_names), classifier.as_module().fitted.scale
    scale = None if scale is None else scale.cpu()

    def fold(of_kept: Tensor, held: Tensor) -> Fold:
        fitted = fit_features(head, chosen[of_kept], label_of[of_kept], ways, scale)
        return Fold(fitted, chosen[of_kept], chosen[held])

    held_out = hold_out(label_of, ways, fold)
    fitted = fit_features(head, chosen, label_of, ways, scale)
    fitted, threshold = calibrated(fitted, head, chosen, label_of, ways, held_out, own.false_rejection)
    description = ClassifierDescription(
        **own.model_dump(
            exclude={
                "class_names",
                "temperature",
                "threshold",
                "held_out",
                "support",
                "has_support_images",
                "versions",
                "weights_sha256",
            }
        ),
        class_names=current.class_names,
        temperature=fitted.temperature,
        threshold=threshold,
        held_out=record_of(held_out),
        support=tuple(support),
        has_support_images=kept is not None,
        versions=tuple(versions),
    )
    return FewShotClassifier(copy.deepcopy(_module(classifier)), fitted, description, table, kept, held_out)
