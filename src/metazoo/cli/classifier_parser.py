"""Arguments of `metazoo adapt` and `metazoo predict`. It imports nothing heavy."""

from typing import Any

from metazoo.cli import options
from metazoo.cli.options import command, path


def add_commands(commands: Any) -> None:
    """Add the commands of the group."""
    adapt = command(
        commands,
        "adapt",
        "classifier_commands:adapt",
        "Make a classifier of new classes from a few images of each",
        "Make a classifier from a folder that holds one folder per class with a few images.",
    )
    adapt.argument("subject", "RUN_OR_ZOO", "Folder of a run, a zoo or a meta-model")
    adapt.option("--support", "Folder with one folder of images per class", path, required=True)
    adapt.option("--out", "Classifier folder to write", path, required=True)
    adapt.switch("--overwrite", "Replace an existing classifier at OUT")
    options.head(adapt)
    options.threads(adapt)
    options.device(adapt)
    predict = command(
        commands,
        "predict",
        "classifier_commands:predict",
        "Classify images",
        "Classify images with a classifier made by `metazoo adapt`.",
    )
    predict.argument("classifier", "CLASSIFIER", "Classifier folder")
    predict.argument("images", "IMAGE_OR_FOLDER", "Images, or folders with images at any depth", nargs="+")
    options.output_format(predict, "table", "csv", "jsonl", more="; jsonl holds the probability of every class")
    options.threads(predict)
    options.device(predict)
