"""Arguments of `metazoo adapt`, `metazoo predict` and `metazoo export`. It imports nothing heavy."""

from typing import Any

from metazoo import choices
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
    adapt.switch("--skip-bad", "Leave out images that cannot be read, and list them")
    options.head(adapt)
    options.threads(adapt)
    options.device(adapt)
    predict = command(
        commands,
        "predict",
        "predict_command:predict",
        "Classify images",
        "Classify images with a classifier made by `metazoo adapt`. An image that cannot be read has an error instead "
        "of a class, and the exit code is 1.",
    )
    predict.argument("classifier", "CLASSIFIER", "Classifier folder")
    predict.argument(
        "images",
        "IMAGE_OR_FOLDER",
        "Images, folders with images at any depth, patterns such as 'photos/*.jpg', or - for standard input",
        options.path_or_standard_input,
        nargs="+",
    )
    options.output_format(predict, "table", "csv", "jsonl", more="; jsonl holds the probability of every class")
    predict.option("--copy-to", "Folder for copies of the images in one folder per class", path)
    options.threads(predict)
    options.device(predict)
    export = command(
        commands,
        "export",
        "classifier_commands:export",
        "Write a classifier to one ONNX file or web page and prove that it agrees",
        "Write a classifier made by `metazoo adapt` to one file with all of its preprocessing. The file is run on "
        "generated pictures of odd sizes, and not written if a class differs or a probability by more than 1e-4. "
        "The input of an ONNX file is called images: uint8 [n, 3, height, width], RGB pixels as decoded, of any number "
        "and size. A name that ends in .html writes a page that learns classes from pictures and recognises them in a "
        "browser, without a network. It starts from the class means of a classifier with head nearest-mean, or from "
        "no classes for a run or a meta-model.",
        "Needs the extra export, and a page also npm or --runtime.",
    )
    export.argument("subject", "CLASSIFIER", "Classifier folder; for a page also the folder of a run or a meta-model")
    export.argument("out", "FILE", "File to write: model.onnx, page.html, or model.pt2 for torch.export")
    export.option(
        "--outputs",
        "Outputs. probabilities: of the classes; features: of length 1, for a vector database",
        default=choices.EXPORTED_OUTPUTS[0],
        choices=choices.EXPORTED_OUTPUTS,
    )
    export.option(
        "--precision",
        "Precision, of which float16 and int8 are approximations whose agreement is only reported",
        default=choices.EXPORTED_PRECISIONS[0],
        choices=choices.EXPORTED_PRECISIONS,
    )
    export.option("--check", "Image or folder of images to compare on as well; repeatable", path, action="append")
    export.option(
        "--runtime",
        "Package onnxruntime-web of npm for a page: folder or .tgz (default: downloaded by npm once)",
        path,
    )
    export.switch("--overwrite", "Replace an existing file")
    options.threads(export)
