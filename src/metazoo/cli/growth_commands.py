"""`metazoo classifier ...`: show a classifier and change it."""

from argparse import Namespace
from collections.abc import Callable

from rich.table import Table
from rich.text import Text

from metazoo.adapt import FewShotClassifier, growth
from metazoo.adapt.bundle import ClassifierDescription, check_out
from metazoo.adapt.support import load_labelled_folder
from metazoo.cli.output import print_table
from metazoo.cli.support_report import cost_text, held_out_text, print_support_report
from metazoo.execution.progress import message
from metazoo.execution.threads import torch_threads
from metazoo.text import printable


def show(options: Namespace) -> None:
    """Print what a classifier is made of, as `metazoo classifier show`."""
    classifier = FewShotClassifier.from_pretrained(options.classifier)
    made = classifier.description
    print(f"{options.classifier}: {len(made.class_names)} classes, head {made.head}, batch norm {made.batch_norm}")
    with torch_threads(1):
        print(f"made from {printable(made.source or 'a model that is not recorded')}; {cost_text(classifier)}")
    if not made.versions:
        print("support images are not recorded")
        return
    table = Table()
    table.add_column("class", overflow="fold")
    table.add_column("images", justify="right")
    table.add_column("names", overflow="fold")
    for name, rows in zip(made.class_names, made.versions[-1].members, strict=True):
        table.add_row(
            Text(printable(name)), str(len(rows)), Text(", ".join(printable(made.support[row].name) for row in rows))
        )
    print_table(table)
    print(held_out_text(classifier))
    for number, version in enumerate(made.versions, start=1):
        print(f"version {number}: {printable(version.change)}, {len(version.class_names)} classes")


def add(options: Namespace) -> None:
    """Add images or classes, as `metazoo classifier add`."""

    def change(classifier: FewShotClassifier) -> FewShotClassifier:
        support = load_labelled_folder(options.support, classifier.side, skip_bad=options.skip_bad)
        for reason in support.skipped:
            message(f"skipped: {printable(reason)}")
        labels = [support.class_names[label] for label in support.labels.tolist()]
        return growth.add_images(classifier, support.images, labels, support.image_names)

    _change(options, change)


def remove(options: Namespace) -> None:
    """Remove classes or images, as `metazoo classifier remove`."""
    classes, images = options.classes or (), options.images or ()
    _change(options, lambda classifier: growth.remove(classifier, classes=classes, images=images))


def rename(options: Namespace) -> None:
    """Rename a class, as `metazoo classifier rename`."""
    _change(options, lambda classifier: growth.rename(classifier, {options.former: options.new}))


def merge(options: Namespace) -> None:
    """Merge another classifier into one, as `metazoo classifier merge`."""
    _change(options, lambda classifier: growth.merge(classifier, FewShotClassifier.from_pretrained(options.other)))


def undo(options: Namespace) -> None:
    """Return to the former version, as `metazoo classifier undo`."""
    _change(options, growth.undo)


def forget(options: Namespace) -> None:
    """Delete former versions, as `metazoo classifier forget`."""
    _change(options, lambda classifier: growth.forget(classifier, pictures=options.pictures))


def _change(options: Namespace, change: Callable[[FewShotClassifier], FewShotClassifier]) -> None:
    """Load a classifier, change it, save it as its next version or to another folder, and report on it."""
    classifier = FewShotClassifier.load(options.classifier)
    with torch_threads(1):
        classifier = change(classifier)
    folder = options.classifier if options.out is None else options.out
    check_out(folder, ClassifierDescription, overwrite=options.out is None)
    classifier.save(folder)
    versions = classifier.description.versions
    print(f"{folder}: version {len(versions)}, {len(classifier.class_names)} classes; {versions[-1].change}")
    print_support_report(classifier)
