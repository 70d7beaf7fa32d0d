"""Report on the support images of a classifier: images per class, held-out accuracy, doubtful images, cost."""

import time

import torch
from rich.table import Table
from rich.text import Text

from metazoo.adapt import FewShotClassifier
from metazoo.adapt.few_shot_module import current_support
from metazoo.adapt.fitting import canonical_order
from metazoo.adapt.held_out import HeldOut
from metazoo.cli.output import print_table
from metazoo.features.embedders import count_parameters
from metazoo.text import printable, some_of

_MOST_ROWS = 50
_MOST_PAIRS = 5
_TIMED_IMAGES = 20


def print_support_report(classifier: FewShotClassifier) -> None:
    """Print the images of each class, and what follows from held-out predictions."""
    description = classifier.description
    if not description.versions:
        print(held_out_text(classifier))
        return
    held_out = classifier.held_out
    table = Table()
    table.add_column("class", overflow="fold")
    table.add_column("images", justify="right")
    if held_out is not None:
        table.add_column("held out, correct", justify="right")
    members = description.versions[-1].members
    for label, name in enumerate(description.class_names[:_MOST_ROWS]):
        row = [Text(printable(name)), str(len(members[label]))]
        if held_out is not None:
            own = held_out.labels == label
            row.append(f"{int((held_out.logits[own].argmax(1) == label).sum())} of {int(own.sum())}")
        table.add_row(*row)
    print_table(table)
    if len(members) > _MOST_ROWS:
        print(f"{len(members) - _MOST_ROWS} more classes are not listed")
    print(held_out_text(classifier))
    if held_out is not None:
        _print_doubts(classifier, held_out)


def held_out_text(classifier: FewShotClassifier) -> str:
    """Line on the held-out accuracy and on unknown images."""
    made = classifier.description
    if not made.versions:
        return "predictions depend on each other: no held-out accuracy, no calibration, and no image is called unknown"
    unknown = (
        f"images are called unknown at a false-rejection rate of about {100 * made.false_rejection:g} %"
        if made.threshold is not None
        else "too few images to recognise unknown ones"
    )
    if made.held_out is None:
        return f"held-out accuracy: none, since no image could be held out; {unknown}"
    record = made.held_out
    low, high = record.interval()
    share = 100 * record.correct / record.images
    return (
        f"held-out accuracy: {record.correct} of {record.images} images, {share:.0f} % "
        f"(95 % interval {100 * low:.0f} to {100 * high:.0f} %), in {record.folds} folds; {unknown}"
    )


def _print_doubts(classifier: FewShotClassifier, held_out: HeldOut) -> None:
    names, description = classifier.class_names, classifier.description
    pairs = [f"{printable(names[a])} / {printable(names[b])} ({count})" for a, b, count in held_out.confused()]
    if pairs:
        print(f"confused: {some_of(pairs, _MOST_PAIRS)}")
    rows, labels = current_support(description)
    ordered = canonical_order(labels.tolist(), [description.support[row].sha256 for row in rows])
    doubtful = [
        f"{printable(description.support[rows[ordered[row]]].name)} (looks like {printable(names[predicted])}, "
        f"{probability:.2f})"
        for row, predicted, probability in held_out.doubtful(description.temperature)
    ]
    if doubtful:
        print(f"perhaps mislabelled: {some_of(doubtful, _MOST_PAIRS)}")
    by_hash: dict[str, list[str]] = {}
    for row in rows:
        by_hash.setdefault(description.support[row].sha256, []).append(printable(description.support[row].name))
    same = [" = ".join(found) for found in by_hash.values() if len(found) > 1]
    if same:
        print(f"the same picture: {some_of(same, _MOST_PAIRS)}")


def cost_text(classifier: FewShotClassifier) -> str:
    """Cost of a classifier: parameters without class heads, bytes of its tensors, and time per single image."""
    module = classifier.as_module()
    size = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    image = torch.full((1, 3, classifier.side, classifier.side), 127, dtype=torch.uint8)
    image = torch.cat([image, 255 - image]) if classifier.transductive else image
    classifier.predict(image)
    start = time.perf_counter()
    for _ in range(_TIMED_IMAGES):
        classifier.predict(image)
    milliseconds = 1000 * (time.perf_counter() - start) / _TIMED_IMAGES
    return f"{count_parameters(module.embedder):,} parameters, {size / 1e6:.2f} MB, {milliseconds:.1f} ms an image"
