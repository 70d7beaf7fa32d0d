"""`metazoo adapt`, `metazoo predict` and `metazoo export`."""

import csv
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from metazoo.adapt import FewShotClassifier, Prediction, load_support_folder
from metazoo.adapt import adapt as adapt_module
from metazoo.adapt.bundle import ClassifierDescription, check_out
from metazoo.cli.feature_source import open_source
from metazoo.cli.output import print_table
from metazoo.data import image_files
from metazoo.errors import UsageError
from metazoo.execution.compute import Compute
from metazoo.execution.progress import message
from metazoo.execution.threads import torch_threads
from metazoo.export import export_classifier
from metazoo.features.embedders import JointFeatures
from metazoo.text import printable

_FILES_AT_ONCE = 256


def adapt(options: Namespace) -> None:
    """Make a classifier folder, as `metazoo adapt`."""
    check_out(options.out, ClassifierDescription, overwrite=options.overwrite)
    source = open_source(options.subject)
    if source.meta_model is not None:
        networks = source.meta_model.networks
        module = source.meta_model.module
    else:
        networks = [teacher.classifier for teacher in source.teachers()]
        module = JointFeatures(networks)
    support = load_support_folder(options.support, max(network.spec.input_size for network in networks))
    device = Compute.choose(options.device).device
    module.to(device)
    with torch_threads(options.threads):
        classifier = adapt_module(
            module,
            support.images,
            support.labels,
            support.class_names,
            head=options.head,
            batch_norm=options.batch_norm,
            mirrored=options.mirror,
            domain=options.domain,
            source=str(options.subject),
        )
    classifier.save(options.out)
    classes, images = len(support.class_names), len(support.images)
    print(f"{options.out}: a classifier of {classes} classes, made from {images} images{_domains(classifier)}")


def _domains(classifier: FewShotClassifier) -> str:
    """Text on the domains of the images whose share is at least half a percent."""
    domains = sorted(classifier.description.domains.items(), key=lambda item: -item[1])
    named = [f"{printable(name)} ({100 * share:.0f} %)" for name, share in domains if share >= 0.005]
    return f", domains {', '.join(named)}" if named else ""


def predict(options: Namespace) -> None:
    """Classify images and print their classes."""
    classifier = FewShotClassifier.load(options.classifier).to(Compute.choose(options.device).device)
    files = [file for given in options.images for file in _files(Path(given))]
    size = _FILES_AT_ONCE
    if classifier.transductive:
        size = len(files)
        message(_transductive(classifier))
    parts = [files[start : start + size] for start in range(0, len(files), size)]
    with torch_threads(options.threads):
        predictions = [(part, classifier.predict(part)) for part in parts]
    _WRITERS[options.format](predictions)


def export(options: Namespace) -> None:
    """Write a classifier to one file, as `metazoo export`."""
    classifier = FewShotClassifier.load(options.classifier)
    files = [file for given in options.check or () for file in _files(Path(given))]
    with torch_threads(options.threads):
        agreement = export_classifier(
            classifier,
            options.out,
            outputs=options.outputs,
            precision=options.precision,
            check=files,
            overwrite=options.overwrite,
        )
    size = options.out.stat().st_size
    print(f"{options.out}: {options.outputs} of {len(classifier.class_names)} classes, {size / 1e6:.2f} MB")
    print(f"agreement with {options.classifier}: {agreement}")


def _transductive(classifier: FewShotClassifier) -> str:
    made = classifier.description
    text = (
        f"note: this classifier (head {made.head}, batch norm {made.batch_norm}) predicts all images together: "
        "the result of one depends on the others"
    )
    if made.head_kind == "soft-k-means-balanced":
        text += ", and equally many images per class are assumed"
    return text


def _files(given: Path) -> list[Path]:
    if not given.is_dir():
        return [given]
    below = sorted(path for path in given.rglob("*") if path.is_dir())
    folders = [given, *(path for path in below if not any(map(_hidden, path.relative_to(given).parts)))]
    files = [file for folder in folders for file in image_files(folder)]
    if not files:
        raise UsageError(given, "holds no image", "give images or a folder with images")
    return files


def _hidden(name: str) -> bool:
    return name.startswith(".")


_Predictions = Sequence[tuple[Sequence[Path], Prediction]]


def _rows(predictions: _Predictions) -> list[tuple[str, str, float]]:
    return [
        (str(file), prediction.class_names[int(label)], float(probability))
        for files, prediction in predictions
        for file, label, probability in zip(
            files, prediction.labels, prediction.probabilities.max(1).values, strict=True
        )
    ]


def _write_table(predictions: _Predictions) -> None:
    table = Table(caption="probabilities are not calibrated")
    table.add_column("image", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right")
    for file, name, probability in _rows(predictions):
        table.add_row(Text(printable(file)), Text(printable(name)), f"{probability:.3f}")
    print_table(table)


def _write_csv(predictions: _Predictions) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("image", "class", "probability"))
    writer.writerows((file, name, f"{probability:.6f}") for file, name, probability in _rows(predictions))


def _write_json_lines(predictions: _Predictions) -> None:
    for files, prediction in predictions:
        for file, name, row in zip(files, prediction.names, prediction.probabilities.tolist(), strict=True):
            probabilities = dict(zip(prediction.class_names, row, strict=True))
            record = {"image": str(file), "class": name, "probabilities": probabilities}
            print(json.dumps(record))


_WRITERS = {"table": _write_table, "csv": _write_csv, "jsonl": _write_json_lines}
