"""Arguments of `metazoo adapt` and `metazoo predict`. Nothing heavy is imported here."""

from typing import Any

from metazoo.cli import options
from metazoo.cli.options import command
from metazoo.text import local_path


def add_commands(commands: Any) -> None:
    """Add the commands of the group."""
    adapt = command(
        commands,
        "adapt",
        "classifier_commands:adapt",
        "Make a classifier of new classes from a few images of each",
        "Make a classifier from a folder that holds one folder per class with a few images.",
    )
    adapt.add_argument("subject", type=local_path, metavar="RUN_OR_ZOO", help="Folder of a run, a zoo or a meta-model")
    adapt.add_argument("--support", type=local_path, required=True, help="Folder with one folder of images per class")
    adapt.add_argument("--out", type=local_path, required=True, help="Classifier folder to write")
    adapt.add_argument("--overwrite", action="store_true", help="Replacement of an existing classifier at OUT")
    options.head(adapt)
    options.threads(adapt)
    options.device(adapt)
    predict = command(
        commands,
        "predict",
        "classifier_commands:predict",
        "Classify images",
        "Classify images with a classifier that `metazoo adapt` has made.",
    )
    predict.add_argument("classifier", type=local_path, metavar="CLASSIFIER", help="Classifier folder")
    predict.add_argument(
        "images",
        type=local_path,
        metavar="IMAGE_OR_FOLDER",
        nargs="+",
        help="Images, or folders with images at any depth",
    )
    predict.add_argument(
        "--format",
        choices=("table", "csv", "jsonl"),
        default="table",
        help="Format of the output; jsonl holds the probability of every class (default: %(default)s)",
    )
    options.threads(predict)
    options.device(predict)
