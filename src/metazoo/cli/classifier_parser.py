"""Arguments of `metazoo adapt`, `metazoo predict`, `metazoo export` and `metazoo push`. It imports nothing heavy."""

from typing import Any

from metazoo import choices
from metazoo.cli import options
from metazoo.cli.options import command, path, positive, share


def add_commands(commands: Any) -> None:
    """Add the commands of the group."""
    adapt = command(
        commands,
        "adapt",
        "classifier_commands:adapt",
        "Make a classifier of new classes from a few images of each",
        "Make a classifier from a folder that holds one folder per class with a few images.",
    )
    adapt.argument("subject", "RUN_OR_ZOO", "Folder of a run, a zoo or a meta-model, or hf:OWNER/NAME[@REVISION]")
    adapt.option("--support", "Folder with one folder of images per class", path, required=True)
    adapt.option("--out", "Classifier folder to write", path, required=True)
    adapt.switch("--overwrite", "Replace an existing classifier at OUT")
    adapt.switch("--skip-bad", "Leave out images that cannot be read, and list them")
    options.head(adapt, automatic=True)
    adapt.option(
        "--false-rejection",
        "Share of images of the classes that may be called unknown; the threshold is set on the support images",
        share,
        choices.FALSE_REJECTION,
    )
    adapt.switch("--keep-support", "Store the support images, resized, in the classifier, beside their features")
    adapt.option("--compare", "Run, zoo or meta-model whose classifier of the same images is shown beside", path)
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
    predict.argument("classifier", "CLASSIFIER", "Classifier folder, or hf:OWNER/NAME[@REVISION]")
    predict.argument(
        "images",
        "IMAGE_OR_FOLDER",
        "Images, folders with images at any depth, patterns such as 'photos/*.jpg', or - for standard input",
        str,
        nargs="+",
    )
    options.output_format(predict, "table", "csv", "jsonl", more="; jsonl holds the probability of every class")
    predict.option("--copy-to", "Folder for copies of the images in one folder per class, or `unknown`", path)
    predict.option("--nearest", "Number of most similar support images to show with each image", positive)
    predict.switch("--allow-urls", "Read images from http and https addresses")
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
    text = "Classifier folder or hf:OWNER/NAME[@REVISION]; for a page also the folder of a run or a meta-model"
    export.argument("subject", "CLASSIFIER", text)
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
    _classifier(commands)
    _push(commands)


def _classifier(commands: Any) -> None:
    text = "Show a classifier, and add, remove, rename, merge or undo"
    group = commands.add_parser("classifier", help="show and change a classifier", description=f"{text}.")
    group = group.add_subparsers(metavar="COMMAND", required=True)
    show = command(group, "show", "growth_commands:show", "Show classes, support images, accuracy and versions")
    show.argument("classifier", "CLASSIFIER", "Classifier folder, or hf:OWNER/NAME[@REVISION]")
    add = _change(group, "add", "Add images to classes, or new classes", "Images that a class has already are ignored.")
    add.argument("support", "FOLDER", "Folder with one folder of images per class")
    add.switch("--skip-bad", "Leave out images that cannot be read, and list them")
    remove = _change(group, "remove", "Remove classes or support images", "Former versions keep them; see forget.")
    remove.option("--class", "Name of a class; repeatable", action="append", dest="classes", metavar="NAME")
    remove.option("--image", "Name of a support image; repeatable", action="append", dest="images", metavar="NAME")
    rename = _change(group, "rename", "Rename a class")
    rename.argument("former", "FORMER", "Name of the class", str)
    rename.argument("new", "NEW", "New name", str)
    merge = _change(group, "merge", "Add the classes and images of another classifier of the same meta-model")
    merge.argument("other", "OTHER", "Classifier folder, or hf:OWNER/NAME[@REVISION]")
    undo = command(group, "undo", "growth_commands:undo", "Return to the version before the last change")
    _target(undo)
    text = "Delete former versions and the features of images that only they have"
    forget = command(group, "forget", "growth_commands:forget", text)
    _target(forget)
    forget.switch("--pictures", "Delete all stored support images as well; their features are kept")


def _change(group: Any, name: str, text: str, more: str = "") -> options.Parser:
    description = f"{text}, as a new version that equals a classifier made of all images anew. {more}".strip()
    parser = command(group, name, f"growth_commands:{name}", text, description)
    _target(parser)
    return parser


def _target(parser: options.Parser) -> None:
    parser.argument("classifier", "CLASSIFIER", "Classifier folder")
    parser.option("--out", "Folder for the changed classifier (default: CLASSIFIER)", path)


def _push(commands: Any) -> None:
    push = command(
        commands,
        "push",
        "hub_command:push",
        "Upload a meta-model or classifier to the Hugging Face Hub",
        "Upload the files of a meta-model or classifier, and nothing else, to a repository of the Hugging Face Hub, "
        "which is made if missing; the card of an earlier push is replaced. Others use it as hf:OWNER/NAME. The access "
        "token comes from HF_TOKEN or `hf auth login`.",
        "Needs the extra hub.",
    )
    push.argument("bundle", "BUNDLE", "Folder of a run (its meta-model is uploaded), a meta-model or a classifier")
    push.argument("repository", "OWNER/NAME", "Repository", str)
    push.switch("--private", "Make the repository private, and refuse one that is public")
    push.switch("--dry-run", "Print the files that would be uploaded, without a connection")
    push.option("--revision", "Branch, made if missing (default: main)", metavar="BRANCH")
    push.option(
        "--results",
        "Result file of `metazoo evaluate --out` to show in the uploaded card; repeatable",
        path,
        action="append",
        metavar="RESULT.json",
    )
