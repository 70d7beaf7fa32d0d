"""What can be typed. Nothing heavy is imported here."""

import argparse
from typing import Any, NoReturn

from metazoo.cli import options
from metazoo.cli.options import decimals, natural, number, numbers, positive
from metazoo.errors import UsageError


class _Parser(argparse.ArgumentParser):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


def early_options() -> argparse.ArgumentParser:
    """The parser of what may stand anywhere in a command line and is read before the rest."""
    parser = _Parser(prog="metazoo", add_help=False)
    parser.add_argument("--debug", action="store_true", help="show where an error arose")
    parser.add_argument(
        "--plugin",
        metavar="PACKAGE",
        action="append",
        default=[],
        help="import an installed package or module that registers architectures, methods, heads, ...; repeatable",
    )
    return parser


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command; the parsed `command` names the function that does it, as `module:function`."""
    parser = _Parser(
        prog="metazoo",
        description="Data-free meta-learning: from a zoo of pre-trained classifiers to one few-shot learner.",
        epilog="--debug and --plugin may stand anywhere in a command line.",
        parents=[early_options()],
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and stop")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _demo(commands)
    zoo = commands.add_parser("zoo", help="build a zoo, look into it, check it", description="Build and keep a zoo.")
    _zoo(zoo.add_subparsers(metavar="COMMAND", required=True))
    methods = commands.add_parser(
        "methods",
        help="list the methods and their presets, or every option of one",
        description="List the methods and their presets. With a METHOD or --preset, write all options of one, each "
        "with its value and what it means, as a file that `metazoo train --config` takes.",
    )
    methods.add_argument("method", metavar="METHOD", nargs="?", help="whose options to list (default: tgr)")
    options.preset(methods)
    methods.set_defaults(command="train_commands:methods")
    _train(commands)
    measuring(commands)
    _adapt(commands)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        # Looked up only here: reading the installed packages takes time.
        from importlib.metadata import version

        print(f"metazoo {version('metazoo')}")
        parser.exit()


def _demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="the whole way on embedded data, in a few minutes",
        description="Build a zoo of glyph classifiers, learn a meta-model without data, and measure it honestly.",
    )
    demo.add_argument("--out", default="runs/demo", help="folder for all that is made (default: %(default)s)")
    demo.add_argument("--seed", type=natural, default=0, help="of all randomness (default: %(default)s)")
    options.workers(demo)
    demo.set_defaults(command="demo:demo")


def _zoo(commands: Any) -> None:
    build = commands.add_parser(
        "build",
        help="train small models on classes drawn from a data set",
        description="Bring OUT to hold --models models of this kind; what is there already is left alone.",
    )
    build.add_argument("out", metavar="OUT", help="zoo folder, made if missing")
    build.add_argument("--data", required=True, help=options.DATA_HELP)
    build.add_argument(
        "--arch", default="conv4", help="architecture, such as thin-resnet or resnet10 (default: %(default)s)"
    )
    build.add_argument("--models", type=positive, required=True, help="how many models of this kind OUT shall hold")
    build.add_argument("--ways", type=positive, default=5, help="classes of each model (default: %(default)s)")
    build.add_argument("--seed", type=natural, default=0, help="of all randomness (default: %(default)s)")
    build.add_argument("--domain", help="kind of images (default: the name of the data)")
    build.add_argument("--epochs", type=positive, default=60, help="passes over the images (default: %(default)s)")
    build.add_argument("--batch-size", type=positive, default=128, help="images a step (default: %(default)s)")
    build.add_argument("--learning-rate", type=number, help="of the first epochs (default: 0.01)")
    build.add_argument(
        "--shift", type=natural, help="mirror images at random and shift them by up to so many pixels (default: do not)"
    )
    build.add_argument("--width", type=positive, help="of the architecture (default: its own)")
    build.add_argument(
        "--input-size",
        type=positive,
        help="side in pixels (default: that of a pack; 84 for mini-imagenet and cub; else 32)",
    )
    build.add_argument(
        "--channels", type=int, choices=(1, 3), default=3, help="1: models see grey (default: %(default)s)"
    )
    add_recovered_images(build)
    options.images_per_class(build)
    options.executor(build)
    options.device(build)
    build.set_defaults(command="zoo_commands:build")
    adding(commands)
    for name, text in (("inspect", "list the models"), ("verify", "load and try every model; exit 0 if all are sound")):
        command = commands.add_parser(name, help=text, description=f"{text.capitalize()}.")
        command.add_argument("zoo", metavar="ZOO", help="zoo folder")
        if name == "verify":
            command.add_argument(
                "--images", help="a few labelled images, to see whether mean and std are right: " + options.DATA_HELP
            )
            command.add_argument("--seconds", type=number, default=120.0, help="that one model may take (default: 120)")
            command.add_argument("--memory", type=number, metavar="MB", help="likewise (default: most of what is free)")
        else:
            command.add_argument("--run", help="run on this zoo: show what it has recorded of each model")
        command.set_defaults(command=f"zoo_commands:{name}")
    change = commands.add_parser(
        "set",
        help="say what may be done with images recovered from models",
        description="Say what runs may do with the images that they recover from models; resumed ones obey too.",
    )
    change.add_argument("zoo", metavar="ZOO", help="zoo folder")
    change.add_argument(
        "names", metavar="MODEL", nargs="*", help="name, as `metazoo zoo inspect` lists it (all if none)"
    )
    add_recovered_images(change, required=True)
    change.set_defaults(command="zoo_commands:change")
    remove = commands.add_parser("remove", help="take models out", description="Take models out and delete them.")
    remove.add_argument("zoo", metavar="ZOO", help="zoo folder")
    remove.add_argument("names", metavar="MODEL", nargs="+", help="name, as `metazoo zoo inspect` lists it")
    remove.set_defaults(command="zoo_commands:remove")


def _train(commands: Any) -> None:
    train = commands.add_parser(
        "train",
        help="learn a meta-model from a zoo, without data",
        description="Learn one meta-model from a zoo, without a single training image.",
    )
    train.add_argument("--zoo", required=True, help="zoo folder")
    train.add_argument("--out", required=True, help="run folder, made if missing")
    train.add_argument("--method", help="see `metazoo methods` (default: tgr)")
    options.preset(train)
    train.add_argument(
        "--config", help="YAML file with the options that differ from the preset (of a resumed run: as it was begun)"
    )
    train.add_argument("--seed", type=natural, help="of all randomness (default: 0)")
    train.add_argument(
        "--no-images",
        dest="images",
        action="store_false",
        help="make no picture of recovered images, whatever the models allow; a resumed run keeps to it",
    )
    train.add_argument("--resume", action="store_true", help="go on with the run in OUT, or begin it")
    train.add_argument("--plan", action="store_true", help="say what time, memory and disk it would take, and stop")
    train.add_argument("--threads", type=positive, help="of torch for learning (default: 1, or as the run was begun)")
    options.executor(train)
    options.device(train, ", or as the run was begun")
    train.add_argument(
        "--precision",
        choices=options.PRECISIONS,
        help="of frozen models; the meta-model learns in float32 (default: bfloat16 on a GPU, else float32, or as the "
        "run was begun)",
    )
    train.set_defaults(command="train_commands:train")


def _adapt(commands: Any) -> None:
    adapt = commands.add_parser(
        "adapt",
        help="make a classifier of new classes from a few images of each",
        description="Make a classifier from a folder with one folder a class and a few images in each.",
    )
    adapt.add_argument("subject", metavar="RUN_OR_ZOO", help="folder of a run, a zoo or a meta-model")
    adapt.add_argument("--support", required=True, help="folder with one folder a class")
    adapt.add_argument("--out", required=True, help="classifier folder to write")
    adapt.add_argument("--overwrite", action="store_true", help="replace a classifier that is at OUT already")
    options.head(adapt)
    options.threads(adapt)
    options.device(adapt)
    adapt.set_defaults(command="classifier_commands:adapt")
    predict = commands.add_parser(
        "predict", help="classify images", description="Classify images with a classifier that adapt has made."
    )
    predict.add_argument("classifier", metavar="CLASSIFIER", help="folder that adapt has made")
    predict.add_argument("images", metavar="IMAGE_OR_FOLDER", nargs="+", help="folders are searched at any depth")
    predict.add_argument(
        "--format",
        choices=("table", "csv", "jsonl"),
        default="table",
        help="table, csv: the class; jsonl: the probability of every class (default: %(default)s)",
    )
    options.threads(predict)
    options.device(predict)
    predict.set_defaults(command="classifier_commands:predict")


# As in `metazoo.zoo`, which brings in torch; a test compares them.
PERMISSIONS = ("show", "keep", "discard")
EXAMPLE = (
    "{architecture: timm:convnext_atto, classes: [cat, dog], input_size: 32, mean: [0.485, 0.456, 0.406], "
    "std: [0.229, 0.224, 0.225], domain: pets}"
)


def add_recovered_images(command: argparse.ArgumentParser, **settings: Any) -> None:
    """The option for what may be done with recovered images."""
    command.add_argument(
        "--recovered-images",
        choices=PERMISSIONS,
        help="show: a run may keep and show them; keep: it may keep them, but show them nowhere; discard: it deletes "
        "them once it has finished (default: show)",
        **settings,
    )


def adding(commands: Any) -> None:
    """The command itself."""
    add = commands.add_parser(
        "add",
        help="add a model that was trained elsewhere, or a folder of them",
        description="Add a model of timm, torchvision, the Hugging Face Hub or a file. What its source does not say "
        "must be said here, or in a .yaml file of the same name beside the weights.",
        epilog=f"A file pets.yaml beside pets.safetensors may hold: {EXAMPLE}",
    )
    add.add_argument("zoo", metavar="ZOO", help="zoo folder, made if missing")
    add.add_argument(
        "source",
        metavar="SOURCE",
        nargs="?",
        help="timm:NAME[.TAG], torchvision:NAME[.WEIGHTS], hf:OWNER/NAME[@REVISION] (of timm or transformers), or a "
        ".safetensors, .pt, .pth or .bin file",
    )
    add.add_argument("--from-folder", metavar="DIR", help="add all weights of a folder, each described by a .yaml file")
    add.add_argument("--weights", metavar="FILE", help="with the weights of a model of timm or torchvision")
    add.add_argument("--pretrained", action="store_true", help="fetch the published weights of such a model instead")
    add.add_argument("--name", help="of the model in the zoo (default: from SOURCE)")
    add.add_argument("--arch", help="of the weights in a file, such as timm:convnext_atto or resnet18")
    add.add_argument(
        "--classes",
        metavar="FILE_OR_LIST",
        help="what its outputs stand for, in their order: cat,dog or a file with one a line, or imagenet-1k",
    )
    add.add_argument("--input-size", type=positive, help="side of its square input in pixels")
    add.add_argument("--channels", type=int, choices=(1, 3), help="of its input (default: 3)")
    add.add_argument("--mean", type=decimals, help="of each channel of images in [0, 1], such as 0.485,0.456,0.406")
    add.add_argument("--std", type=decimals, help="likewise, such as 0.229,0.224,0.225; one number is for all channels")
    add.add_argument("--domain", help="kind of images")
    add.add_argument("--licence", help="of the weights")
    add_recovered_images(add)
    add.set_defaults(command="zoo_commands:add")


def measuring(commands: Any) -> None:
    """Add the commands."""
    _evaluate(commands)
    _compare(commands)
    _report(commands)


def _evaluate(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="measure a run or an untrained zoo on unseen classes",
        description="Measure N-way K-shot accuracy. A zoo is measured as its untrained ensemble.",
    )
    evaluate.add_argument("subject", metavar="RUN_OR_ZOO", help="folder of a run, a zoo or a meta-model")
    evaluate.add_argument("--data", required=True, help=options.DATA_HELP + "; classes that no model has seen")
    evaluate.add_argument("--ways", type=positive, default=5, help="classes an episode (default: %(default)s)")
    evaluate.add_argument("--shots", type=numbers, default=(1, 5), help="support images a class (default: 1,5)")
    evaluate.add_argument("--queries", type=positive, default=15, help="query images a class (default: %(default)s)")
    evaluate.add_argument("--episodes", type=positive, default=1000, help="for each of --shots (default: %(default)s)")
    options.head(evaluate)
    evaluate.add_argument("--seed", type=natural, default=0, help="of the episodes (default: %(default)s)")
    evaluate.add_argument("--baselines", action="store_true", help="add the rows that any zoo offers")
    evaluate.add_argument("--zoo", help="zoo folder of the run, if it was moved")
    evaluate.add_argument(
        "--image-size",
        type=positive,
        help="side in pixels to read images at (default: that of a pack or cifar-fs, else the models' largest input)",
    )
    options.images_per_class(evaluate)
    evaluate.add_argument(
        "--exclude-known",
        action="store_true",
        help="leave out classes with the name of one that a model of the zoo was trained on, or the run selected by",
    )
    options.threads(evaluate)
    options.device(evaluate)
    evaluate.add_argument("--out", help="RESULT.json to write, with the episodes beside it")
    evaluate.add_argument("--overwrite", action="store_true", help="replace OUT where it is there already")
    evaluate.set_defaults(command="measure_commands:evaluate")


def _compare(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        help="compare what was measured on the same episodes, in pairs",
        description="Compare results that `metazoo evaluate --out` wrote, on the same episodes: differences in pairs.",
    )
    compare.add_argument(
        "rows",
        metavar="[NAME=]FILE[,FILE...]",
        nargs="+",
        help="RESULT.json; of several, such as those of other training seeds, the mean is compared",
    )
    compare.add_argument(
        "--against", metavar="NAME", help="row that all are compared with (default: the last one of the first file)"
    )
    compare.add_argument(
        "--format", choices=("table", "csv"), default="table", help="of the output (default: %(default)s)"
    )
    compare.set_defaults(command="measure_commands:compare_results")


def _report(commands: Any) -> None:
    report = commands.add_parser(
        "report",
        help="one HTML file on a run, to look at and to hand on",
        description="Write one HTML file on a run: its zoo, what it has recovered, grouped and learned, and how good "
        "that is. It needs nothing beside it, and no network.",
    )
    report.add_argument("run", metavar="RUN", help="folder of a run, finished or not")
    report.add_argument("results", metavar="RESULT", nargs="*", help="RESULT.json that `evaluate --out` has written")
    report.add_argument("--out", help="HTML file to write; replaces a report (default: report.html in RUN)")
    report.add_argument("--zoo", help="of the run, where it is not where it was any more")
    report.add_argument(
        "--no-images", dest="images", action="store_false", help="show no image that was recovered from a model"
    )
    report.set_defaults(command="measure_commands:report")
